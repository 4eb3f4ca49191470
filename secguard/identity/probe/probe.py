"""A run: ask many endpoints, judge each as it answers, then all together."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from secguard.core import Axis, Finding, Outcome, Verdict, describe, finding, hint
from secguard.core.progress import Progress, silent
from secguard.identity.probe.judge import Judge, overall
from secguard.identity.probe.result import Endpoint
from secguard.identity.probe.run import Options, ask_all
from secguard.identity.probe.targets import Target, safe
from secguard.identity.records import DeviceRecord

__all__ = ["EXPIRY_BANDS", "Probed", "as_row", "expiry_bands", "probe"]

EXPIRY_BANDS = (0, 7, 30, 90, 180, 365, 730)
"""Days that divide the certificates by how long they are still good."""


@dataclass(slots=True)
class Probed:
    """What a run found.

    Attributes:
        subject: what was probed.
        at: the time that was judged for.
        endpoints: in the order they answered.
        missed: endpoints that the run did not come to before it was broken off.
        left_out: registered devices that have no usable address.
        seconds: how long it took.
        interrupted: the run was broken off.
        late: endpoints whose verdict changed after they had been told (a key found again elsewhere).
    """

    subject: str
    at: datetime
    endpoints: list[Endpoint] = field(default_factory=list)
    missed: Sequence[Target] = ()
    left_out: Sequence[DeviceRecord] = ()
    seconds: float = 0.0
    interrupted: bool = False
    late: list[Endpoint] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Endpoints that were asked."""
        return len(self.endpoints)

    @property
    def rate(self) -> float:
        """Endpoints a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def extra(self) -> list[Finding]:
        """Findings about devices that could not be probed."""
        missed = [finding("identity.endpoint.not-probed", str(target)) for target in self.missed]
        return missed + [
            finding("identity.endpoint.no-address", device.gbid, address=safe(device.address) or "-")
            for device in self.left_out
        ]

    def verdict(self, require: Iterable[Axis] = ()) -> Verdict:
        """The verdict over all."""
        return overall(self.subject, self.at, self.endpoints, require, self.extra())

    def outcomes(self) -> dict[str, int]:
        """How many passed, failed, and are inconclusive; devices without address are inconclusive."""
        found = Counter(item.outcome for item in self.endpoints)
        found[Outcome.UNKNOWN] += len(self.left_out) + len(self.missed)
        return {outcome.value: found[outcome] for outcome in Outcome}

    def codes(self) -> list[tuple[str, Outcome, int]]:
        """Each finding's code and worst outcome with the number of endpoints that have it, the most frequent first."""
        count: Counter[str] = Counter()
        worst: dict[str, Outcome] = {}
        order = (Outcome.PASS, Outcome.UNKNOWN, Outcome.FAIL)
        for item in self.endpoints:
            for code in {one.code for one in item.findings}:
                count[code] += 1
            for one in item.findings:
                worst[one.code] = max(worst.get(one.code, Outcome.PASS), one.outcome, key=order.index)
        for code, number in (("no-address", len(self.left_out)), ("not-probed", len(self.missed))):
            if number:
                count[f"identity.endpoint.{code}"] = number
                worst[f"identity.endpoint.{code}"] = Outcome.UNKNOWN
        return [
            (code, worst[code], number) for code, number in sorted(count.items(), key=lambda one: (-one[1], one[0]))
        ]

    def digest(self) -> str:
        """SHA-256 over the results in JSON, by target: names this result in the ledger."""
        rows = sorted((as_row(item) for item in self.endpoints), key=lambda row: (row["target"], row["device"]))
        return hashlib.sha256(
            msgspec.json.encode([rows, [item.gbid for item in self.left_out], [str(item) for item in self.missed]])
        ).hexdigest()


def probe(
    targets: Sequence[Target],
    judge: Judge,
    options: Options,
    *,
    subject: str,
    at: datetime,
    left_out: Sequence[DeviceRecord] = (),
    progress: Progress = silent,
    tell: Callable[[Endpoint], None] | None = None,
    stop: threading.Event | None = None,
) -> Probed:
    """Ask all endpoints and judge them; an interrupt (SIGINT, or `stop`) ends the run and keeps what there is.

    Args:
        targets: endpoints, each once.
        judge: what is believed, and the registry.
        options: how they are asked.
        subject: what is probed, for the verdict.
        at: the time to judge for, aware.
        left_out: devices that have no usable address.
        progress: called after each endpoint.
        tell: gets each endpoint as soon as it is judged.
        stop: ends the run when set.
    """
    made = Probed(subject, at, left_out=left_out)
    stop = stop or threading.Event()
    began = time.monotonic()
    told: dict[Target, int] = {}
    try:
        for target, answer in ask_all(targets, options, stop):
            item = judge.endpoint(target, answer)
            made.endpoints.append(item)
            told[target] = len(item.findings)
            if tell is not None:
                tell(item)
            progress(len(made.endpoints), len(targets), "endpoints")
    except KeyboardInterrupt:
        stop.set()
        made.interrupted = True
        progress(len(targets), len(targets), "endpoints")  # puts the terminal back in order
    made.seconds = time.monotonic() - began
    counts = list(told.values())
    made.late = [item for item, count in zip(made.endpoints, counts, strict=False) if len(item.findings) != count]
    made.missed = [target for target in targets if target not in told]
    made.interrupted = made.interrupted or bool(made.missed)
    return made


def expiry_bands(probed: Probed) -> list[int]:
    """How many certificates have ended, end within 7, 30, 90, 180, 365, 730 days, and later."""
    counts = [0] * (len(EXPIRY_BANDS) + 1)
    for item in probed.endpoints:
        if item.certificate is not None:
            left = (datetime.fromisoformat(item.certificate.not_after) - probed.at).total_seconds() / 86400
            counts[sum(left >= limit for limit in EXPIRY_BANDS)] += 1
    return counts


def as_row(item: Endpoint, lang: str = "") -> dict[str, Any]:
    """An endpoint as JSON; with `lang`, findings carry their texts."""
    row: dict[str, Any] = {
        "target": item.target,
        "outcome": item.outcome,
        "device": item.device,
        "address": item.address,
        "state": item.state,
        "protocol": item.protocol,
        "cipher": item.cipher,
        "certificate": msgspec.to_builtins(item.certificate) if item.certificate else None,
        "clients": item.clients,
        "active": item.active,
        "axes": {axis.value: outcome.value for axis, outcome in item.axes.items()},
    }
    findings: list[dict[str, Any]] = []
    for found in item.findings:
        one: dict[str, Any] = {"code": found.code, "axis": found.axis, "outcome": found.outcome, "where": found.where}
        if lang:
            one |= {"text": describe(found, lang), "hint": hint(found, lang)}
        findings.append({**one, "data": dict(found.data)})
    return {**row, "findings": findings}
