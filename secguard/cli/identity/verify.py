"""`secguard identity verify`: judge certificates, with or without a workspace."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command, require_option
from secguard.core.clock import SystemClock, parse_time
from secguard.core.errors import FormatError, UsageError
from secguard.core.findings import finding
from secguard.core.progress import Throttle
from secguard.core.verdict import Axis, Finding, Outcome, Verdict, judge

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.gbid import GbId
    from secguard.report import Report
    from secguard.trust import ChainJudgement, Purpose, TrustPolicy
    from secguard.workspace import Workspace

__all__ = ["verify"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_PATH = click.Path(path_type=Path)
_PURPOSES = ("device", "platform", "media-signing", "operator", "log", "witness", "tsa", "ocsp", "isolation-agent")
_AXES = (Axis.PROVENANCE, Axis.REVOCATION)
_KINDS = {".pem", ".crt", ".cer", ".der"}
_MAX_FILES = 1_000_000


@command("identity.verify", "verify")
@click.argument("files", metavar="FILE...", type=_PATH, nargs=-1, required=True)
@click.option("--root", type=_FILE, help="Root certificate(s), PEM.  [default: the workspace's]")
@click.option("--crl", type=_PATH, multiple=True, help="Revocation list, PEM or DER, or a folder (repeatable).")
@click.option("--ocsp", type=_PATH, multiple=True, help="OCSP response, DER, or a folder (repeatable).")
@click.option("--online", is_flag=True, help="Ask the OCSP responder and fetch the lists that the certificate names.")
@click.option("--purpose", type=click.Choice(_PURPOSES), help="[default: the one that the certificate states]")
@click.option("--gbid", metavar="ID", help="The device that the certificate must name.")
@click.option("--at", "moment", metavar="TIME", help="Judge for this time.  [default: now]")
@require_option
def verify(
    ctx: Context,
    *,
    files: tuple[Path, ...],
    root: Path | None,
    crl: tuple[Path, ...],
    ocsp: tuple[Path, ...],
    online: bool,
    purpose: str | None,
    gbid: str | None,
    moment: str | None,
    require: tuple[Axis, ...],
) -> Result:
    """Judge certificates: chain, purpose, GB scope, revocation, at a time.

    FILE is PEM with the end entity first, or DER; of a folder, all end entities in it are judged.

    Exit code 0: all believed; 1: one is not to be believed; 3: the revocation status of one is not known.
    """
    from secguard.gbid import GbId
    from secguard.trust import Purpose

    expected = GbId.parse(gbid) if gbid else None
    many = len(files) > 1 or files[0].is_dir()
    ws = ctx.workspace_or_none()
    try:
        policy, known = _policy(ws, root, crl, ocsp)
        at = parse_time(moment) if moment else (ws.clock if ws is not None else SystemClock()).now()
    finally:
        if ws is not None:
            ws.close()
    judging = _Judging(policy, known, Purpose(purpose) if purpose else None, expected, at, online=online)
    if not many:
        return _one(judging, files[0], require)
    return _many(ctx, judging, files, require)


class _Judging:
    """What is asked, of every certificate alike."""

    def __init__(
        self,
        policy: "TrustPolicy",
        known: "list[x509.Certificate]",
        purpose: "Purpose | None",
        gbid: "GbId | None",
        at: datetime,
        *,
        online: bool,
    ) -> None:
        from secguard.trust import Gathered

        self._policy, self._purpose, self._gbid, self.at = policy, purpose, gbid, at
        # A city's workspace has more issuing CAs than a chain may hold: only those that fit are added.
        self._known: dict[x509.Name, list[x509.Certificate]] = {}
        for item in known:
            self._known.setdefault(item.subject, []).append(item)
        self._gathered = Gathered() if online else None

    def judge(self, chain: "Sequence[x509.Certificate]", where: str) -> "tuple[Purpose, ChainJudgement]":
        """Judge a chain; with `--online`, ask for its status first."""
        from secguard.trust import TrustPolicy, gather, stated_purposes

        stated = stated_purposes(chain[0])
        if self._purpose is None and not stated:
            raise UsageError(
                "identity.verify.purpose",
                "the certificate states no purpose of ours",
                hint="give --purpose",
                where=where,
            )
        purpose = self._purpose or stated[0]
        whole = [*chain, *(item for issuer in {one.issuer for one in chain} for item in self._known.get(issuer, ()))]
        judgement = self._policy.judge_chain(whole, purpose, self.at, gbid=self._gbid)
        # Only places that a believed chain names are asked; also when a list says good: they may know more.
        if self._gathered is None or not judgement.believed:
            return purpose, judgement
        before = len(self._gathered.findings)
        gather(judgement.path, self._gathered)
        policy = self._policy
        if self._gathered.crls:  # they serve the certificates after this one too
            policy = self._policy = TrustPolicy(policy.roots, [*policy.crls, *self._gathered.crls], policy.ocsp)
            self._gathered.crls.clear()
        wider = TrustPolicy(policy.roots, policy.crls, [*policy.ocsp, *self._gathered.ocsp])
        self._gathered.ocsp.clear()  # each is about one certificate
        judgement = wider.judge_chain(whole, purpose, self.at, gbid=self._gbid)
        remarks = self._gathered.findings[before:] if not judgement.unrevoked else []
        return purpose, dataclasses.replace(judgement, findings=(*judgement.findings, *remarks))


def _one(judging: _Judging, file: Path, require: tuple[Axis, ...]) -> Result:
    from secguard.trust import read_certificates

    chain = read_certificates(file)
    wanted, judgement = judging.judge(chain, str(file))
    verdict = judge(
        str(file),
        judging.at,
        examined=judgement.examined,
        findings=judgement.findings,
        default=_AXES,
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


def _many(ctx: Context, judging: _Judging, paths: Sequence[Path], require: tuple[Axis, ...]) -> Result:
    files = _expand(paths)
    progress = Throttle(ctx.progress("verify"))
    rows: list[dict[str, Any]] = []
    findings: list[Finding] = []
    examined = frozenset(_AXES)
    for number, (file, named) in enumerate(files, start=1):
        row, found, seen = _row(judging, file, require, named=named)
        progress(number, len(files), "files")
        if row is not None:
            rows.append(row)
            findings += [dataclasses.replace(item, where=f"{file}: {item.where}") for item in found]
            examined &= seen
    if not rows:
        raise UsageError("identity.verify.none", "no end entity's certificate there", where=str(paths[0]))
    verdict = judge(
        f"{len(rows)} certificates", judging.at, examined=examined, findings=findings, default=_AXES, require=require
    )
    counts = Counter(row["outcome"] for row in rows)
    columns = ("file", "gbid", "purpose", "outcome", "why")
    shown = [
        [row["file"], row["gbid"] or "", row["purpose"] or "", row["outcome"], ", ".join(row["codes"])] for row in rows
    ]
    return Result.of(
        verdict,
        data={"total": len(rows), **{str(item): counts[item] for item in Outcome}, "certificates": rows},
        tables=[Table(f"Certificates judged: {len(rows)}", columns, shown)],
        jsonl=rows,
        report=lambda _: _fleet_report(verdict, shown),
    )


def _expand(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """The files, and whether each was named (and must be a certificate) or found in a folder."""
    files: list[tuple[Path, bool]] = []
    for path in paths:
        if path.is_dir():
            inside = {item for item in path.rglob("*") if item.suffix.lower() in _KINDS and item.is_file()}
            # A chain beside its own certificate says nothing more; one that stands alone is a certificate to judge.
            files += [(item, False) for item in sorted(inside) if _alone(item) not in inside]
        else:
            files.append((path, True))
        if len(files) > _MAX_FILES:
            raise UsageError("identity.verify.too-many", f"more than {_MAX_FILES} files", where=str(path))
    return files


def _alone(file: Path) -> Path | None:
    """The file of the certificate alone, of a file that holds its chain by its name."""
    return file.with_name(f"{file.name.removesuffix('.chain.pem')}.pem") if file.name.endswith(".chain.pem") else None


def _row(
    judging: _Judging, file: Path, require: tuple[Axis, ...], *, named: bool
) -> tuple[dict[str, Any] | None, Sequence[Finding], frozenset[Axis]]:
    """One certificate of many; a file that cannot be read is a finding, and spoils none of the others."""
    from secguard.trust import is_ca, read_certificates, title

    purpose, gbid, serial, until = None, None, None, None
    examined = frozenset({Axis.PROVENANCE})
    try:
        chain = read_certificates(file)
        if not named and is_ca(chain[0]):
            return None, (), frozenset()
        serial, until = f"{chain[0].serial_number:x}", chain[0].not_valid_after_utc
        purpose, judgement = judging.judge(chain, str(file))
        findings, examined = judgement.findings, judgement.examined
        gbid = judgement.gbid.value if judgement.gbid else None
    except FormatError as error:
        if not named and error.code == "trust.certificate.format" and not _claims(file):
            return None, (), frozenset()  # a key, say
        findings = (finding("trust.certificate.malformed", reason=error.message),)
    except UsageError as error:
        if error.code != "identity.verify.purpose":
            raise
        findings = (
            finding("trust.purpose.wrong", title(chain[0]), purpose="any", reason="it states no purpose of ours"),
        )
    verdict = judge(str(file), judging.at, examined=examined, findings=findings, default=_AXES, require=require)
    codes = list(dict.fromkeys(item.code for item in findings if item.outcome is not Outcome.PASS))
    row = {
        "file": str(file),
        "outcome": verdict.outcome,
        "purpose": purpose,
        "gbid": gbid,
        "serial": serial,
        "not_after": until,
        "axes": {str(axis): outcome for axis, outcome in verdict.axes.items()},
        "codes": codes,
    }
    return row, findings, examined


def _claims(file: Path) -> bool:
    """Whether a file found in a folder claims to hold a certificate."""
    with file.open("rb") as source:
        return b"-----BEGIN CERTIFICATE-----" in source.read(1 << 16) or file.suffix.lower() in {".cer", ".crt"}


def _policy(
    ws: "Workspace | None", root: Path | None, crls: tuple[Path, ...], ocsp: tuple[Path, ...]
) -> "tuple[TrustPolicy, list[x509.Certificate]]":
    """What is believed, and the issuing CAs that a workspace knows, so that a certificate alone can be judged."""
    from secguard.trust import TrustPolicy, read_certificates, read_crls, read_ocsp

    responses = read_ocsp(ocsp)
    if ws is None:
        if root is None:
            raise UsageError("identity.verify.root", "no root certificate to believe", hint="give --root CA.pem")
        return TrustPolicy(read_certificates(root), read_crls(crls), responses), []
    if root is None and not ws.root_certificate.exists():
        raise UsageError("identity.ca.none", "this site has no CA yet", hint="give --root CA.pem, or: identity ca init")
    known = [item.x509() for name, item in ws.registry.authorities().items() if name != "root" and item.certificate]
    policy = ws.trust(root, crls)
    return (TrustPolicy(policy.roots, policy.crls, responses) if responses else policy), known


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


def _fleet_report(verdict: Verdict, rows: Sequence[Sequence[Any]]) -> "Report":
    from secguard.report import Report, Text
    from secguard.report import Table as ReportTable

    names = [
        Text("File", "文件"),
        Text("Device ID", "国标 ID"),
        Text("Purpose", "用途"),
        Text("Outcome", "结论"),
        Text("Findings", "发现项"),
    ]
    table = ReportTable(Text("Certificates", "证书"), names, [list(row) for row in rows])
    return Report.of(verdict, Text("Certificates judged", "证书核验"), [table])
