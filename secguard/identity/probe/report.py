"""The report on a run: what was asked, what is wrong how often, when certificates end, and each endpoint."""

from itertools import pairwise

from secguard.core import Verdict, catalogue
from secguard.identity.probe.probe import EXPIRY_BANDS, Probed, expiry_bands
from secguard.identity.probe.result import Endpoint
from secguard.report import BarPlot, Code, Findings, Proof, Proven, Report, Section, Table, Text, Value

__all__ = ["probe_report"]

_CLIENTS = {
    "good": Text("right", "合法"),
    "none": Text("none", "无证书"),
    "stranger": Text("stranger's", "陌生 CA"),
    "expired": Text("expired", "已过期"),
    "revoked": Text("revoked", "已吊销"),
    "other": Text("other device's", "其他设备"),
}
_TRIED = {"accepted": Text("accepted", "接受"), "refused": Text("refused", "拒绝"), "unclear": Text("unclear", "不明")}


def _summary(probed: Probed) -> Text:
    counts = probed.outcomes()
    total = sum(counts.values())
    broken = Text(" The run was broken off.", "本次探测被中断。") if probed.interrupted else Text("", "")
    return Text(
        f"Of {total:,} endpoints {counts['pass']:,} pass, {counts['fail']:,} fail, and {counts['unknown']:,} are "
        f"inconclusive.{broken.en}",
        f"共 {total:,} 个端点：{counts['pass']:,} 个通过，{counts['fail']:,} 个不通过，"
        f"{counts['unknown']:,} 个无法判定。{broken.zh}",
    )


def _by_finding(probed: Probed) -> Table:
    entries = catalogue()
    rows: list[list[Value]] = []
    for code, outcome, count in probed.codes():
        advice = Text(entries[code].hint_en, entries[code].hint_zh)
        rows.append([Code(code), outcome, count, advice])
    columns = [
        Text("Finding", "发现"),
        Text("Outcome", "结果"),
        Text("Endpoints", "端点数"),
        Text("What to do", "建议"),
    ]
    return Table(Text("By finding", "按问题统计"), columns, rows)


def _expiry(probed: Probed) -> BarPlot:
    counts = expiry_bands(probed)
    labels = [Text("Ended", "已过期")]
    for low, high in pairwise(EXPIRY_BANDS):
        labels.append(Text(f"{low} to {high} days", f"{low} 至 {high} 天"))
    labels.append(Text(f"More than {EXPIRY_BANDS[-1]} days", f"{EXPIRY_BANDS[-1]} 天以上"))
    return BarPlot(
        Text("How long the certificates are still good", "证书剩余有效期分布"),
        list(zip(labels, map(float, counts), strict=True)),
        unit=Text("certificates", "张证书"),
    )


def _clients(item: Endpoint) -> Value:
    if not item.clients:
        return None
    pairs = [(_CLIENTS[name], _TRIED[outcome]) for name, outcome in item.clients.items()]
    return Text(
        "; ".join(f"{name.en}: {tried.en}" for name, tried in pairs),
        "；".join(f"{name.zh}：{tried.zh}" for name, tried in pairs),
    )


def _endpoints(probed: Probed) -> Table:
    mutual = any(item.clients for item in probed.endpoints)
    columns = [
        Text("Endpoint", "端点"),
        Text("Device", "设备编码"),
        Text("Outcome", "结果"),
        Text("Certificate", "证书"),
        Text("Issuer", "签发者"),
        Text("Valid until", "失效时间"),
        Text("Protocol", "协议"),
        Text("Findings", "发现"),
    ]
    if mutual:
        columns.append(Text("Clients", "客户端"))
    rows: list[list[Value]] = []
    # What needs attention first.
    for item in sorted(probed.endpoints, key=lambda one: ("fail", "unknown", "pass").index(one.outcome.value)):
        found = item.certificate
        codes = ", ".join(dict.fromkeys(one.code.removeprefix("identity.endpoint.") for one in item.findings))
        row: list[Value] = [
            Code(item.target),
            Code(item.device or (found.gbid if found else "")) if item.device or (found and found.gbid) else None,
            item.outcome,
            found.subject if found else None,
            found.issuer if found else None,
            found.not_after if found else None,
            item.protocol or None,
            codes or None,
        ]
        rows.append([*row, _clients(item)] if mutual else row)
    return Table(Text("Endpoints", "端点"), columns, rows)


def _left_out(probed: Probed) -> Table:
    rows: list[list[Value]] = [[Code(one.gbid), one.name or None, one.address or None] for one in probed.left_out]
    columns = [Text("Device", "设备编码"), Text("Name", "名称"), Text("Address", "地址")]
    return Table(Text("Registered devices that were not probed", "已登记但未探测的设备"), columns, rows)


def probe_report(probed: Probed, verdict: Verdict, *, junit: bool = False) -> Report:
    """The report.

    Args:
        probed: the run.
        verdict: the verdict over it.
        junit: one test case an endpoint, instead of tables and plots.
    """
    title = Text("Live devices and their certificates", "在线设备证书核查")
    facts: list[tuple[Text, Value]] = [
        (Text("Endpoints asked", "已探测端点"), probed.answered),
        (Text("Endpoints a second", "每秒探测数"), round(probed.rate, 1)),
        (Text("Digest of the result", "结果摘要"), Code(f"sha256:{probed.digest()}")),
    ]
    sections: list[Section] = []
    if junit:
        proofs = [
            Proof(
                f"{item.target} {item.device}".strip(),
                item.outcome,
                ", ".join(dict.fromkeys(one.code for one in item.findings)),
            )
            for item in probed.endpoints
        ]
        sections += [Proven(proofs, Text("Endpoints", "端点")), Findings(verdict.findings)]
    else:
        sections += [_by_finding(probed), _expiry(probed), _endpoints(probed)]
        sections += [_left_out(probed)] if probed.left_out else []
        sections.append(Findings(verdict.findings))
    return Report(
        title,
        sections,
        subject=verdict.subject,
        outcome=verdict.outcome,
        summary=_summary(probed),
        axes=verdict.axes,
        required=verdict.required,
        narrowed=verdict.narrowed,
        facts=facts,
        at=verdict.at,
    )
