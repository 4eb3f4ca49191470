"""Verifying a whole log."""

from secguard.ledger.verify.log import verify_log

__all__ = ["verify_log"]
