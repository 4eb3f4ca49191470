"""The report on a verdict about a recording: a timeline that a judge can read, English and Chinese."""

import re
from collections.abc import Sequence
from pathlib import Path

from secguard.core import Finding, Outcome, describe
from secguard.report import (
    Bar,
    Code,
    Facts,
    Findings,
    Paragraph,
    Picture,
    Pictures,
    Report,
    Table,
    Text,
    Value,
    Words,
)
from secguard.report import Timeline as Chart
from secguard.report.model import Section
from secguard.trust import common_name
from secguard.video.stills import Look, Still, look
from secguard.video.verify import VideoVerdict

__all__ = ["STATES", "make_report", "problem_sections"]

STATES: dict[str, tuple[Text, Outcome]] = {
    "intact": (Text("as signed", "与签名一致"), Outcome.PASS),
    "changed": (Text("changed", "被改动"), Outcome.FAIL),
    "incomplete": (Text("frames missing", "缺帧"), Outcome.FAIL),
    "missing": (Text("missing", "缺失"), Outcome.FAIL),
    "repeated": (Text("repeated", "重复"), Outcome.FAIL),
    "moved": (Text("moved", "位置改变"), Outcome.FAIL),
    "foreign": (Text("put in", "被插入"), Outcome.FAIL),
    "sealed": (Text("as sealed in the manifest", "与分段清单一致"), Outcome.PASS),
    "unsigned": (Text("not covered by a signature", "无签名覆盖"), Outcome.UNKNOWN),
}
"""What a GOP turned out to be: words, and how it is drawn."""

_FRAMES = re.compile(r"(?<!after )\bframes? (\d+)(?:-(\d+))?")
_FOR_THE_EYE = Text(
    "For the eye only: a still proves nothing. What is proven is proven over the signed bytes, and a decoder conceals "
    "damage.",
    "截图仅供查看，不构成证明。结论依据的是被签名的字节；解码器可能掩盖损坏。",
)
_MAX_BARS = 400
_MAX_ROWS = 500
_SUMMARY = {
    Outcome.PASS: Text(
        "The recording is what its camera signed: every frame is there, unchanged, in order and shown as it was taken.",
        "录像与摄像机签名时一致：每一帧都在、未被改动、顺序正确，播放时间与拍摄一致。",
    ),
    Outcome.FAIL: Text(
        "The recording is not what its camera signed, or it is not proven whose it is; the findings say where and why.",
        "录像与签名时不一致，或来源不成立；下方的发现说明位置和原因。",
    ),
    Outcome.UNKNOWN: Text(
        "Nothing wrong was found, and something that must be shown could not be; the findings say what is needed.",
        "未发现问题，但有应证明的事项无法证明；下方的发现说明还需要什么。",
    ),
}
_NARROWED = Text(
    "Only some questions were asked, and to them the answer is as shown; the others stay open.",
    "只对部分问题作了判定，结果如上；其余问题未作结论。",
)
_SEI = {
    "valid": Text("valid", "有效"),
    "bad": Text("wrong", "无效"),
    "none": Text("none", "无"),
}


def _bars(answer: VideoVerdict) -> list[Bar]:
    """One bar a GOP; neighbours in the same state share one where there are too many."""
    rows = [row for row in answer.timeline.rows() if row["frames"]]
    missing = {row["gop"] for row in answer.timeline.rows() if not row["frames"]}
    size = -(-len(rows) // _MAX_BARS) if rows else 1
    bars = []
    at = 0
    while at < len(rows):
        group = [rows[at]]
        while len(group) < size and at + len(group) < len(rows) and rows[at + len(group)]["state"] == group[0]["state"]:
            group.append(rows[at + len(group)])
        first, last = group[0], group[-1]
        words, outcome = STATES[first["state"]]
        label = f"GOP {first['gop']}" if first is last else f"GOP {first['gop']}-{last['gop']}"
        low, high = first["first_frame"], last["first_frame"] + last["frames"] - 1
        detail = Text(f"{words.en}, frames {low}-{high}", f"{words.zh}，第 {low}-{high} 帧")
        bars.append(Bar(label, first["start"], max(last["end"], first["start"]), outcome, detail))
        at += len(group)
    if missing:
        place = {row["gop"]: row["start"] for row in answer.timeline.rows()}
        bars += [Bar(f"GOP {n}", place[n], place[n], Outcome.FAIL, STATES["missing"][0]) for n in sorted(missing)[:50]]
    return bars


def _facts(answer: VideoVerdict) -> list[tuple[Words, Value]]:
    manifest = answer.manifest
    facts: list[tuple[Words, Value]] = [
        (Text("Camera (GB/T 28181)", "摄像机（国标编码）"), Code(answer.device.value) if answer.device else None),
        (Text("Judged for", "判定时间点"), answer.verdict.at),
        (Text("Frames", "帧数"), answer.frames),
        (Text("GOPs", "画面组数"), answer.gops),
        (Text("Signatures valid", "有效签名"), f"{answer.valid_seis} / {answer.seis}"),
        (Text("Slices covered", "签名覆盖的片"), f"{answer.proven} / {answer.slices}"),
        (Text("Codec", "编码"), answer.codec.upper().replace("H2", "H.2")),
    ]
    if manifest is not None:
        period = f"{manifest.manifest.start} - {manifest.manifest.end}"
        facts.append((Text("Recorded (as claimed by the signer)", "录制时间（签名方声明）"), period))
        facts.append((Text("File as sealed, SHA-256", "封存文件 SHA-256"), Code(manifest.manifest.sha256)))
    return facts


def _wrong_frames(findings: Sequence[Finding]) -> list[tuple[int, int, Finding]]:
    """(first, last, finding) of what is wrong with frames that are there, in order."""
    found = []
    for item in findings:
        place = _FRAMES.search(item.where)
        if place is not None and item.outcome is not Outcome.PASS:
            low = int(place[1])
            found.append((low, int(place[2] or low), item))
    return sorted(found, key=lambda row: row[:2])


def _chosen(answer: VideoVerdict) -> list[tuple[int, Text, Outcome]]:
    """Frames worth a look: the first and last that are as signed, and the first and last that are not."""
    rows = [row for row in answer.timeline.rows() if row["frames"]]
    wrong = _wrong_frames(answer.verdict.findings)
    bad = [(low, high) for low, high, item in wrong if item.outcome is Outcome.FAIL] or [
        (low, high) for low, high, _ in wrong
    ]
    spoiled = {
        row["first_frame"]
        for row in rows
        if any(low < row["first_frame"] + row["frames"] and row["first_frame"] <= high for low, high in bad)
    }
    good = [row for row in rows if row["state"] in {"intact", "sealed"} and row["first_frame"] not in spoiled]
    chosen: list[tuple[int, Text, Outcome]] = []
    if good:
        last = good[-1]["first_frame"] + good[-1]["frames"] - 1
        chosen.append((good[0]["first_frame"], Text("first frame as signed", "首个与签名一致的帧"), Outcome.PASS))
        chosen.append((last, Text("last frame as signed", "最后一个与签名一致的帧"), Outcome.PASS))
    if bad:
        outcome = Outcome.FAIL if any(item.outcome is Outcome.FAIL for *_, item in wrong) else Outcome.UNKNOWN
        chosen.append((bad[0][0], Text("first frame in question", "首个有问题的帧"), outcome))
        chosen.append((max(high for _, high in bad), Text("last frame in question", "最后一个有问题的帧"), outcome))
    names: dict[int, tuple[int, Text, Outcome]] = {}
    for number, words, outcome in chosen:
        before = names[number][1] if number in names else None
        joined = Text(f"{before.en}, {words.en}", f"{before.zh}，{words.zh}") if before else words
        names[number] = (number, joined, outcome)
    return [names[number] for number in sorted(names)]


def _picture(number: int, words: Text, outcome: Outcome, seen: Look) -> Picture:
    at = f", {seen.times[number]:.2f} s" if number in seen.times else ""
    still = seen.stills.get(number, Still(b""))
    note = Text("", "")
    if not still.jpeg:
        note = Text("this frame does not decode", "该帧无法解码")
    elif still.damaged:
        note = Text("the decoder reports errors in this frame", "解码器报告该帧有错误")
    caption = Text(f"Frame {number}{at}: {words.en}", f"第 {number} 帧{at.replace(', ', '，')}：{words.zh}")
    return Picture(caption, still.jpeg, outcome, note if note.en else "")


def _eye(answer: VideoVerdict, path: Path | None) -> list[Section]:
    """What is wrong frame by frame, and stills, where the file is at hand."""
    wrong = _wrong_frames(answer.verdict.findings)
    chosen = _chosen(answer) if path is not None else []
    seen = Look(available=False)
    if path is not None:
        seen = look(path, [number for number, *_ in chosen], [low for low, *_ in wrong[:_MAX_ROWS]])
    sections: list[Section] = []
    if wrong:
        sections.append(
            Table(
                Text("What is wrong with which frames", "各帧的问题"),
                [
                    Text("frames", "帧"),
                    Text("from (s)", "起（秒）"),
                    Text("outcome", "结论"),
                    Text("what", "问题"),
                ],
                [
                    [
                        f"{low}" if low == high else f"{low}-{high}",
                        f"{seen.times[low]:.2f}" if low in seen.times else None,
                        item.outcome,
                        Text(describe(item, "en"), describe(item, "zh")),
                    ]
                    for low, high, item in wrong[:_MAX_ROWS]
                ],
                total=len(wrong),
            )
        )
    if path is None:
        return sections
    title = Text("Stills", "画面截图")
    if not seen.available:
        words = Text(
            "No stills: the decoder (the optional part secguard[media]) is not installed. The verdict needs none.",
            "没有截图：未安装解码器（可选组件 secguard[media]）。判定结论不依赖解码器。",
        )
        sections.append(Paragraph([words], title))
    elif chosen:
        sections.append(Pictures(title, [_picture(*item, seen) for item in chosen], note=_FOR_THE_EYE))
    return sections


def problem_sections(answer: VideoVerdict, path: Path | None, name: str) -> list[Section]:
    """The part of a report on many recordings that tells of one which is not proven."""
    chart = Chart(Text(name, name), _bars(answer), unit="s")
    said = Findings(answer.verdict.findings, Text(f"Findings: {name}", f"发现：{name}"))
    return [chart, said, *_eye(answer, path)]


def make_report(answer: VideoVerdict, path: Path | None = None) -> Report:
    """The report on a verified recording, for `secguard.report.write_report`.

    Args:
        answer: the verdict.
        path: the recording, for stills; without it the report has none.
    """
    verdict = answer.verdict
    rows = list(answer.timeline.rows())
    # A day has tens of thousands of GOPs: a page shows those that are not as they should be.
    shown = rows if len(rows) <= _MAX_ROWS else [row for row in rows if STATES[row["state"]][1] is not Outcome.PASS]
    sections: list[Section] = [
        Chart(Text("What each GOP is", "各画面组的判定"), _bars(answer), unit="s"),
        Findings(verdict.findings),
        *_eye(answer, path),
        Table(
            Text("GOPs", "画面组"),
            [
                Text("GOP", "画面组"),
                Text("first frame", "首帧"),
                Text("frames", "帧数"),
                Text("from (s)", "起（秒）"),
                Text("to (s)", "止（秒）"),
                Text("state", "状态"),
                Text("signature", "签名"),
            ],
            [
                [
                    row["gop"],
                    row["first_frame"] or None,
                    row["frames"],
                    f"{row['start']:.2f}",
                    f"{row['end']:.2f}",
                    STATES[row["state"]][0],
                    _SEI[row["sei"]],
                ]
                for row in shown[:_MAX_ROWS]
            ],
            total=len(rows),
        ),
        Facts(
            Text("Certificates of the signing key", "签名密钥的证书链"),
            [
                (
                    f"{number}. {common_name(item)}",
                    f"{item.not_valid_before_utc:%Y-%m-%d} - {item.not_valid_after_utc:%Y-%m-%d}",
                )
                for number, item in enumerate(answer.chain, start=1)
            ],
        ),
        Paragraph(
            [
                Text(
                    "Sound is not signed. Frames and GOPs are counted from 1, in decoding order.",
                    "声音不在签名范围内。帧与画面组从 1 开始，按解码顺序计数。",
                )
            ]
        ),
    ]
    if not answer.chain:
        sections = [item for item in sections if not isinstance(item, Facts)]
    return Report(
        Text("Video verification", "视频验证"),
        sections,
        subject=Code(verdict.subject),
        outcome=verdict.outcome,
        axes=verdict.axes,
        required=verdict.required,
        narrowed=verdict.narrowed,
        made=verdict.at,
        summary=_NARROWED if answer.verdict.narrowed else _SUMMARY[answer.verdict.outcome],
        facts=_facts(answer),
    )
