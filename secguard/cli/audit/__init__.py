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
    "search": (f"{_HERE}.search", "search", "Find, count and export events."),
    "index": (f"{_HERE}.index", "index", "Bring the index up to date, or follow the ledger with it."),
    "reconcile": (f"{_HERE}.index", "reconcile", "Compare the index with the ledger both ways, and with witnesses."),
    "reindex": (f"{_HERE}.index", "reindex", "Build the index anew from the ledger."),
    "report": (f"{_HERE}.report", "report", "Report who accessed which video; the register to print."),
    "prune": (f"{_HERE}.retention", "prune", "Delete events that are older than the policy allows."),
    "hold": (f"{_HERE}.retention", "hold", "Keep events for a case, whatever their age."),
}

audit = LazyGroup(
    name="audit", table=_COMMANDS, help="Collect, search and reconcile access events.", no_args_is_help=True
)
