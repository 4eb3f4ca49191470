"""A run as a report: the matrix of zones, what was found, and every case."""

from dataclasses import replace

from secguard.core import Outcome
from secguard.isolation.judge.judge import Cell as Pair
from secguard.isolation.judge.kinds import kind_words
from secguard.isolation.runs.conclude import RunResult
from secguard.report import Cell, Code, Facts, Matrix, Paragraph, Report, Section, Table, Text, Value, Words

__all__ = ["case_rows", "kind_words", "matrix", "report", "sections"]

_MAX_ROWS = 2000
CASE_COLUMNS = ("src", "dst", "family", "probe", "expect", "result", "outcome", "detail")
_HEADS = (
    Text("From", "从"),
    Text("To", "到"),
    Text("Family", "协议族"),
    Text("Probe", "探测"),
    Text("Expected", "预期"),
    Text("Result", "结果"),
    Text("Outcome", "结论"),
    Text("Detail", "说明"),
)
_ZONES = Text("Zones", "区域矩阵")


def case_rows(result: RunResult) -> list[tuple[str, ...]]:
    """One row a case, in the order of `CASE_COLUMNS`; what did not pass comes first."""
    columns = result.columns
    rows = []
    for case in range(len(columns["result"])):
        protocol = columns["protocol"][case]
        profile, source = columns["profile"][case], ""
        if profile == "source-port":
            source = f"{columns['sport'][case]}→"
        probe = f"{protocol} {source}{columns['dport'][case]}" if protocol in {"tcp", "udp"} else protocol
        if profile == "fragments":
            probe += " [fragments]"
        fixed = (columns[name][case] for name in ("expect", "result", "outcome", "detail"))
        rows.append((columns["src"][case], columns["dst"][case], f"IPv{columns['family'][case]}", probe, *fixed))
    order = {"fail": 0, "unknown": 1, "pass": 2}
    return sorted(rows, key=lambda row: order[row[6]])


def _cell(pair: Pair) -> Cell:
    outcome = Outcome(pair.outcome)
    details: list[Words] = [
        Text(
            f"{pair.cases} cases, {pair.reached} arrived, {pair.failed} violations, {pair.unknown} inconclusive",
            f"{pair.cases} 个用例，{pair.reached} 个到达，{pair.failed} 个违规，{pair.unknown} 个无法判定",
        ),
        *map(kind_words, pair.kinds),
    ]
    if pair.miss > 0:
        chance = f"{pair.miss:.1e}"
        details.append(Text(f"chance of a missed case: {chance}", f"漏检概率：{chance}"))
    label = Text(f"{pair.failed} of {pair.cases}", f"{pair.failed}/{pair.cases}") if pair.failed else ""
    if outcome is Outcome.PASS:
        label = Text("apart" if not pair.reached else "as allowed", "已隔离" if not pair.reached else "符合策略")
    return Cell(outcome, label, details)


def matrix(result: RunResult, title: Text = _ZONES) -> Matrix:
    """Zones by zones: what got through, in words."""
    zones = list(dict.fromkeys([pair.src for pair in result.matrix] + [pair.dst for pair in result.matrix]))
    return Matrix(
        title,
        zones,
        zones,
        {(zones.index(pair.src), zones.index(pair.dst)): _cell(pair) for pair in result.matrix},
        row_axis=Text("from", "从"),
        column_axis=Text("to", "到"),
        note=Text(
            "Each case was sent by an agent in one zone and awaited by an agent in the other, with a token that"
            " cannot be forged. Silence counts only where both ends were proven healthy.",
            "每个用例由一个区域的探针发出、另一区域的探针接收，携带不可伪造的令牌。仅当两端均证明健康时，静默才算隔离。",
        ),
    )


def sections(result: RunResult) -> list[Section]:
    """The matrix, the facts of the run, and the cases, as sections of a report."""
    rows: list[list[Value]] = [
        [Outcome(value) if index == 6 else value for index, value in enumerate(row)] for row in case_rows(result)
    ]
    plan = result.plan
    found: list[Section] = [
        matrix(result),
        Facts(
            Text("The scan", "扫描"),
            [
                (Text("Plan (SHA-256)", "计划（SHA-256）"), Code(result.digest)),
                (Text("Policy (SHA-256)", "策略（SHA-256）"), Code(plan.policy)),
                (Text("Run", "批次"), Code(plan.run)),
                (Text("Cases", "用例"), len(plan.cases)),
                (Text("Attempts a case", "每例次数"), plan.attempts),
                (
                    Text("Targets", "目标"),
                    Text("the agents' own addresses", "探针自身地址"),
                ),
                (
                    Text("Agents", "探针"),
                    "; ".join(f"{agent.name} ({agent.zone}) {', '.join(agent.addresses)}" for agent in plan.agents),
                ),
            ],
        ),
        Table(Text("Cases", "用例"), _HEADS, rows[:_MAX_ROWS], total=len(rows)),
    ]
    if result.problems:
        found.append(Paragraph(result.problems[:50], Text("Problems on the way", "过程中的问题")))
    return found


def report(result: RunResult) -> Report:
    """The whole report of a run."""
    made = Report.of(result.verdict, Text("Network isolation", "网络隔离"))
    matrix, *rest = sections(result)
    # What was found comes right after the matrix; the long table of cases comes last.
    return replace(made, sections=(matrix, *made.sections, *rest))
