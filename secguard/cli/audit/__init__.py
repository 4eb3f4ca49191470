"""`secguard audit`: collect, search and reconcile access events; each command is one call of `secguard.audit`."""

from secguard.cli.lazy import LazyGroup

__all__ = ["audit"]

_HERE = "secguard.cli.audit"
# name -> (module, attribute, one-line help), in the order of an event's life.
_COMMANDS = {
    "import": (f"{_HERE}.access", "import_", "Import events from JSON lines."),
    "collect": (f"{_HERE}.collect", "collect", "Take events in from files, syslog and HTTP, as a service."),
    "rejected": (f"{_HERE}.collect", "rejected", "List records that were put aside."),
    "token": (f"{_HERE}.collect", "token", "Tokens with which platforms hand in events."),
    "search": (f"{_HERE}.access", "search", "Find events."),
    "reconcile": (f"{_HERE}.access", "reconcile", "Compare the index with the ledger, both ways."),
    "reindex": (f"{_HERE}.access", "reindex", "Build the index anew from the ledger."),
}

audit = LazyGroup(
    name="audit", table=_COMMANDS, help="Collect, search and reconcile access events.", no_args_is_help=True
)
