"""The report on a verified bundle: verdict, the recording, who did what to it, every file."""

from secguard.core import Outcome
from secguard.evidence.scan_verdict import WHEN, JudgedScan, roles_of
from secguard.evidence.verify import BundleVerdict
from secguard.report import Code, Facts, Report, Section, Table, Text, Timeline, Value, Words
from secguard.video.story import make_report

__all__ = ["bundle_report"]


_APART = {
    Outcome.PASS: ("zones apart", "各区域相互隔离"),
    Outcome.FAIL: ("violations found", "发现违规"),
    Outcome.UNKNOWN: ("not known", "无法判定"),
}


def _summary(answer: BundleVerdict) -> Text:
    match answer.verdict.outcome:
        case Outcome.PASS:
            return Text(
                "The recording is what the camera signed, and every file and act of the bundle is vouched for.",
                "录像与摄像机签名时一致，证据包中的每个文件和每项操作均有凭证。",
            )
        case Outcome.FAIL:
            return Text(
                "Something in this bundle is not what was signed or recorded; the findings name it.",
                "证据包中有内容与签名或记录不一致；各项发现已指明。",
            )
        case _:
            return Text(
                "Nothing wrong was found, but not everything could be judged; the findings say what and why.",
                "未发现错误，但有事项无法判定；各项发现说明了原因。",
            )


def _isolation(scan: JudgedScan) -> tuple[Words, Value]:
    """What a scan says, in one line."""
    when, time = WHEN[roles_of(scan.listed)], scan.listed.recorded.replace("T", " ")
    en, zh = _APART[scan.outcome]
    return Text(f"Isolation before {when['en']}", f"{when['zh']}前的隔离"), Text(
        f"{en} (scan of {time})", f"{zh}（{time} 扫描）"
    )


def bundle_report(answer: BundleVerdict) -> Report:
    """The bundle's report in both languages, for `write_report`."""
    manifest, video = answer.manifest, answer.video
    facts: list[tuple[Words, Value]] = []
    sections: list[Section] = []
    if manifest is not None:
        recording = manifest.recording
        facts = [
            (Text("Case", "案件"), manifest.case),
            (Text("Exported", "导出时间"), manifest.created.replace("T", " ")),
            (Text("Operator", "操作员"), manifest.operator),
            (Text("Reason", "事由"), manifest.reason or None),
            (Text("Camera", "摄像机"), Code(recording.device) if recording.device else None),
            (Text("Recording", "录像"), Code(recording.name)),
            (Text("SHA-256 of the recording", "录像 SHA-256"), Code(recording.sha256)),
            (Text("SHA-256 of the bundle", "证据包 SHA-256"), Code(answer.sha256)),
        ]
    if video is not None and video.clip is not None:
        record = video.clip.record
        facts += [
            (Text("Clip: asked for", "片段：请求范围"), f"{record.requested_start} - {record.requested_end}"),
            (Text("Clip: whole GOPs", "片段：实际范围"), f"{record.start} - {record.end}"),
            (Text("Clip: case", "片段：案件"), record.case),
            (Text("Clip: approver (claimed)", "片段：审批人（自述）"), record.approver or None),
        ]
    facts += [_isolation(scan) for scan in answer.scans]
    if answer.custody:
        heads = (
            Text("Entry", "序号"),
            Text("Time", "时间"),
            Text("Act", "操作"),
            Text("Actor", "人员"),
            Text("Case", "案件"),
            Text("Reason", "事由"),
        )
        rows = [
            (item.index, item.event.time, item.event.kind, item.event.actor.name, item.event.case, item.event.reason)
            for item in answer.custody
        ]
        note = Text(
            "Each act is proven by a receipt of the log; the order is the log's.",
            "每项操作均由日志回执证明；次序即日志中的次序。",
        )
        sections.append(Table(Text("Custody", "保管链"), heads, rows, note=note))
    if video is not None:
        sections += [item for item in make_report(video).sections if isinstance(item, Timeline)]
        counts: list[tuple[Words, Value]] = [
            (Text("Codec", "编码"), video.codec),
            (Text("Frames", "帧数"), video.frames),
            (Text("GOPs", "GOP 数"), video.gops),
            (
                Text("Valid signatures", "有效签名"),
                Text(f"{video.valid_seis} of {video.seis}", f"{video.valid_seis}/{video.seis}"),
            ),
        ]
        sections.append(Facts(Text("The recording", "录像"), counts))
    files = [(Code(name), size, Code(sha256)) for name, size, sha256 in answer.members]
    if files:
        names = (Text("File", "文件"), Text("Bytes", "字节"), Text("SHA-256 as found", "实际 SHA-256"))
        sections.append(Table(Text("Files", "文件清单"), names, files))
    return Report.of(
        answer.verdict,
        Text("Evidence bundle", "证据包"),
        sections,
        summary=_summary(answer),
        facts=facts,
    )
