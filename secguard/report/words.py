"""The report's own words in English and Chinese, and how texts from outside are made harmless."""

import math
import re
from datetime import UTC, datetime

from secguard.core.verdict import Axis, Outcome
from secguard.report.model import Code, Text, Value, Words

__all__ = ["AXES", "LABELS", "LANGUAGES", "NOT_RUN", "OUTCOMES", "clean", "number", "pick", "plain", "times"]

LANGUAGES = ("en", "zh", "both")

OUTCOMES = {
    Outcome.PASS: Text("Pass", "通过"),
    Outcome.FAIL: Text("Fail", "不通过"),
    Outcome.UNKNOWN: Text("Inconclusive", "无法判定"),
}
NOT_RUN = Text("Not run", "未运行")

AXES = {
    Axis.INTEGRITY: Text("Integrity", "完整性"),
    Axis.COMPLETENESS: Text("Completeness", "齐全性"),
    Axis.COVERAGE: Text("Coverage", "覆盖范围"),
    Axis.PRESENTATION: Text("Presentation", "呈现方式"),
    Axis.PROVENANCE: Text("Provenance", "来源"),
    Axis.REVOCATION: Text("Revocation", "吊销状态"),
    Axis.TIME: Text("Time", "时间"),
    Axis.CONFORMANCE: Text("Conformance", "合规性"),
}

LABELS = {
    "axes": Text("Axes", "判定维度"),
    "axis": Text("Axis", "维度"),
    "bars": Text("As a table", "以表格显示"),
    "claim": Text("Claim", "事项"),
    "code": Text("Code", "代码"),
    "column": Text("Column", "列"),
    "contents": Text("Contents", "目录"),
    "detail": Text("Detail", "说明"),
    "evidence": Text("Evidence", "依据"),
    "advice": Text("What to do", "建议"),
    "hint": Text("What to do: ", "建议："),
    "language": Text("Language", "语言"),
    "made": Text("Made", "生成时间"),
    "judged-for": Text("Judged for {time}. ", "判定时间点：{time}。"),
    "judged": Text("Judged for", "判定时间点"),
    "made-at": Text("Made at {time}. ", "生成于 {time}。"),
    "more": Text("{shown} of {total} rows are shown.", "共 {total} 行，显示前 {shown} 行。"),
    "name": Text("Name", "名称"),
    "narrowed": Text("Judged by these axes only: {axes}.", "仅按以下维度判定：{axes}。"),
    "none": Text("No findings.", "没有发现问题。"),
    "not-deciding": Text("does not decide", "不影响结论"),
    "not-tested": Text("Not tested", "未测试"),
    "not-examined": Text("Not examined", "未检查"),
    "outcome": Text("Outcome", "结果"),
    "place": Text("Place", "位置"),
    "row": Text("Row", "行"),
    "show": Text("Show: ", "显示："),
    "start": Text("Start", "起"),
    "stop": Text("Stop", "止"),
    "summary": Text("Summary", "结论"),
    "text": Text("Text", "内容"),
    "tool": Text("Written by secguard {version}. ", "由 secguard {version} 生成。"),
    "offline": Text(
        "This file is self-contained: it runs no scripts and loads nothing.",
        "本文件自包含：不运行脚本，不加载任何外部内容。",
    ),
    "value": Text("Value", "值"),
    "verdict": Text("Verdict", "结论"),
    "colon": Text(": ", "："),
}

# Controls, lone surrogates, and the marks that turn the direction of text (CVE-2021-42574): a report must show them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff]"
)


def clean(text: str) -> str:
    """The text with characters that print as nothing, or reorder what is around them, written as `<U+202E>`."""
    return _HIDDEN.sub(lambda match: f"<U+{ord(match.group()):04X}>", text)


def pick(words: Words, lang: str) -> str:
    """The words in one language; in `both`, one after the other when they differ."""
    if isinstance(words, str):
        return words
    if lang == "both" and words.en != words.zh:
        return f"{words.en} / {words.zh}"
    return words.zh if lang == "zh" else words.en


def number(value: float) -> str:
    """A number with thousands separators and at most four significant decimals."""
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "-"
    text = f"{value:,.4f}" if abs(value) < 10 else f"{value:,.2f}"
    return text.rstrip("0").rstrip(".")


def times(value: datetime) -> str:
    """A time in UTC, to the second, with its offset written out."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def plain(value: Value, lang: str) -> str:
    """A value as text for CSV and JUnit."""
    if value is None:
        return ""
    if isinstance(value, Outcome):
        return pick(OUTCOMES[value], lang)
    if isinstance(value, Code):
        return clean(value.value)
    if isinstance(value, datetime):
        return times(value)
    if isinstance(value, int | float):
        return str(value)
    return clean(pick(value, lang))
