"""`secguard identity device coverage`: the register against the platform's catalog, and the signed report of it."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command, require_option
from secguard.cli.identity.common import FILE, PASSPHRASE, ask_passphrase, receipt_of
from secguard.cli.identity.device import check_prefixes, open_register
from secguard.core.clock import parse_time
from secguard.core.errors import UsageError
from secguard.core.verdict import Axis

if TYPE_CHECKING:
    from secguard.identity.inventory.coverage import Rate

__all__ = ["coverage", "coverage_verify"]

_SHOWN = 50


@command("identity.device.coverage", "coverage")
@click.option(
    "--catalog",
    "files",
    type=FILE,
    multiple=True,
    required=True,
    metavar="FILE",
    help="The platform's catalog: MANSCDP XML, CSV or JSON (repeatable).",
)
@click.option("--area", default="", metavar="DIGITS", help="IDs that start so only: 320116.")
@click.option("--target", type=click.FloatRange(0, 100, min_open=True), help="Per cent.  [default: the policy's, 100]")
@click.option("--at", "moment", metavar="TIME", help="Certificates must be valid at this time.  [default: now]")
@click.option("--encoding", default="", metavar="NAME", help="utf-8, gb18030 or utf-16.  [default: found out]")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write the report, signed by the operator (DSSE).")
@click.option("--operator", default=None, metavar="NAME", help="Whose key signs.  [default: yours, or the site's]")
@PASSPHRASE
@require_option
def coverage(
    ctx: Context,
    *,
    files: tuple[Path, ...],
    area: str,
    target: float | None,
    moment: str | None,
    encoding: str,
    output: Path | None,
    operator: str | None,
    passphrase_file: Path | None,
    require: tuple[Axis, ...],
) -> Result:
    """Compare the register with the platform's catalog: registered, complete, located, certified; exceptions by name.

    Exit code 0: the target is reached; 1: it is not; 3: it cannot be told (bounds of areas, a catalog cut short).
    `--report FILE.html` or `.csv` writes it for people, `--lang zh` in Chinese.
    """
    from secguard.core import rfc3339
    from secguard.identity.inventory.coverage import MEASURES, compare, per_cent
    from secguard.identity.inventory.read import merge, read_list
    from secguard.identity.inventory.rows import no_collection
    from secguard.identity.inventory.sealed import facts, make_statement, seal_statement
    from secguard.identity.inventory.show import MEASURE_WORDS, coverage_report
    from secguard.store import atomic_write
    from secguard.trust import read_crls

    check_prefixes(area)
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError("identity.export.folder", "no such folder", where=str(output.absolute().parent))
    sources = [read_list(path, encoding=encoding) for path in files]
    with ctx.workspace() as ws, no_collection():
        register = open_register(ws)
        at = parse_time(moment) if moment else ws.clock.now()
        issuers = {
            name: (rfc3339(item.not_valid_before_utc), rfc3339(item.not_valid_after_utc))
            for name, item in ((name, ca.x509()) for name, ca in ws.registry.authorities().items() if ca.certificate)
        }
        found = compare(
            merge(sources),
            ws.registry.devices(),
            ws.registry.certified(),
            register.policy,
            at,
            issuers=issuers,
            area=area,
            target=target,
            require=require,
            progress=ctx.progress("comparing"),
        )
        verdict = found.verdict
        assert verdict is not None
        edition = str(ws.config.site.edition)
        if output is not None:
            authority = ask_passphrase(ws.authority(passphrase_file))
            own, holders = ws.actor().name, ws.registry.holders("operator")
            name = operator or (own if own in holders else next(iter(holders), None))
            signer, chain = authority.operator_signer(name)
            row = ws.registry.active(name, "operator") if name else None
            issuer = row.issuer if row else ""
            lists = [path for path in ws.crl_paths() if not issuer or path.stem in {"root", issuer}]
            statement = make_statement(
                found, sources, register.policy, made=ws.clock.now(), chain=chain, crls=read_crls(lists)
            )
            envelope, digest = seal_statement(statement, signer)
            event = register.event("devices.compared", area or "all", report_sha256=digest, **facts(statement))
            register.record([event])
            atomic_write(output, envelope, mode=0o640)
    rates = {
        name: {
            "passed": rate.passed,
            "unknown": rate.unknown,
            "total": rate.total,
            "percent": per_cent(rate.passed, rate.total),
        }
        for name, rate in found.rates.items()
    }
    zh = ctx.lang == "zh"
    words = [MEASURE_WORDS[name].zh if zh else MEASURE_WORDS[name].en for name in MEASURES]
    rows = [
        (word, rate["passed"], rate["unknown"], rate["total"], f"{rate['percent']} %")
        for word, rate in zip(words, (rates[name] for name in MEASURES), strict=True)
    ]
    return Result.of(
        verdict,
        data={
            "catalog": [{"name": item.name, "size": item.size, "sha256": item.sha256} for item in sources],
            "registry_sha256": found.registry,
            "area": area,
            "target": found.target,
            "entries": found.entries,
            **rates,
            "areas": _percents(found.areas),
            "types": _percents(found.types),
            "ghosts": found.ghosts,
            "offline": found.offline,
            "skipped": dict(found.skipped),
            "datums": dict(found.datums),
            "exceptions": found.exceptions,
            "unregistered": [item.gbid for item in found.exceptions if item.measure == "registered"],
            "file": output,
        },
        receipt=receipt_of(register.receipts),
        tables=[
            Table(
                "与目录比对" if zh else "Register against catalog",
                ("measure", "yes", "unknown", "catalog", "rate"),
                rows,
            )
        ],
        jsonl=[
            {"gbid": e.gbid, "name": e.name, "measure": e.measure, "code": e.code, **e.data} for e in found.exceptions
        ],
        lines=[f"signed report: {output}"] if output is not None else [],
        report=lambda _: coverage_report(found, sources, edition),
    )


def _percents(groups: "dict[str, dict[str, Rate]]") -> dict[str, dict[str, dict[str, float]]]:
    from secguard.identity.inventory.coverage import per_cent

    return {
        key: {
            name: {"passed": rate.passed, "total": rate.total, "percent": per_cent(rate.passed, rate.total)}
            for name, rate in rates.items()
        }
        for key, rates in sorted(groups.items())
    }


@command("identity.device.coverage-verify", "coverage-verify")
@click.argument("file", type=FILE)
@click.option("--root", type=FILE, help="Root certificate(s), PEM.  [default: the workspace's]")
@click.option("--crl", type=click.Path(path_type=Path), multiple=True, help="Newer revocation list (repeatable).")
@click.option("--catalog", "catalogs", type=FILE, multiple=True, help="Must be a file that was compared (repeatable).")
@click.option(
    "--at",
    "moment",
    metavar="TIME",
    help="Judge the operator's certificate for this time.  [default: the time the report says it was made]",
)
@require_option
def coverage_verify(
    ctx: Context,
    *,
    file: Path,
    root: Path | None,
    crl: tuple[Path, ...],
    catalogs: tuple[Path, ...],
    moment: str | None,
    require: tuple[Axis, ...],
) -> Result:
    """Verify a signed coverage report, offline: unchanged, and signed by an operator that the root certifies.

    Judges the signature, not the coverage: `stated` is what the report says.
    """
    from secguard.core.limits import MAX_DOCUMENT, read_bounded
    from secguard.identity.inventory.coverage import per_cent
    from secguard.identity.inventory.rows import MAX_FILE
    from secguard.identity.inventory.sealed import open_statement, verify
    from secguard.trust import read_certificates, read_crls

    opened = open_statement(read_bounded(file, MAX_DOCUMENT), str(file))
    if root is None:
        ws = ctx.workspace_or_none()
        if ws is None:
            raise UsageError("identity.verify.root", "no root certificate to believe", hint="give --root CA.pem")
        with ws:
            root = ws.root_certificate
    digests = {str(path): hashlib.sha256(read_bounded(path, MAX_FILE)).hexdigest() for path in catalogs}
    verdict = verify(
        opened,
        str(file),
        read_certificates(root),
        read_crls(crl),
        at=parse_time(moment) if moment else None,
        catalog=digests,
        require=require,
    )
    stated = opened.statement
    rates = [
        (name, rate.passed, rate.total, f"{per_cent(rate.passed, rate.total)} %") for name, rate in stated.rates.items()
    ]
    return Result.of(
        verdict,
        data={
            "stated": {
                "outcome": stated.outcome,
                "made": stated.made,
                "at": stated.at,
                "operator": stated.operator,
                "catalog": stated.catalog,
                "registry_sha256": stated.registry_sha256,
                "area": stated.area,
                "target": stated.target,
                "entries": stated.entries,
                "rates": stated.rates,
                "ghosts": stated.ghosts,
                "exceptions": stated.exceptions,
            },
            "report_sha256": opened.sha256,
        },
        tables=[
            Table(f"Stated by {stated.operator} at {stated.made}", ("measure", "yes", "catalog", "rate"), rates),
            Table(
                "Exceptions", ("gbid", "name", "code"), [(e.gbid, e.name, e.code) for e in stated.exceptions[:_SHOWN]]
            ),
        ],
        lines=[f"{len(stated.exceptions)} exceptions", f"stated outcome: {stated.outcome}"],
    )
