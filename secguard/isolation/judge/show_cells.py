"""The matrix of zones, and behind each cell its cases, grouped by profile and by what became of them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from secguard.core import Outcome
from secguard.isolation.judge.kinds import kind_words, result_words
from secguard.isolation.judge.matrix import Cell as Pair
from secguard.isolation.runs.conclude import RunResult
from secguard.report import Cell, Code, Group, Matrix, Text, Value, Words

__all__ = ["matrix", "probe_words", "spans", "zone_words"]

_ZONES = Text("Zones", "区域矩阵")
_COLUMNS = (
    Text("Outcome", "结论"),
    Text("Result", "结果"),
    Text("Kind", "类型"),
    Text("Probes", "探测"),
    Text("Expected", "预期"),
    Text("Detail", "说明"),
    Text("Cases", "用例编号"),
)
_EXPECTED = {
    "deny": Text("denied", "拒绝"),
    "open": Text("open", "双向"),
    "one-way": Text("one-way", "单向"),
    "closed": Text("passes, no service", "可达无服务"),
}
_ORDER = {"fail": 0, "unknown": 1, "pass": 2}
_MANY = 60
"""Pairs of zones above which a report only counts what passed, so that it stays one that a browser opens."""
_PLAIN = frozenset({"l4", "icmp"})


def zone_words(result: RunResult, zone: str) -> str:
    """A zone by its name and what people call it."""
    label = result.plan.labels.get(zone, "")
    return f"{zone} {label}" if label and label != zone else zone


def spans(numbers: Iterable[int]) -> str:
    """Numbers as ranges: `3, 7–12`."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in found)


def probe_words(columns: dict[str, list[Any]], cases: Sequence[int]) -> str:
    """What cases sent, in few words: `TCP 22, 80–90; UDP 53`, `gre, ipip`, `TCP 20→22`."""
    ports: dict[str, list[int]] = defaultdict(list)
    other: list[str] = []
    for case in cases:
        protocol, profile = str(columns["protocol"][case]), columns["profile"][case]
        target = columns["target"][case] if "target" in columns else ""
        if profile == "source-port":
            other.append(f"{protocol.upper()} {columns['sport'][case]}→{columns['dport'][case]}")
        elif profile in _PLAIN and columns["dport"][case]:
            ports[f"{protocol.upper()}{f' {target}' if target else ''}"].append(columns["dport"][case])
        else:
            other.append(f"{protocol}{f' {target}' if target else ''}")
    return "; ".join([*(f"{name} {spans(found)}" for name, found in ports.items()), *dict.fromkeys(other)])


def _groups(columns: dict[str, list[Any]], cases: Sequence[int], *, brief: bool) -> list[Group]:
    """The cases of a pair of zones: a group a profile, a row for what fared alike; `brief`: none for what passed."""
    profiles: dict[tuple[str, int], list[int]] = defaultdict(list)
    for case in cases:
        profiles[str(columns["profile"][case]), columns["family"][case]].append(case)
    made = []
    for (profile, family), inside in profiles.items():
        rows: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for case in inside:
            names = ("outcome", "result", "kind", "expect", "flow", "detail")
            rows[tuple(str(columns[name][case]) for name in names)].append(case)
        ordered = sorted(rows.items(), key=lambda item: (_ORDER[item[0][0]], item[1][0]))
        wrong = sum(columns["outcome"][case] != "pass" for case in inside)
        if brief and not wrong:
            ordered = ordered[:0]
        count = Text(f"{len(inside)} case{'s' * (len(inside) != 1)}", f"{len(inside)} 个用例")
        made.append(
            Group(
                title=f"{profile} · IPv{family}",
                outcome=Outcome(ordered[0][0][0]) if ordered else Outcome.PASS,
                columns=_COLUMNS,
                rows=[_row(columns, key, found) for key, found in ordered],
                label=Text(f"{wrong} of {count.en}", f"{wrong} / {count.zh}") if wrong else count,
            )
        )
    return sorted(made, key=lambda group: (_ORDER[str(group.outcome)], str(group.title)))


def _row(columns: dict[str, list[Any]], key: tuple[str, ...], cases: Sequence[int]) -> list[Value]:
    outcome, result, kind, expect, flow, detail = key
    expected = _EXPECTED.get(expect, Text(expect, expect))
    if flow:
        expected = Text(f"{expected.en} ({flow})", f"{expected.zh}（{flow}）")
    return [
        Outcome(outcome),
        result_words(result),
        kind_words(kind) if kind else None,
        probe_words(columns, cases),
        expected,
        detail,
        Code(spans(cases)),
    ]


def _cell(pair: Pair, groups: Sequence[Group]) -> Cell:
    outcome = Outcome(pair.outcome)
    details: list[Words] = [
        Text(
            f"{pair.cases} cases, {pair.reached} arrived, {pair.failed} violations, {pair.unknown} inconclusive",
            f"{pair.cases} 个用例，{pair.reached} 个到达，{pair.failed} 个违规，{pair.unknown} 个无法判定",
        ),
        *map(kind_words, pair.kinds),
    ]
    chance = f"{pair.miss:.1e}" if pair.miss else "0"
    details.append(
        Text(
            f"chance that all attempts of a case got lost, from the measured loss of beacons: {chance}",
            f"由信标实测丢失率推得的漏检概率（同一用例全部丢失）：{chance}",
        )
    )
    label: Words = Text(f"{pair.failed} of {pair.cases}", f"{pair.failed}/{pair.cases}") if pair.failed else ""
    if outcome is Outcome.UNKNOWN:
        label = Text(f"{pair.unknown} of {pair.cases or pair.unknown}", f"{pair.unknown}/{pair.cases or pair.unknown}")
    if outcome is Outcome.PASS:
        label = Text("apart" if not pair.reached else "as allowed", "已隔离" if not pair.reached else "符合策略")
    return Cell(outcome, label, details, groups)


def matrix(result: RunResult, title: Text = _ZONES, *, groups: bool = False) -> Matrix:
    """Zones by zones: what got through, in words; with `groups`, the cases behind each cell."""
    zones = list(dict.fromkeys([pair.src for pair in result.matrix] + [pair.dst for pair in result.matrix]))
    columns = result.columns
    inside: dict[tuple[str, str], list[int]] = defaultdict(list)
    if groups:
        for case, ends in enumerate(zip(columns["src"], columns["dst"], strict=True)):
            inside[ends].append(case)
    names = [zone_words(result, zone) for zone in zones]
    brief = len(result.matrix) > _MANY
    return Matrix(
        title,
        names,
        names,
        {
            (zones.index(pair.src), zones.index(pair.dst)): _cell(
                pair, _groups(columns, inside[pair.src, pair.dst], brief=brief)
            )
            for pair in result.matrix
        },
        row_axis=Text("from", "从"),
        column_axis=Text("to", "到"),
        note=Text(
            "Each case was sent by an agent in one zone and awaited by an agent in the other, with a token that"
            " cannot be forged. Silence counts only where both ends were proven healthy.",
            "每个用例由一个区域的探针发出、另一区域的探针接收，携带不可伪造的令牌。仅当两端均证明健康时，静默才算隔离。",
        ),
    )
