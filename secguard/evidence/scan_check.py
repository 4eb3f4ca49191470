"""The isolation scans of a bundle: are they what the log recorded, and were zones apart?

Whether what is there can be relied on is said on integrity and provenance, as of every file. What a scan shows is said
on conformance, in at least one finding (`scan_verdict`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from secguard.core import (
    Axis,
    Finding,
    FormatError,
    Outcome,
    RefusedError,
    TimeSource,
    UsageError,
    finding,
    rfc3339,
)
from secguard.evidence.custody import SCANNED, compare
from secguard.evidence.manifest import BundleManifest, InForce, ListedScan
from secguard.evidence.scan_verdict import ROLES, WHEN, JudgedScan, conclude, roles_of
from secguard.evidence.scans import PLACE, STARTED, own_scan, scan_members
from secguard.isolation.evidence.handout import Handout
from secguard.isolation.judge.result import ScanHead, recorded_codes
from secguard.ledger import CheckedReceipt
from secguard.trust import Purpose, TrustPolicy, common_name, parse_certificates

__all__ = ["JudgedScans", "judge_scans", "scan_receipts"]

_SLACK = timedelta(minutes=5)


@dataclass(slots=True)
class JudgedScans:
    """The answer about all scans of a bundle; `lacking` are axes for which something could not be examined."""

    scans: list[JudgedScan] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lacking: set[Axis] = field(default_factory=set)

    @property
    def apart(self) -> bool:
        """Whether the scans show that zones were apart, both when the recording ended and at the export."""
        roles = {name for scan in self.scans for name in scan.listed.in_force}
        return roles == set(ROLES) and all(scan.outcome is Outcome.PASS for scan in self.scans)


def scan_receipts(
    manifest: BundleManifest, receipts: Sequence[CheckedReceipt]
) -> tuple[list[CheckedReceipt], list[CheckedReceipt]]:
    """Receipts in two parts: those on the recording, and those of the scans that are listed."""
    entries = {entry for scan in manifest.scans for entry in (scan.started, scan.finished)}
    own = {item.index for item in receipts if item.index in entries and item.event.kind in (STARTED, SCANNED)}
    return [item for item in receipts if item.index not in own], [item for item in receipts if item.index in own]


def judge_scans(
    manifest: BundleManifest,
    members: Mapping[str, bytes | None],
    receipts: Sequence[CheckedReceipt] | None,
    trust: TrustPolicy,
    *,
    operator: Sequence[x509.Certificate],
    ended: datetime,
    exported: datetime,
    at: datetime | None = None,
    asked: bool = False,
) -> JudgedScans:
    """Judge the scans of a bundle.

    Args:
        manifest: lists them.
        members: the bundle's files.
        receipts: those of the scans that hold (`scan_receipts`); None if none could be checked.
        trust: judges the certificates of who signed a result.
        operator: the chain of the bundle's operator, who may have signed it.
        ended: when the recording ended.
        exported: when it was exported.
        at: judge certificates for this time; default: when the log recorded the scan.
        asked: somebody asks whether zones were apart: a bundle without any scan is an answer too.
    """
    answer = JudgedScans()
    by_entry = {item.index: item for item in receipts or ()}
    times: dict[InForce, datetime] = {"recording": ended, "export": exported}
    listed = {item.name for item in manifest.members}
    for scan in manifest.scans:
        began, over = by_entry.get(scan.started), by_entry.get(scan.finished)
        examined = _Examined(scan, answer)
        if began is None or over is None:
            if receipts is not None:
                examined.say("evidence.scan.unrecorded")
        else:
            examined.acts(began, over, times)
            if (handout := examined.files(members, listed)) is not None:
                examined.document(handout, began, over)
                examined.signature(handout, operator, trust, over.event.time, at)
        answer.scans.append(examined.conclude(began, over, times, manifest.scan_every))
    answer.findings += _listing(manifest, members, asked)
    return answer


def _listing(manifest: BundleManifest, members: Mapping[str, bytes | None], asked: bool) -> list[Finding]:
    """Whether each place in time has one scan, in the order of the log, and no file belongs to none."""
    found: list[Finding] = []
    roles = [name for scan in sorted(manifest.scans, key=lambda one: one.finished) for name in scan.in_force]
    if roles not in ([], ["export"], list(ROLES)):
        found.append(finding("evidence.scan.foreign", PLACE))
    known = {name for scan in manifest.scans if scan.kept for name in scan_members(scan.finished)}
    found += [
        finding("evidence.scan.unrecorded", name)
        for name in sorted(members)
        if name.startswith(PLACE) and name not in known
    ]
    missing = tuple(name for name in ROLES if name not in roles)
    if missing and (roles or asked):
        found.append(finding("evidence.scan.none", when=WHEN[missing]))
    return found


class _Examined:
    """One scan under examination; what is wrong with it goes into the answer."""

    def __init__(self, scan: ListedScan, answer: JudgedScans) -> None:
        self._scan, self._answer = scan, answer
        self._place = f"{PLACE}{scan.finished:012}"
        self._result: ScanHead | None = None
        self._signer = ""
        self._sound = True

    def say(self, code: str, where: str = "", **data: Any) -> None:
        """Something is wrong with what the bundle holds of it."""
        self._answer.findings.append(finding(code, where or self._place, **data))
        self._sound = False

    def _compare(self, item: CheckedReceipt, *pairs: tuple[str, object, object]) -> None:
        found = compare(item, pairs)
        self._answer.findings += found
        self._sound = self._sound and not found

    def acts(self, began: CheckedReceipt, over: CheckedReceipt, times: Mapping[InForce, datetime]) -> None:
        """What the log recorded, against what the bundle says of it."""
        scan, event = self._scan, over.event
        if not own_scan(began.event, event):
            self.say("evidence.scan.foreign")
        self._compare(
            over,
            ("time", rfc3339(event.time), scan.recorded),
            ("outcome", event.data.get("outcome"), scan.outcome),
            ("result_sha256", event.data.get("result_sha256"), scan.result_sha256),
        )
        for name in scan.in_force:
            if event.time > times[name]:
                self.say("evidence.scan.late", recorded=rfc3339(event.time), when=WHEN[name,], at=rfc3339(times[name]))

    def files(self, members: Mapping[str, bytes | None], listed: set[str]) -> Handout | None:
        """What was handed out of it, read and proven to be its signer's."""
        if not self._scan.kept:
            return None
        *names, chain = scan_members(self._scan.finished)
        parts = [members.get(name) for name in names]
        for name, part in zip(names, parts, strict=True):
            if part is None:
                self._sound = False
                if name not in listed:  # where it is, that is said of every file
                    self.say("evidence.member.missing", name)
        result, files, signer = parts
        if result is None or files is None or signer is None:
            return None
        try:
            certificates = parse_certificates(members.get(chain) or b"", chain) if chain in members else []
            handout = Handout(result, files, signer, tuple(certificates))
            self._result = handout.open()
        except (FormatError, RefusedError, UsageError) as error:
            self.say("evidence.member.malformed", reason=error.message)
            return None
        return handout

    def document(self, handout: Handout, began: CheckedReceipt, over: CheckedReceipt) -> None:
        """The result, against what the log recorded."""
        result, data = self._result, over.event.data
        assert result is not None
        self._compare(
            over,
            ("subject", over.event.subject, f"sha256:{result.plan}"),
            ("policy", began.event.data.get("policy", result.policy), result.policy),
            ("outcome", data.get("outcome"), result.outcome),
            ("result_sha256", data.get("result_sha256"), hashlib.sha256(handout.result).hexdigest()),
            ("findings", data.get("findings"), recorded_codes([(item.code, item.outcome) for item in result.findings])),
        )
        if result.at - over.event.time > _SLACK:
            self._compare(over, ("time", rfc3339(over.event.time), rfc3339(result.at)))

    def signature(
        self,
        handout: Handout,
        operator: Sequence[x509.Certificate],
        trust: TrustPolicy,
        recorded: datetime,
        at: datetime | None,
    ) -> None:
        """Who signed it, if certificates say so; else the log alone vouches for it."""
        chain = handout.chain or (tuple(operator) if handout.is_of(operator) else ())
        if not chain:
            return
        source = TimeSource.LEDGER if at is None else None
        judged = trust.judge_chain(chain, Purpose.OPERATOR, at or recorded, source=source)
        if not handout.chain and not judged.believed:  # the key is older than the operator's certificate of today
            return
        self._answer.findings += [
            replace(item, where=f"{self._place}: {item.where}" if item.where else self._place)
            for item in judged.findings
        ]
        self._answer.lacking |= {Axis.PROVENANCE, Axis.REVOCATION} - judged.examined
        self._sound = self._sound and judged.believed and judged.unrevoked
        self._signer = common_name(chain[0]) or ""

    def conclude(
        self, began: CheckedReceipt | None, over: CheckedReceipt | None, times: Mapping[InForce, datetime], every: str
    ) -> JudgedScan:
        """Whether it shows that zones were apart."""
        if not self._sound or began is None or over is None:
            self.say("evidence.scan.unsound", when=WHEN[roles_of(self._scan)])
            return JudgedScan(self._scan, Outcome.UNKNOWN)
        shown, found = conclude(
            self._scan, began.event, over.event, self._result, times=times, every=every, signer=self._signer
        )
        self._answer.findings += [replace(item, where=self._place) for item in found]
        return shown
