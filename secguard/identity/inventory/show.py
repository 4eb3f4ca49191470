"""A comparison as a report: rates, areas, types and the exceptions by name, in English and Chinese."""

from collections.abc import Mapping, Sequence
from typing import Any

from secguard.core import describe, finding
from secguard.gbid import GbId, tables
from secguard.identity.inventory.coverage import MEASURES, Coverage, Rate, per_cent
from secguard.identity.inventory.rows import Source
from secguard.report import BarPlot, Code, Report, Table, Text, Value

__all__ = ["MEASURE_WORDS", "coverage_report", "rate_row"]

MEASURE_WORDS: Mapping[str, Text] = {
    "registered": Text("Registered", "已登记"),
    "complete": Text("Mandatory fields filled", "必填字段齐全"),
    "located": Text("Coordinates inside the area", "坐标在区域内"),
    "certified": Text("Valid certificate", "证书有效"),
    "catalog": Text("Catalog", "目录"),
}
_KINDS = {
    "alarm": Text("alarm channels", "报警通道"),
    "peripheral": Text("peripherals", "外围设备"),
    "server": Text("servers", "服务器"),
    "user": Text("users", "用户"),
    "platform": Text("platforms", "平台"),
    "directory": Text("directories and groups", "目录与分组"),
    "device": Text("devices of other types", "其他类型设备"),
    "other": Text("others", "其他"),
}


def rate_row(rates: Mapping[str, Rate]) -> list[str]:
    """Each measure as `997/1003 (99.4 %)`; what cannot be told is counted apart."""
    shown = []
    for name in MEASURES:
        rate = rates.get(name, Rate())
        more = f", {rate.unknown} ?" if rate.unknown else ""
        shown.append(f"{rate.passed}/{rate.total} ({per_cent(rate.passed, rate.total)} %{more})")
    return shown


def _type_name(code: str, edition: str) -> Text:
    known = tables(edition)
    meaning = known.meaning(known.types, code)
    return Text(f"{code} {meaning.en}", f"{code} {meaning.zh}") if meaning else Text(code, code)


def _place(area: str) -> Text:
    part = (
        GbId(f"{area:0<8}001320000000").explain("2022", "en")[0],
        GbId(f"{area:0<8}001320000000").explain("2022", "zh")[0],
    )
    return Text(f"{area} {part[0].meaning}".strip(), f"{area} {part[1].meaning}".strip())


def coverage_report(coverage: Coverage, sources: Sequence[Source], edition: str) -> Report:
    """The report of a comparison."""
    assert coverage.verdict is not None
    heads = [MEASURE_WORDS[name] for name in MEASURES]
    total = Rate()
    registered = coverage.rates.get("registered", total)
    rate = per_cent(registered.passed, registered.total)
    missing = registered.total - registered.passed
    summary = Text(
        f"{rate} % of the catalog is registered: {registered.passed} of {registered.total}; {missing} are not.",
        f"目录登记率 {rate}%：{registered.total} 台中已登记 {registered.passed} 台，未登记 {missing} 台。",
    )
    rows: list[list[Value]] = [
        [
            MEASURE_WORDS[name],
            item.passed,
            item.total - item.passed - item.unknown,
            item.unknown,
            item.total,
            f"{per_cent(item.passed, item.total)} %",
        ]
        for name, item in coverage.rates.items()
    ]
    rates = Table(
        Text("Rates", "达标率"),
        [Text("Measure", "指标"), Text("Yes", "达标"), Text("No", "未达标"), Text("Not known", "无法判定"),
         Text("In the catalog", "目录总数"), Text("Rate", "比率")],
        rows,
        note=Text(
            f"Rounded down. The target is {coverage.target:g} %.", f"百分比向下取整。目标 {coverage.target:g}%。"
        ),
    )  # fmt: skip
    plots = [
        BarPlot(
            Text(f"{MEASURE_WORDS[name].en}, by area", f"各区域{MEASURE_WORDS[name].zh}比率"),
            [
                (_place(area), per_cent(found[name].passed, found[name].total))
                for area, found in sorted(coverage.areas.items())[:60]
                if name in found
            ],
            unit="%",
        )
        for name in MEASURES
        if coverage.areas
    ]
    areas = Table(
        Text("By area", "按区域"),
        [Text("Area", "区域"), *heads],
        [[_place(area), *rate_row(found)] for area, found in sorted(coverage.areas.items())],
    )
    types = Table(
        Text("By type", "按类型"),
        [Text("Type", "类型"), *heads],
        [[_type_name(code, edition), *rate_row(found)] for code, found in sorted(coverage.types.items())],
    )
    exceptions = Table(
        Text("Exceptions", "例外清单"),
        [Text("Device", "设备编码"), Text("Name", "名称"), Text("Measure", "指标"), Text("Code", "代码"),
         Text("Reason", "原因")],
        [
            [Code(item.gbid), item.name, MEASURE_WORDS[item.measure], Code(item.code), _reason(item.code, item.data)]
            for item in coverage.exceptions
        ],
        total=len(coverage.exceptions),
    )  # fmt: skip
    skipped = Text(
        ", ".join(f"{count} {_KINDS[kind].en}" for kind, count in sorted(coverage.skipped.items())) or "none",
        "，".join(f"{_KINDS[kind].zh} {count}" for kind, count in sorted(coverage.skipped.items())) or "无",
    )
    datums = ", ".join(f"{name} {count}" for name, count in sorted(coverage.datums.items())) or "-"
    return Report.of(
        coverage.verdict,
        Text("Register against catalog", "设备登记覆盖率"),
        [rates, *plots, areas, types, exceptions],
        summary=summary,
        facts=[
            *((Text("Catalog", "目录文件"), Code(f"{item.name} SHA-256 {item.sha256}")) for item in sources),
            (Text("Register, SHA-256", "登记册 SHA-256"), Code(coverage.registry)),
            (Text("Area", "区域"), coverage.area or Text("all", "全部")),
            (Text("Registered, not in the catalog", "已登记但目录中没有"), coverage.ghosts),
            (Text("Offline on the platform", "平台显示离线"), coverage.offline),
            (Text("Not counted", "不计入"), skipped),
            (Text("Datum of coordinates", "坐标系"), datums),
        ],
    )


def _reason(code: str, data: Mapping[str, str]) -> Text:
    values: dict[str, Any] = {"name": "", **data}
    item = finding(code, **values)
    return Text(describe(item, "en").lstrip(" :："), describe(item, "zh").lstrip(" :："))
