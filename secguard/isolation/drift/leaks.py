"""What is wrong in a scan, under names that stay the same from scan to scan.

A leak is one kind of finding between two zones, in one direction. Its ID derives from zones, kind, and what sets two of
one kind apart (the carrier of a tunnel, where strays arrive): ports come and go, the hole in the rules is one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from secguard.isolation.judge.result import ScanResult

__all__ = ["Case", "Leak", "cases_of", "leak_id", "leaks_of", "words_of"]

Case = tuple[str, str, int, str, str, str, str]
"""Source zone, destination zone, family, profile, protocol, ports, target: what one case asks, in every run alike."""

_APART = frozenset({"leak.tunnel", "leak.stray"})
_WITH_PORTS = frozenset({"l4", "source-port", "published"})
"""Profiles that ask about a port; the others take any that is denied, or draw one anew in every run."""

_DRAWN = range(20_000, 60_000)
_HIGH = "high"
"""Stands for a port out of these that no policy names: every run draws another one."""


class Row(msgspec.Struct, frozen=True):
    """What a scan says of a case."""

    outcome: str
    result: str
    kind: str
    expect: str
    detail: str


class Leak(msgspec.Struct, frozen=True):
    """Something wrong between two zones.

    Attributes:
        id: stays the same from scan to scan.
        src: source zone; empty for what is wrong in one zone.
        dst: destination zone, or the zone.
        kind: code of the finding without `isolation.`.
        detail: sets leaks of a kind apart.
        cases: what it was seen with; empty where the result has only words.
        probes: the same in words.
    """

    id: str
    src: str
    dst: str
    kind: str
    detail: str
    cases: frozenset[Case]
    probes: tuple[str, ...]


def leak_id(src: str, dst: str, kind: str, detail: str) -> str:
    """`L-` and ten hex digits."""
    return "L-" + hashlib.sha256(f"{src}\0{dst}\0{kind}\0{detail}".encode()).hexdigest()[:10]


_WORST = {"fail": 2, "unknown": 1, "pass": 0}


def cases_of(result: ScanResult) -> dict[Case, Row]:
    """Cases by what they ask; where several agents of a zone ask the same, the worst answer stands."""
    found: dict[Case, Row] = {}
    for case, row in _rows(result):
        known = found.get(case)
        if known is None or _WORST[row.outcome] > _WORST[known.outcome]:
            found[case] = row
    return found


def _rows(result: ScanResult) -> Iterator[tuple[Case, Row]]:
    columns = result.cases
    names = ("src", "dst", "family", "profile", "protocol", "sport", "dport", "outcome", "result", "expect", "detail")
    if any(name not in columns for name in names):
        return
    asked = zip(columns["profile"], columns["protocol"], columns["dport"], strict=True)
    named = {(protocol, port) for profile, protocol, port in asked if profile == "l4"}
    picked: list[Sequence[Any]] = [columns[name] for name in names]
    picked += [columns.get(name) or [""] * len(columns["src"]) for name in ("kind", "target")]
    rows = zip(*picked, strict=True)
    for src, dst, family, profile, protocol, sport, dport, outcome, said, expect, detail, kind, target in rows:
        ports = str(dport or "")
        if profile == "source-port":
            # A port that nothing names is another one in each run; UDP 30000 may be named where TCP 30000 is drawn.
            drawn = dport in _DRAWN and (protocol.partition("-")[0], dport) not in named and dport != sport
            ports = f"{sport}→{_HIGH if drawn else dport}"
        ports = ports if profile in _WITH_PORTS else ""
        case = (str(src), str(dst), int(family), str(profile), str(protocol), ports, str(target))
        yield case, Row(str(outcome), str(said), str(kind), str(expect), str(detail))


def _words(case: Case) -> str:
    _, _, family, profile, protocol, ports, target = case
    plain = profile in {"l4", "icmp", "source-port"}
    aside = ("(IPv6)" if family == 6 else "", "" if plain else f"[{profile}]")
    return " ".join(filter(None, (protocol.upper(), ports, target, *aside)))


def words_of(cases: Iterable[Case]) -> tuple[str, ...]:
    """Cases in words, by protocol and port: `TCP 22`, `UDP 53 (IPv6)`, `GRE [tunnels]`."""
    return tuple(dict.fromkeys(_words(case) for case in sorted(cases, key=_order)))


def leaks_of(result: ScanResult) -> dict[str, Leak]:
    """Everything that is wrong in a scan (what is inconclusive is not), by ID."""
    groups: dict[tuple[str, str, str, str], set[Case]] = {}
    for case, row in cases_of(result).items():
        if row.outcome == "fail" and row.kind:
            detail = row.detail if row.kind in _APART else ""
            groups.setdefault((case[0], case[1], row.kind, detail), set()).add(case)
    found = {}
    for (src, dst, kind, detail), cases in groups.items():
        name = leak_id(src, dst, kind, detail)
        found[name] = Leak(name, src, dst, kind, detail, frozenset(cases), words_of(cases))
    for item in result.findings:
        if item.outcome != "fail":
            continue
        kind = item.code.removeprefix("isolation.")
        src, dst = str(item.data.get("src", "")), str(item.data.get("dst", item.where))
        detail = str(item.data.get("detail", "")) if kind in _APART else ""
        name = leak_id(src, dst, kind, detail)
        if name not in found:
            words = (str(item.data["probes"]),) if item.data.get("probes") else ()
            found[name] = Leak(name, src, dst, kind, detail, frozenset(), words)
    return found


def _order(case: Case) -> tuple[object, ...]:
    port = case[5].rpartition("→")[2]
    return (*case[:5], int(port) if port.isdigit() else 0, *case[5:])
