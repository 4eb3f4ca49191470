"""The main job end to end in a fresh workspace: what `secguard demo` runs, step by step."""

from secguard.workspace.demo.run import DemoResult, Step, run_demo

__all__ = ["DemoResult", "Step", "run_demo"]
