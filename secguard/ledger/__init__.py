"""Floor 3: the append-only log under everything: salted commitments in a C2SP tlog-tiles log, bodies apart."""

from secguard.ledger.anchor import Anchor
from secguard.ledger.export import Exported, export_log
from secguard.ledger.ledger import Bodies, Ledger
from secguard.ledger.missing import Missing
from secguard.ledger.note import Checkpoint, NoteKey, open_checkpoint, parse_checkpoint
from secguard.ledger.pruning import ranges_of
from secguard.ledger.receipts import (
    CheckedReceipt,
    Receipts,
    check_receipt,
    check_receipts,
    receipt_chain,
    receipt_checkpoint,
    receipt_crls,
    receipt_origin,
    receipt_witnesses,
)
from secguard.ledger.sequencer import serve
from secguard.ledger.verify import verify_log

__all__ = [
    "Anchor",
    "Bodies",
    "CheckedReceipt",
    "Checkpoint",
    "Exported",
    "Ledger",
    "Missing",
    "NoteKey",
    "Receipts",
    "check_receipt",
    "check_receipts",
    "export_log",
    "open_checkpoint",
    "parse_checkpoint",
    "ranges_of",
    "receipt_chain",
    "receipt_checkpoint",
    "receipt_crls",
    "receipt_origin",
    "receipt_witnesses",
    "serve",
    "verify_log",
]
