"""Floor 5: who touched which video: sources, the search index, the query language, and index against ledger."""

from secguard.audit.answer import Hit, Page, search
from secguard.audit.elastic import ElasticIndex, ElasticServer
from secguard.audit.importer import ENCODINGS, Imported, Rejected, import_file
from secguard.audit.index import Cursor, Damage, Found, Index, Log, catch_up, reindex
from secguard.audit.parser import parse
from secguard.audit.query import Node, matches
from secguard.audit.reconciliation import Reconciled, compare, reconcile
from secguard.audit.rows import Row, row_of, rows_of
from secguard.audit.sqlite import SqliteIndex

__all__ = [
    "ENCODINGS",
    "Cursor",
    "Damage",
    "ElasticIndex",
    "ElasticServer",
    "Found",
    "Hit",
    "Imported",
    "Index",
    "Log",
    "Node",
    "Page",
    "Reconciled",
    "Rejected",
    "Row",
    "SqliteIndex",
    "catch_up",
    "compare",
    "import_file",
    "matches",
    "parse",
    "reconcile",
    "reindex",
    "row_of",
    "rows_of",
    "search",
]
