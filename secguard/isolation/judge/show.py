"""A run as a report: the matrix of zones with the cases behind it, what was found, health, coverage, facts."""

from collections import Counter
from dataclasses import replace

from secguard.core import Outcome
from secguard.isolation.judge.kinds import kind_words
from secguard.isolation.judge.show_cells import matrix
from secguard.isolation.judge.show_facts import coverage, facts, health, sweeps
from secguard.isolation.runs.conclude import RunResult
from secguard.report import Paragraph, Report, Section, Table, Text, Value

__all__ = ["case_table", "kind_words", "matrix", "report"]

_HEADS = (
    Text("Case", "用例编号"),
    Text("From", "从"),
    Text("To", "到"),
    Text("Family", "协议族"),
    Text("Profile", "探测方案"),
    Text("Probe", "探测"),
    Text("Source port", "源端口"),
    Text("Port", "端口"),
    Text("Target", "目标"),
    Text("Expected", "预期"),
    Text("Flow", "业务流"),
    Text("Result", "结果"),
    Text("Outcome", "结论"),
    Text("Kind", "类型"),
    Text("Detail", "说明"),
)
_NAMES = (
    "src", "dst", "family", "profile", "protocol", "sport", "dport", "target", "expect", "flow", "result", "outcome",
    "kind", "detail",
)  # fmt: skip
_MAX_PROBLEMS = 50


def case_table(result: RunResult) -> Table:
    """Every case, one a row, for CSV; what did not pass comes first."""
    columns = [result.columns[name] for name in _NAMES]
    order = {"fail": 0, "unknown": 1, "pass": 2}
    rows: list[list[Value]] = [[case, *row] for case, row in enumerate(zip(*columns, strict=True))]
    rows.sort(key=lambda row: order[str(row[12])])
    for row in rows:
        row[12] = Outcome(str(row[12]))
    return Table(Text("Cases", "用例"), _HEADS, rows, export=True)


def _summary(result: RunResult) -> Text:
    """One sentence on the pairs of zones."""
    counts = Counter(pair.outcome for pair in result.matrix)
    total = len(result.matrix)
    if counts["fail"]:
        more = f", {counts['unknown']} inconclusive" if counts["unknown"] else ""
        also = f"，{counts['unknown']} 个无法判定" if counts["unknown"] else ""
        return Text(
            f"{counts['fail']} of {total} ordered pairs of zones violate the policy{more}.",
            f"{total} 个区域方向中，{counts['fail']} 个违反策略{also}。",
        )
    if counts["unknown"]:
        return Text(
            f"No violation seen, but {counts['unknown']} of {total} ordered pairs of zones are inconclusive: no pass.",
            f"未发现违规，但 {total} 个区域方向中 {counts['unknown']} 个无法判定，不能视为通过。",
        )
    return Text(
        f"In all {total} ordered pairs of zones only what the policy allows got through.",
        f"全部 {total} 个区域方向均仅通过策略允许的流量。",
    )


def report(result: RunResult) -> Report:
    """The whole report of a run."""
    made = Report.of(result.verdict, Text("Network isolation", "网络隔离"), summary=_summary(result))
    sections: list[Section] = [
        matrix(result, groups=True),
        *made.sections,
        *sweeps(result),
        health(result),
        *coverage(result),
        facts(result),
        case_table(result),
    ]
    if result.problems:
        sections.append(Paragraph(result.problems[:_MAX_PROBLEMS], Text("Problems on the way", "过程中的问题")))
    return replace(made, sections=sections, made=result.verdict.at)
