"""Floor 5: who touched which video: sources, the search index, the query language, and index against ledger."""

from secguard.audit.index.elastic import ElasticIndex, ElasticServer
from secguard.audit.index.index import Cursor, Damage, Found, Index, Log, catch_up, reindex
from secguard.audit.index.rows import Row, row_of, rows_of
from secguard.audit.index.sqlite import SqliteIndex
from secguard.audit.query.parser import parse
from secguard.audit.query.query import Node, matches
from secguard.audit.reconciliation import Reconciled, compare, reconcile
from secguard.audit.search.answer import Hit, Page, search
from secguard.audit.sources.importer import ENCODINGS, Imported, Rejected, import_file

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
