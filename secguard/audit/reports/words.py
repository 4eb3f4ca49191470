"""What classes and kinds of access are called in reports."""

from datetime import datetime, tzinfo

from secguard.audit.reports.accesses import Access
from secguard.report import Text

__all__ = ["CLASS_NAMES", "KIND_NAMES", "MISSING", "OUTCOMES", "moment", "name_of", "span"]

CLASS_NAMES = {
    "watched": Text("watched", "观看"),
    "searched": Text("searched", "检索"),
    "taken": Text("taken away", "调取"),
    "deleted": Text("deleted", "删除"),
    "controlled": Text("controlled", "控制"),
}
KIND_NAMES = {
    "video.viewed": Text("live view", "实时查看"),
    "video.played": Text("playback", "录像回放"),
    "video.queried": Text("search of recordings", "录像检索"),
    "video.downloaded": Text("download", "录像下载"),
    "video.exported": Text("export", "录像导出"),
    "video.shared": Text("handed to others", "视频共享"),
    "clip.made": Text("clip cut", "片段截取"),
    "evidence.exported": Text("evidence bundle", "证据包移交"),
    "key.released": Text("key released", "密钥发放"),
    "video.deleted": Text("deletion", "录像删除"),
    "camera.controlled": Text("camera controlled", "云台控制"),
}
OUTCOMES = {
    "success": Text("done", "成功"),
    "failure": Text("failed", "失败"),
    "denied": Text("denied", "被拒绝"),
    "unknown": Text("unknown", "未知"),
}
MISSING = {
    ("case",): Text("case number", "案件编号"),
    ("approver",): Text("approver", "批准人"),
    ("case", "approver"): Text("case number, approver", "案件编号、批准人"),
}


def name_of(kind: str) -> Text:
    """What a kind is called."""
    return KIND_NAMES.get(kind, Text(kind, kind))


def moment(value: datetime | None, zone: tzinfo) -> str:
    """A time in a zone, to the second."""
    return value.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S") if value is not None else ""


def span(row: Access, zone: tzinfo) -> str:
    """The recorded time that was watched or taken; the day once if it is one."""
    start, end = moment(row.start, zone), moment(row.end, zone)
    if start and end and start[:10] == end[:10]:
        end = end[11:]
    return f"{start} – {end}" if start or end else ""
