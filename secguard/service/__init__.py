"""Floor 8: one long-running process a site: sequences the log, keeps the index near, publishes checkpoints."""

from secguard.service.run import run_service

__all__ = ["run_service"]
