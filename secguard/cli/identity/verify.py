"""`secguard identity verify`: judge a certificate, with or without a workspace."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command, require_option
from secguard.core.clock import SystemClock, parse_time
from secguard.core.errors import UsageError
from secguard.core.verdict import Axis, Verdict, judge

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.report import Report
    from secguard.trust import ChainJudgement, Purpose, TrustPolicy
    from secguard.workspace import Workspace

__all__ = ["verify"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_PURPOSES = ("device", "platform", "media-signing", "operator", "log", "witness", "tsa", "ocsp", "isolation-agent")


@command("identity.verify", "verify")
@click.argument("file", type=_FILE)
@click.option("--root", type=_FILE, help="Root certificate(s), PEM.  [default: the workspace's]")
@click.option("--crl", type=click.Path(path_type=Path), multiple=True, help="Revocation list, PEM or DER (repeatable).")
@click.option("--purpose", type=click.Choice(_PURPOSES), help="[default: the one that the certificate states]")
@click.option("--gbid", metavar="ID", help="The device that the certificate must name.")
@click.option("--at", "moment", metavar="TIME", help="Judge for this time.  [default: now]")
@require_option
def verify(
    ctx: Context,
    *,
    file: Path,
    root: Path | None,
    crl: tuple[Path, ...],
    purpose: str | None,
    gbid: str | None,
    moment: str | None,
    require: tuple[Axis, ...],
) -> Result:
    """Judge a certificate FILE (PEM, end entity first; DER): chain, purpose, GB scope, revocation, at a time.

    Exit code 0: believed; 1: not to be believed; 3: its revocation status is not known.
    """
    from secguard.gbid import GbId
    from secguard.trust import Purpose, read_certificates, stated_purposes

    expected = GbId.parse(gbid) if gbid else None
    chain = read_certificates(file)
    ws = ctx.workspace_or_none()
    try:
        policy, known = _policy(ws, root, crl)
        at = parse_time(moment) if moment else (ws.clock if ws is not None else SystemClock()).now()
    finally:
        if ws is not None:
            ws.close()
    stated = stated_purposes(chain[0])
    if purpose is None and not stated:
        raise UsageError(
            "identity.verify.purpose",
            "the certificate states no purpose of ours",
            hint="give --purpose",
            where=str(file),
        )
    wanted = Purpose(purpose) if purpose else stated[0]
    judgement = policy.judge_chain([*chain, *known], wanted, at, gbid=expected)
    verdict = judge(
        str(file),
        at,
        examined=judgement.examined,
        findings=judgement.findings,
        default=(Axis.PROVENANCE, Axis.REVOCATION),
        require=require,
    )
    rows = _path_rows(judgement, chain[0])
    return Result.of(
        verdict,
        data={
            "purpose": wanted,
            "gbid": judgement.gbid.value if judgement.gbid else None,
            "foreign_root": judgement.foreign,
            "path": rows,
        },
        tables=[Table(f"Judged as {wanted}", tuple(rows[0]), [list(row.values()) for row in rows])],
        report=lambda _: _report(verdict, wanted, rows),
    )


def _policy(
    ws: "Workspace | None", root: Path | None, crls: tuple[Path, ...]
) -> "tuple[TrustPolicy, list[x509.Certificate]]":
    """What is believed, and the issuing CAs that a workspace knows, so that a certificate alone can be judged."""
    from secguard.trust import TrustPolicy, read_certificates, read_crls

    if ws is None:
        if root is None:
            raise UsageError("identity.verify.root", "no root certificate to believe", hint="give --root CA.pem")
        return TrustPolicy(read_certificates(root), read_crls(crls)), []
    if root is None and not ws.root_certificate.exists():
        raise UsageError("identity.ca.none", "this site has no CA yet", hint="give --root CA.pem, or: identity ca init")
    known = [item.x509() for name, item in ws.registry.authorities().items() if name != "root"]
    return ws.trust(root, crls), known


def _path_rows(judgement: "ChainJudgement", leaf: "x509.Certificate") -> list[dict[str, Any]]:
    from secguard.trust import title

    return [
        {
            "certificate": title(item),
            "serial": f"{item.serial_number:x}",
            "not_before": item.not_valid_before_utc,
            "not_after": item.not_valid_after_utc,
        }
        for item in judgement.path or (leaf,)
    ]


def _report(verdict: Verdict, purpose: "Purpose", rows: Sequence[dict[str, Any]]) -> "Report":
    from secguard.report import Code, Report, Text
    from secguard.report import Table as ReportTable

    names = {
        "certificate": Text("Certificate", "证书"),
        "serial": Text("Serial number", "序列号"),
        "not_before": Text("Valid from", "生效时间"),
        "not_after": Text("Valid until", "失效时间"),
    }
    cells = [[Code(value) if key == "serial" else value for key, value in row.items()] for row in rows]
    table = ReportTable(Text("Certification path", "证书路径"), list(names.values()), cells)
    return Report.of(verdict, Text(f"Certificate for {purpose}", f"{purpose} 用途证书"), [table])
