"""Floor 0: what every room shares: errors, verdicts, the findings catalogue, time, progress and limits."""

from secguard.core.clock import Clock, FixedClock, SystemClock, TimeSource, parse_time, rfc3339
from secguard.core.errors import FormatError, RefusedError, SecguardError, SystemPartError, UsageError
from secguard.core.findings import CatalogueEntry, catalogue, describe, finding, hint
from secguard.core.progress import Progress, Throttle, silent
from secguard.core.verdict import Axis, Finding, Outcome, Verdict, judge

__all__ = [
    "Axis",
    "CatalogueEntry",
    "Clock",
    "Finding",
    "FixedClock",
    "FormatError",
    "Outcome",
    "Progress",
    "RefusedError",
    "SecguardError",
    "SystemClock",
    "SystemPartError",
    "Throttle",
    "TimeSource",
    "UsageError",
    "Verdict",
    "catalogue",
    "describe",
    "finding",
    "hint",
    "judge",
    "parse_time",
    "rfc3339",
    "silent",
]
