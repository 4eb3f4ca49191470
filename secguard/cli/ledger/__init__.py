"""`secguard ledger`: verify the log, sign checkpoints, hand out receipts and check them, witnesses, mirrors."""

from secguard.cli.lazy import LazyGroup

__all__ = ["ledger"]

_HERE = "secguard.cli.ledger"
_COMMANDS = {
    "verify": (f"{_HERE}.verify", "verify_", "Verify the whole log, and hold it against its witnesses."),
    "checkpoint": (f"{_HERE}.publish", "checkpoint_", "Sign a checkpoint of everything recorded."),
    "export": (f"{_HERE}.publish", "export_", "Copy checkpoint and tiles, no bodies, for a web server."),
    "key": (f"{_HERE}.publish", "key_", "Print the log's verifier keys."),
    "prove": (f"{_HERE}.receipts", "prove_", "Write an offline receipt of an event."),
    "check-receipt": (f"{_HERE}.receipts", "check_receipt_", "Check a receipt, offline."),
    "witness": (f"{_HERE}.witness", "witness", "Be a witness of logs, or ask those of this one."),
}

ledger = LazyGroup(
    name="ledger", table=_COMMANDS, help="The tamper-evident log under everything.", no_args_is_help=True
)
