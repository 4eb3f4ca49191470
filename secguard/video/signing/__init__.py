"""Signing: the modes, and the containers that SEIs are put into, one module each."""

from secguard.video.signing.modes import Mode

__all__ = ["Mode"]
