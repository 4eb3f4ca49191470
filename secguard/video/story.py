"""The report on a verdict about a recording: a timeline that a judge can read, English and Chinese."""

from secguard.core import Outcome
from secguard.report import Bar, Code, Facts, Findings, Paragraph, Report, Table, Text, Value, Words
from secguard.report import Timeline as Chart
from secguard.report.model import Section
from secguard.trust import common_name
from secguard.video.verify import VideoVerdict

__all__ = ["STATES", "make_report"]

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


def make_report(answer: VideoVerdict) -> Report:
    """The report on a verified recording, for `secguard.report.write_report`."""
    verdict = answer.verdict
    rows = list(answer.timeline.rows())
    # A day has tens of thousands of GOPs: a page shows those that are not as they should be.
    shown = rows if len(rows) <= _MAX_ROWS else [row for row in rows if STATES[row["state"]][1] is not Outcome.PASS]
    sections: list[Section] = [
        Chart(Text("What each GOP is", "各画面组的判定"), _bars(answer), unit="s"),
        Findings(verdict.findings),
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
        del sections[3]
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
