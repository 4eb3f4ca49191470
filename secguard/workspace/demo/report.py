"""The demo's report: one self-contained page in English and Chinese."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secguard.core.verdict import Outcome
from secguard.report import (
    Bar,
    Code,
    Facts,
    Findings,
    Proof,
    Proven,
    Report,
    Text,
    Timeline,
    write_report,
)

if TYPE_CHECKING:
    from secguard.video import VideoVerdict
    from secguard.workspace.demo.steps import Stage

__all__ = ["write_demo_report"]


def _timeline(title: Text, shown: "VideoVerdict", note: Text) -> Timeline:
    bars = [
        Bar(
            f"GOP {row['gop']}",
            float(row["start"]),
            float(row["end"]),
            Outcome.PASS if row["state"] == "intact" else Outcome.FAIL,
            str(row["reason"] or ""),
        )
        for row in shown.timeline.rows()
    ]
    return Timeline(title, bars=bars, unit="s", note=note)


def write_demo_report(
    path: Path, steps: Sequence[tuple[Text, Outcome | None, Text]], stage: "Stage", seconds: float
) -> None:
    """Write the page: what was proven first, then the evidence of each pillar.

    Raises:
        SystemPartError: the file cannot be written.
    """
    outcomes = [outcome for _, outcome, _ in steps]
    whole = Outcome.FAIL if Outcome.FAIL in outcomes else Outcome.UNKNOWN if None in outcomes else Outcome.PASS
    workspace = stage.workspace
    sections: list[object] = [
        Proven(
            [Proof(name, outcome, evidence) for name, outcome, evidence in steps],
            title=Text("What was proven", "证明了什么"),
        )
    ]
    if stage.good is not None:
        sections.append(
            _timeline(
                Text("The signed recording", "已签名的录像"), stage.good, Text("every GOP is intact", "每个 GOP 完好")
            )
        )
    if stage.bad is not None:
        sections += [
            _timeline(
                Text("The same recording, one byte changed", "同一录像，改动一个字节"),
                stage.bad,
                Text("the GOP of the changed frame stands out", "被改动帧所在的 GOP 一目了然"),
            ),
            Findings(stage.bad.verdict.findings, title=Text("What the verifier says of it", "验证器的结论")),
        ]
    if stage.labs:
        from secguard.isolation.judge.show import matrix

        titles = {
            "tight": Text("A tight firewall", "严格的防火墙"),
            "leaky": Text("A leaky firewall", "有漏洞的防火墙"),
        }
        sections += [matrix(result, titles[kind]) for kind, result in stage.labs.items()]
    if stage.index_findings:
        sections.append(Findings(stage.index_findings, title=Text("The tampered search index", "被篡改的检索索引")))
    if stage.broken_bundle is not None:
        sections.append(
            Findings(
                stage.broken_bundle.findings, title=Text("The bundle with one byte changed", "改动一个字节的证据包")
            )
        )
    checkpoint = workspace.ledger.checkpoint()
    sections.append(
        Facts(
            Text("The ledger", "账本"),
            rows=[
                (Text("Log", "日志"), Code(workspace.ledger.origin)),
                (Text("Entries", "条目"), workspace.ledger.size),
                (Text("Checkpoint", "检查点"), Code(checkpoint.decode() if checkpoint else "-")),
            ],
        )
    )
    report = Report(
        Text("secguard: the main job, end to end", "secguard：主要流程全程演示"),
        sections=sections,  # type: ignore[arg-type]
        subject=Code(stage.folder.name),
        outcome=whole,
        summary=Text(
            "Certificates, signed video, separated zones, access records and one evidence bundle: made, broken on "
            "purpose, and told apart.",
            "证书、签名视频、区域隔离、访问记录与证据包：逐一生成、故意破坏，并准确识别。",
        ),
        facts=[
            (Text("Duration", "用时"), f"{seconds:.1f} s"),
            (Text("Site", "站点"), f"{workspace.config.site.name} ({workspace.config.site.area})"),
        ],
        made=workspace.clock.now(),
    )
    write_report(path, report, "both")
