"""How much of the platform's catalog is in the register: one device, one record.

Certificates against our own register hide the cameras that nobody registered, so the denominator is the catalog.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

import msgspec

from secguard.core import Axis, Finding, Outcome, Progress, Throttle, Verdict, finding, judge, silent
from secguard.identity.inventory.kinds import Kind, kind_of
from secguard.identity.inventory.places import inside
from secguard.identity.inventory.policy import RegisterPolicy
from secguard.identity.inventory.rows import Row, Source, told, totals
from secguard.identity.records import DeviceRecord, DeviceStatus
from secguard.identity.registry.devices import Certified

__all__ = ["MAX_NAMED", "MEASURES", "Coverage", "Rate", "Why", "compare", "per_cent"]

MEASURES = ("registered", "complete", "located", "certified")
"""What is measured of every entry of the catalog."""
MAX_NAMED = 1000
"""Findings of one code that name a device each; the exceptions themselves are never cut."""


class Rate(msgspec.Struct):
    """How many of `total` entries pass a measure; `unknown` cannot be told."""

    total: int = 0
    passed: int = 0
    unknown: int = 0


class Why(msgspec.Struct, frozen=True):
    """One exception: a device, its name, the measure it misses, and the finding's code and values."""

    gbid: str
    name: str
    measure: str
    code: str
    outcome: str
    data: dict[str, str] = {}


def per_cent(part: int, whole: int) -> float:
    """Per cent with one decimal, rounded down: 100 only if nothing is missing; 0 of 0 is 0."""
    return (part * 1000 // whole) / 10 if whole else 0.0


_ORDER = ("registered", "catalog", "certified", "located", "complete")


@dataclass(slots=True)
class Coverage:
    """A comparison.

    Attributes:
        at: the time it holds for.
        area: prefix of the IDs that were looked at; empty: all.
        entries: entries of the catalog that count, each ID once.
        rates: measure -> rate, over `entries`.
        areas: area (6 digits) -> measure -> rate.
        types: type code -> measure -> rate.
        exceptions: why entries miss a measure, and what else is not as it should be, by ID.
        skipped: kind -> entries of the catalog that do not count.
        ghosts: registered devices, in service, that the catalog does not name.
        offline: entries that the platform does not see now.
        datums: datum -> devices with coordinates.
        boundless: area without bounds -> devices with coordinates in it.
        registry: SHA-256 over the records and certificates that were compared, hex.
        target: per cent.
        verdict: the answer.
    """

    at: datetime
    area: str = ""
    entries: int = 0
    rates: dict[str, Rate] = field(default_factory=dict)
    areas: dict[str, dict[str, Rate]] = field(default_factory=dict)
    types: dict[str, dict[str, Rate]] = field(default_factory=dict)
    exceptions: list[Why] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    ghosts: int = 0
    offline: int = 0
    datums: Counter[str] = field(default_factory=Counter)
    boundless: Counter[str] = field(default_factory=Counter)
    registry: str = ""
    target: float = 100.0
    verdict: Verdict | None = None


def compare(
    source: Source,
    records: Iterable[DeviceRecord],
    certificates: Iterable[Certified],
    policy: RegisterPolicy,
    at: datetime,
    *,
    issuers: Mapping[str, tuple[str, str]],
    area: str = "",
    target: float | None = None,
    require: Iterable[Axis] = (),
    progress: Progress = silent,
) -> Coverage:
    """Compare a catalog with the register.

    Args:
        source: the catalog as read.
        records: the whole register, by ID.
        certificates: those of devices that were ever in force, by device.
        policy: what counts, what is owed, and the ground of each area.
        at: the time for which certificates must be valid, aware.
        issuers: CA -> (not before, not after), RFC 3339; a CA that is not among them does not count.
        area: look at IDs that start so only.
        target: per cent; None: the policy's.
        require: axes that decide; by default coverage.
        progress: called with entries done.
    """
    result = Coverage(at, area, target=policy.target if target is None else target)
    digest = hashlib.sha256()
    known: dict[str, DeviceRecord] = {}
    for record in records:
        known[record.gbid] = record
        digest.update(msgspec.json.encode(record))
    valid: dict[str, dict[str, str]] = {}  # device -> nothing, or why not
    for certificate in certificates:
        digest.update(msgspec.json.encode(certificate))
        if valid.get(certificate.device) != {}:
            valid[certificate.device] = _why_invalid(certificate, at, issuers)
    result.registry = digest.hexdigest()
    named = _entries(source, policy, result)
    counted = Throttle(progress)
    for number, (gbid, row) in enumerate(named.items()):
        if number % 500 == 0:
            counted(number, len(named), "devices")
        _measure(result, policy, row, known.get(gbid), valid.get(gbid))
    counted(len(named), len(named), "devices")
    result.entries = len(named)
    for name in MEASURES:
        result.rates.setdefault(name, Rate())
    for gbid, record in known.items():
        counts = gbid.startswith(area) and policy.counts(gbid[10:13]) and record.status != DeviceStatus.RETIRED
        if counts and gbid not in named:
            result.ghosts += 1
            _except(result, gbid, record.name, "catalog", "ghost", status=record.status)
    for place, count in sorted(result.boundless.items()):
        code, unknown = "no-bounds", Outcome.UNKNOWN
        _except(result, place, "", "located", code, outcome=unknown, area=place, count=str(count))
    result.exceptions.sort(key=lambda item: (_ORDER.index(item.measure), item.code, item.gbid))
    result.verdict = _judge(source, result, policy, require)
    return result


def _entries(source: Source, policy: RegisterPolicy, result: Coverage) -> dict[str, Row]:
    """The entries that count, each ID once."""
    named: dict[str, Row] = {}
    for row in source.rows:
        gbid = row.values.get("gbid", "").strip().lstrip("'")
        kind = kind_of(gbid)
        if kind is Kind.OTHER and not (len(gbid) == 20 and gbid.isascii() and gbid.isdigit()):
            if not result.area:
                _except(
                    result,
                    gbid[:40] or row.where,
                    row.values.get("name", "")[:128],
                    "catalog",
                    "not-an-id",
                    outcome=Outcome.UNKNOWN,
                    place=row.where,
                )
            continue
        if not gbid.startswith(result.area):
            continue
        if kind is Kind.DIRECTORY or not policy.counts(gbid[10:13]):
            result.skipped[kind] += 1
        elif gbid in named:
            if told(row) != told(named[gbid]):
                _except(result, gbid, _name(row), "catalog", "duplicate", first=named[gbid].where, second=row.where)
        else:
            named[gbid] = row
            if row.values.get("presence", "").strip().upper() in {"OFF", "OFFLINE"}:
                result.offline += 1
    return named


def _name(row: Row) -> str:
    return "".join(c for c in row.values.get("name", "").strip()[:128] if c.isprintable())


def _except(
    result: Coverage, gbid: str, name: str, measure: str, code: str, *, outcome: Outcome = Outcome.FAIL, **data: str
) -> None:
    result.exceptions.append(Why(gbid, name, measure, f"identity.coverage.{code}", outcome, data))


def _count(result: Coverage, gbid: str, measure: str, outcome: Outcome) -> None:
    for rates in (
        result.rates,
        result.areas.setdefault(gbid[:6], {}),
        result.types.setdefault(gbid[10:13], {}),
    ):
        rate = rates.get(measure)
        if rate is None:
            rate = rates[measure] = Rate()
        rate.total += 1
        rate.passed += outcome is Outcome.PASS
        rate.unknown += outcome is Outcome.UNKNOWN


def _measure(
    result: Coverage, policy: RegisterPolicy, row: Row, record: DeviceRecord | None, certified: dict[str, str] | None
) -> None:
    gbid, name = row.values["gbid"].strip().lstrip("'"), _name(row)
    if record is None or record.status == DeviceStatus.RETIRED:
        _except(result, gbid, name, "registered", "unregistered" if record is None else "retired")
        for measure in MEASURES:
            _count(result, gbid, measure, Outcome.FAIL)
        return
    name = record.name or name
    _count(result, gbid, "registered", Outcome.PASS)
    empty = [item for item in policy.mandatory if getattr(record, item) in {"", None}]
    _count(result, gbid, "complete", Outcome.FAIL if empty else Outcome.PASS)
    if empty:
        _except(result, gbid, name, "complete", "incomplete", fields=", ".join(empty))
    _count(result, gbid, "located", _locate(result, policy, record, name))
    _count(result, gbid, "certified", Outcome.PASS if certified == {} else Outcome.FAIL)
    if certified != {}:
        why: dict[str, Any] = dict(certified or {"code": "uncertified"})
        code = why.pop("code")
        _except(result, gbid, name, "certified", code, **why)


def _locate(result: Coverage, policy: RegisterPolicy, record: DeviceRecord, name: str) -> Outcome:
    gbid = record.gbid
    if record.longitude is None or record.latitude is None:
        _except(result, gbid, name, "located", "unlocated")
        return Outcome.FAIL
    result.datums[record.datum or "unknown"] += 1
    bounds = policy.bounds(gbid)
    point = f"{record.longitude:.6f}, {record.latitude:.6f}"
    if bounds is None:
        result.boundless[gbid[:6]] += 1
        return Outcome.UNKNOWN
    outcome = inside(bounds, record.longitude, record.latitude, record.datum)
    if outcome is Outcome.FAIL:
        _except(result, gbid, name, "located", "outside", point=point, datum=record.datum or "unknown", area=gbid[:6])
    elif outcome is Outcome.UNKNOWN:
        _except(result, gbid, name, "located", "datum", outcome=outcome, point=point, area=gbid[:6])
    return outcome


def _why_invalid(certificate: Certified, at: datetime, issuers: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Empty if a certificate was in force at a time, else the code and the values of its finding."""
    since = certificate.revoked
    if since is not None and datetime.fromisoformat(since) <= at:
        return {"code": "revoked", "since": since, "crl_reason": certificate.reason or "unspecified"}
    if at < datetime.fromisoformat(certificate.not_before):
        return {"code": "early", "start": certificate.not_before}
    if at > datetime.fromisoformat(certificate.not_after):
        return {"code": "expired", "end": certificate.not_after}
    start, end = issuers.get(certificate.issuer, ("", ""))
    if not start or not datetime.fromisoformat(start) <= at <= datetime.fromisoformat(end):
        return {"code": "issuer", "ca": certificate.issuer}
    return {}


def _reaches(part: int, whole: int, target: float) -> bool:
    """Tell whether a part is a target's per cent, reckoned with the decimal figures that people wrote."""
    return part * 100 >= Fraction(str(target)) * whole


def _judge(source: Source, result: Coverage, policy: RegisterPolicy, require: Iterable[Axis]) -> Verdict:
    reached = {
        name: rate.total > 0 and _reaches(rate.passed, rate.total, result.target) for name, rate in result.rates.items()
    }
    named: Counter[str] = Counter()
    findings: list[Finding] = []
    for name in policy.measures:
        rate = result.rates[name]
        if not reached[name] and rate.total:
            open_ = _reaches(rate.passed + rate.unknown, rate.total, result.target)
            findings.append(
                finding(
                    f"identity.coverage.{name}",
                    name,
                    outcome=Outcome.UNKNOWN if open_ else Outcome.FAIL,
                    percent=per_cent(rate.passed, rate.total),
                    passed=rate.passed,
                    total=rate.total,
                    unknown=rate.unknown,
                    target=f"{result.target:g}",
                )
            )
    if not result.entries:
        findings.append(finding("identity.coverage.empty", source.name, area=result.area or "any"))
    findings += [
        finding("identity.coverage.unreadable", wrong.where, place=wrong.where, reason=wrong.reason)
        for wrong in source.problems[:MAX_NAMED]
    ]
    findings += [finding("identity.coverage.cut", where, claimed=a, found=b) for where, a, b in incomplete(source)]
    for item in result.exceptions:
        named[item.code] += 1
        if named[item.code] <= MAX_NAMED:
            # A shortfall that the target allows is a remark; so is one of a measure that the policy does not ask for.
            allowed = item.measure in reached and (reached[item.measure] or item.measure not in policy.measures)
            outcome = Outcome.PASS if allowed else Outcome(item.outcome)
            data = {**item.data, "name": item.name}
            findings.append(finding(item.code, item.gbid, outcome=outcome, **data))
    for code, count in named.items():
        if count > MAX_NAMED:
            findings.append(finding("identity.coverage.more", code, problem=code, count=count, named=MAX_NAMED))
    return judge(
        source.name,
        result.at,
        examined=(Axis.COVERAGE, Axis.CONFORMANCE),
        findings=findings,
        default=(Axis.COVERAGE,),
        require=require,
    )


def incomplete(source: Source) -> Sequence[tuple[str, int, int]]:
    """Where a catalog is cut short: place, how many items it claims, how many there are."""
    found = [
        (message.where, message.claimed, message.items)
        for message in source.messages
        if message.claimed is not None and message.claimed > message.items
    ]
    found += [
        (f"{source.name}: SN {sn} of {device}", total, items)
        for (device, sn), (total, items) in totals(source.messages).items()
        if items < total
    ]
    return found
