"""The report as a document: totals, plots, exceptions, every access; HTML and CSV, English and Chinese."""

from collections.abc import Sequence
from datetime import timedelta

from secguard.audit.reports.accesses import CLASSES, Access, Accesses
from secguard.audit.reports.words import CLASS_NAMES, MISSING, OUTCOMES, moment, name_of, span
from secguard.core.verdict import Outcome
from secguard.report import BarPlot, Code, Findings, LinePlot, Report, Series, Table, Text, Value

__all__ = ["access_report", "zone_name"]

_TOP = 15
_COLUMNS = (
    Text("time", "时间"),
    Text("act", "操作"),
    Text("person", "人员"),
    Text("organisation", "单位"),
    Text("camera", "摄像机"),
    Text("recorded time", "录像时段"),
    Text("case", "案件编号"),
    Text("purpose", "事由"),
    Text("approved by", "批准人"),
    Text("outcome", "结果"),
    Text("handed to", "接收人"),
    Text("ledger index", "账本序号"),
)


def zone_name(found: Accesses) -> str:
    """The zone of the report's times, `UTC+08:00`."""
    offset = found.made.astimezone(found.scope.zone).utcoffset() or timedelta()
    minutes = int(offset.total_seconds() // 60)
    sign = "-" if minutes < 0 else "+"
    return f"UTC{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _row(found: Accesses, row: Access) -> tuple[Value, ...]:
    event = row.event
    return (
        moment(event.time, found.scope.zone),
        name_of(event.kind),
        event.actor.name,
        event.actor.org,
        Code(" ".join(row.cameras)) if row.cameras else None,
        span(row, found.scope.zone),
        event.case,
        event.reason,
        event.approver,
        OUTCOMES[event.outcome.value],
        row.recipient,
        row.index,
    )


def access_report(found: Accesses) -> Report:
    """The report; it judges nothing but whether it is complete."""
    exceptions = found.exceptions
    return Report(
        Text("Accesses to video", "视频访问审计报告"),
        [
            *([Findings(found.findings)] if found.findings else []),
            *_totals(found),
            _exceptions(found, exceptions),
            Table(
                Text("Every access", "访问明细"),
                _COLUMNS,
                [_row(found, row) for row in found.rows],
                note=Text(
                    f"Oldest first; times in {zone_name(found)}.", f"按时间先后排列，时间为 {zone_name(found)}。"
                ),
            ),
        ],
        subject=_subject(found),
        outcome=_outcome(found),
        summary=Text(
            f"{len(found.rows)} accesses, {len(exceptions)} of them without case number or approver.",
            f"共 {len(found.rows)} 次访问，其中 {len(exceptions)} 次缺少案件编号或批准人。",
        ),
        facts=_facts(found),
        made=found.made,
    )


def _outcome(found: Accesses) -> Outcome | None:
    outcomes = {item.outcome for item in found.findings}
    return next((one for one in (Outcome.FAIL, Outcome.UNKNOWN) if one in outcomes), None)


def _subject(found: Accesses) -> Code:
    scope = found.scope
    parts = (scope.camera, scope.actor, scope.case, scope.period, scope.query)
    return Code("  ".join(part for part in parts if part))


def _facts(found: Accesses) -> list[tuple[Text, Value]]:
    checkpoint = found.checkpoint
    signed = f"{checkpoint['size']}  {checkpoint['root']}" if checkpoint else None
    return [
        (Text("camera", "摄像机"), Code(found.scope.camera) if found.scope.camera else None),
        (Text("person", "人员"), found.scope.actor or None),
        (Text("period", "期间"), found.scope.period or None),
        (Text("accesses", "访问次数"), len(found.rows)),
        (Text("without case number or approver", "缺少案件编号或批准人"), len(found.exceptions)),
        (Text("events in the ledger", "账本事件数"), found.size),
        (Text("last checkpoint: size and root", "最近检查点：条目数与根哈希"), Code(signed) if signed else None),
        (Text("events deleted by retention so far", "已按留存策略删除的事件数"), found.pruned),
        (Text("this report is entry", "本报告的账本序号"), found.recorded),
    ]


def _totals(found: Accesses) -> "list[BarPlot | LinePlot | Table]":
    if not found.rows:
        return []
    people = found.by_actor()
    groups = [group for group in CLASSES if any(row.group == group for row in found.rows)]
    days = found.by_day()
    parts: list[BarPlot | LinePlot | Table] = [
        BarPlot(Text("By act", "按操作统计"), [(name_of(kind), count) for kind, count in found.by_kind()]),
    ]
    if len(days) > 1:
        parts.append(
            LinePlot(
                Text("By day", "按日统计"),
                [
                    Series(CLASS_NAMES[group], [(at, counts[group]) for at, counts in enumerate(days.values())])
                    for group in groups
                ],
                x_names=[day.isoformat() for day in days],
                y_label=Text("accesses a day", "次/日"),
            )
        )
    parts += [
        Table(
            Text("Days", "每日次数"),
            [Text("day", "日期"), *(CLASS_NAMES[group] for group in groups), Text("total", "合计")],
            [
                (day.isoformat(), *(counts[group] for group in groups), counts.total())
                for day, counts in days.items()
                if counts
            ],
            export=len(days) > 1,
        ),
        Table(
            Text("People", "人员统计"),
            [
                Text("person", "人员"),
                *(CLASS_NAMES[group] for group in groups),
                Text("total", "合计"),
                Text("without case number or approver", "缺少案件编号或批准人"),
            ],
            [
                (name, *(counts[group] for group in groups), sum(counts[g] for g in CLASSES), counts["missing"])
                for name, counts in people.items()
            ],
        ),
    ]
    cameras = found.by_camera()
    if not found.scope.camera and cameras:
        parts.append(
            BarPlot(
                Text("Most accessed cameras", "访问最多的摄像机"),
                cameras[:_TOP],
                note=Text(f"{len(cameras)} cameras in all.", f"共 {len(cameras)} 台摄像机。"),
            )
        )
    return parts


def _exceptions(found: Accesses, rows: Sequence[Access]) -> Table:
    return Table(
        Text("Without case number or approver", "缺少案件编号或批准人的访问"),
        [Text("missing", "缺少"), *_COLUMNS],
        [(MISSING[row.missing], *_row(found, row)) for row in rows],
        note=Text(
            "Accesses that took place and whose record does not say what for, or by whose leave.",
            "已发生、但记录中未注明案件编号或批准人的访问。",
        ),
    )
