"""Floor 5: who touched which video: sources, the search index, the query language, and index against ledger."""

import importlib
from typing import TYPE_CHECKING, Any

from secguard.audit.index.following import catch_up, reindex
from secguard.audit.index.index import Counted, Cursor, Damage, Found, Health, Index, Log
from secguard.audit.index.rows import Row, row_of, rows_of
from secguard.audit.index.sqlite import SqliteIndex
from secguard.audit.query.groups import UNITS, ByField, ByTime, Grouping, by_time, parse_field
from secguard.audit.query.parser import parse
from secguard.audit.query.query import Node, matches
from secguard.audit.reconciliation import Reconciled, compare, reconcile
from secguard.audit.search.answer import Answer, Asker, Counts, Hit, Page, Reach, search

if TYPE_CHECKING:
    from secguard.audit.index.elastic import ElasticIndex, ElasticServer
    from secguard.audit.sources.importer import ENCODINGS, Imported, Rejected, import_file

__all__ = [
    "ENCODINGS",
    "UNITS",
    "Answer",
    "Asker",
    "ByField",
    "ByTime",
    "Counted",
    "Counts",
    "Cursor",
    "Damage",
    "ElasticIndex",
    "ElasticServer",
    "Found",
    "Grouping",
    "Health",
    "Hit",
    "Imported",
    "Index",
    "Log",
    "Node",
    "Page",
    "Reach",
    "Reconciled",
    "Rejected",
    "Row",
    "SqliteIndex",
    "by_time",
    "catch_up",
    "compare",
    "import_file",
    "matches",
    "parse",
    "parse_field",
    "reconcile",
    "reindex",
    "row_of",
    "rows_of",
    "search",
]

# What a search on SQLite does not need (TLS, among it) is imported when it is used.
_LATER = {
    "ElasticIndex": "secguard.audit.index.elastic",
    "ElasticServer": "secguard.audit.index.elastic",
    "ENCODINGS": "secguard.audit.sources.importer",
    "Imported": "secguard.audit.sources.importer",
    "Rejected": "secguard.audit.sources.importer",
    "import_file": "secguard.audit.sources.importer",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
