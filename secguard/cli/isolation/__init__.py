"""`secguard isolation`: prove with packets that zones are separated; a command is one call of `secguard.isolation`."""

from secguard.cli.lazy import LazyGroup

__all__ = ["isolation"]

_HERE = "secguard.cli.isolation"
# name -> (module, attribute, one-line help), in the order of a scan's life.
_COMMANDS = {
    "lint": (f"{_HERE}.policy", "lint", "Check a policy: everything that is wrong, by line."),
    "plan": (f"{_HERE}.plan", "plan", "Compile a policy into a signed plan."),
    "agent": (f"{_HERE}.agent", "agent", "Be one end of a scan: over HTTPS, or with a plan in a file."),
    "run": (f"{_HERE}.run", "run_", "Probe by a policy, from both ends, and judge."),
    "resume": (f"{_HERE}.resume", "resume_", "Go on with a run that was interrupted."),
    "status": (f"{_HERE}.schedule", "status", "Say which scans are due, and which were missed."),
    "judge": (f"{_HERE}.scan", "judge_", "Judge a plan and the agents' observations."),
    "verify": (f"{_HERE}.folders", "verify", "Check the evidence of a scan, byte by byte."),
    "list": (f"{_HERE}.folders", "list_", "List the scans that the workspace keeps."),
    "diff": (f"{_HERE}.drift", "diff", "Compare two scans, or one with the baseline."),
    "baseline": (f"{_HERE}.drift", "baseline", "Make a scan the baseline, or say which one it is."),
    "findings": (f"{_HERE}.drift", "findings", "List what scans found and nothing closed yet."),
    "close": (f"{_HERE}.drift", "close", "Close a finding under a case number."),
    "lab": (f"{_HERE}.scan", "lab_", "Scan a lab of three zones and a firewall."),
}

isolation = LazyGroup(
    name="isolation", table=_COMMANDS, help="Prove with packets that zones are separated.", no_args_is_help=True
)
