"""Floor 8: one process a site: sequences the log, keeps the index near, publishes; serves EST and status."""

from secguard.service.network import Places
from secguard.service.run import run_service

__all__ = ["Places", "run_service"]
