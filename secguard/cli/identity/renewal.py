"""`secguard identity expiring` and `renew`: what ends soon, and certifying it again."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.cli.identity.common import (
    FOLDER,
    PASSPHRASE,
    certificate_listing,
    certificate_row,
    issued_result,
    open_authority,
    receipt_of,
)
from secguard.core.errors import UsageError

if TYPE_CHECKING:
    from secguard.core import Finding, Verdict
    from secguard.identity import Authority
    from secguard.identity.records import CertificateRecord
    from secguard.identity.renewal import Chosen, Renewals
    from secguard.identity.renewal_report import Ends
    from secguard.report import Report
    from secguard.workspace import Workspace

__all__ = ["expiring", "renew"]

_PROFILE = click.option("--profile", default="", metavar="NAME", help="Only certificates of this profile.")
_AREA = click.option("--area", default="", metavar="CODE", help="Only devices whose ID begins with these digits.")


@command("identity.expiring", "expiring")
@click.option("--days", type=click.IntRange(0, 36500), default=30, show_default=True, help="Within so many days.")
@_PROFILE
@_AREA
@click.option(
    "--critical",
    type=click.IntRange(0, 36500),
    metavar="DAYS",
    help="Judge: exit 1 if a certificate or CA has ended, or ends within so many days.",
)
def expiring(ctx: Context, *, days: int, profile: str, area: str, critical: int | None) -> Result:
    """List active certificates that end soon, or have ended, soonest first; plot the ends of all with --report."""
    from secguard.identity.profiles import load_profiles
    from secguard.identity.renewal import check_area, check_profile
    from secguard.identity.renewal_report import expiry_report, expiry_verdict

    check_area(area)
    with ctx.workspace() as ws:
        check_profile(profile, load_profiles(ws.certs), ws.registry)
        now = ws.clock.now()
        horizon = now + timedelta(days=days)
        soon: list[tuple[datetime, str]] = []
        rows = []
        for record in ws.registry.expiring(now + timedelta(days=max(days, critical or 0)), bare=True):
            if not _wanted(record, profile, area):
                continue
            end = datetime.fromisoformat(record.not_after)
            soon.append((end, record.profile))
            if end < horizon:
                rows.append(certificate_row(record, now))
        ends = _ends(ws, now, profile, area, soon)
    verdict = expiry_verdict(ends, f"certificates of {ws.config.site.name}", critical) if critical is not None else None
    listing = certificate_listing(f"Ending within {days} days", rows)
    weeks = {"weeks": dict(sorted(ends.weeks().items())), "cliffs": dict(ends.cliffs())}
    cas = [{"name": ca.name, "not_after": ca.x509().not_valid_after_utc} for ca in ends.cas]
    listing.data = {
        **listing.data,
        **weeks,
        "in_force": ends.total - sum(ends.before(now).values()),
        "authorities": cas,
    }
    listing.lines = [f"{count} certificates end in week {week}" for week, count in ends.cliffs()]
    listing.report = lambda _: expiry_report(ends, rows, days, verdict)
    if verdict is not None:
        listing.outcome, listing.axes, listing.findings = verdict.outcome, verdict.axes, verdict.findings
    return listing


def _wanted(record: "CertificateRecord", profile: str, area: str) -> bool:
    return profile in {"", record.profile} and (record.device or "").startswith(area)


def _ends(ws: "Workspace", now: datetime, profile: str, area: str, soon: list[tuple[datetime, str]]) -> "Ends":
    from secguard.identity.profiles import load_profiles
    from secguard.identity.renewal_report import Ends

    days = [
        (date.fromisoformat(day), name, issuer, count)
        for day, name, issuer, count in ws.registry.expiries(area)
        if profile in {"", name}
    ]
    profiles = load_profiles(ws.certs)
    longest: dict[str, int] = {}
    for _, name, issuer, _ in days:
        if name in profiles:
            longest[issuer] = max(longest.get(issuer, 0), profiles[name].days)
    cas = [ca for ca in ws.registry.authorities().values() if ca.certificate]
    return Ends(days, cas, now, longest, soon)


@command("identity.renew", "renew")
@click.argument("holder", metavar="[GBID]", required=False)
@_PROFILE
@click.option("--due", is_flag=True, help="All that are past two thirds of their life, each at a moment of its own.")
@click.option(
    "--expiring", "within", type=click.IntRange(0, 36500), metavar="DAYS", help="All that end within so many days."
)
@_AREA
@click.option("--dry-run", is_flag=True, help="With --due or --expiring: only tell what would be renewed.")
@click.option(
    "-o",
    "--output",
    type=FOLDER,
    metavar="DIR",
    help="With --due or --expiring: certify keys that devices hold too; their certificates go here, to be put on them.",
)
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Threads that write files.")
@PASSPHRASE
def renew(
    ctx: Context,
    *,
    holder: str | None,
    profile: str,
    due: bool,
    within: int | None,
    area: str,
    dry_run: bool,
    output: Path | None,
    jobs: int,
    passphrase_file: Path | None,
) -> Result:
    """Certify the key of one active certificate again (GBID with --profile), or of all that are --due or --expiring.

    Renewed is what has its key here; the others are named: devices that keep their key renew by EST, or get a
    certificate from DIR by hand. A run that is broken off is completed by the next.
    """
    from secguard.identity.profiles import load_profiles
    from secguard.identity.renewal import check_area, check_profile, choose, renew_chosen

    check_area(area)
    if sum((holder is not None, due, within is not None)) != 1:
        raise UsageError(
            "identity.renew.what",
            "say what to renew: one certificate, or all of a kind",
            hint="give GBID with --profile NAME, or --due, or --expiring DAYS",
        )
    if holder is not None:
        if not profile or dry_run or area or output:
            raise UsageError(
                "identity.renew.profile",
                f"which certificate of {holder[:64]}?" if not profile else "--dry-run, --area and -o are for many",
                hint="give GBID with --profile NAME, and nothing else",
            )
        with open_authority(ctx, passphrase_file) as (_, authority):
            return issued_result([authority.renew(holder, profile)], authority)
    if dry_run:
        with ctx.workspace() as ws:
            check_profile(profile, load_profiles(ws.certs), ws.registry)
            return _planned(choose(ws.registry, ws.clock.now(), days=within, profile=profile, area=area))
    with open_authority(ctx, passphrase_file) as (ws, authority):
        check_profile(profile, load_profiles(ws.certs), ws.registry)
        chosen = choose(ws.registry, ws.clock.now(), days=within, profile=profile, area=area)
        done = renew_chosen(authority, chosen, folder=output, jobs=jobs, progress=ctx.progress("renewing"))
        return _renewed(authority, done)


def _planned(chosen: "list[Chosen]") -> Result:
    """What `--dry-run` tells."""
    rows = [_row(item) for item in chosen]
    here = sum(1 for item in chosen if item.key)
    table = Table(
        "To renew", tuple(rows[0]) if rows else ("holder",), [[v or "" for v in row.values()] for row in rows]
    )
    lines = [f"{here} have their key here, {len(chosen) - here} in the device; nothing was renewed"]
    return Result(
        data={"total": len(rows), "here": here, "certificates": rows}, tables=[table], lines=lines, jsonl=rows
    )


def _row(item: "Chosen") -> dict[str, Any]:
    return {
        "holder": item.holder,
        "profile": item.profile,
        "issuer": item.issuer,
        "serial": item.serial,
        "not_after": item.not_after,
        "key": item.key or None,
    }


def _findings(done: "Renewals") -> "Iterator[Finding]":
    from secguard.core import finding

    for item, error in done.failed:
        where = f"{item.holder} ({item.profile})"
        yield finding("identity.renewal.failed", where, reason=str(error), hint=error.hint, error=error.code)
    held = Counter((item.profile, item.issuer) for item in done.held_back)
    for (profile, issuer), count in sorted(held.items()):
        yield finding("identity.renewal.held-back", count=count, profile=profile, issuer=issuer)
    for profile, count in sorted(Counter(item.profile for item in done.in_device).items()):
        yield finding("identity.renewal.in-device", count=count, profile=profile)


def _renewed(authority: "Authority", done: "Renewals") -> Result:
    from secguard.core import Axis, judge

    verdict = judge(
        "renewal",
        authority.clock.now(),
        examined=[Axis.CONFORMANCE],
        findings=list(_findings(done)),
        default=[Axis.CONFORMANCE],
    )
    counts = {
        "renewed": len(done.renewed),
        "delivered": len(done.delivered),
        "in_device": len(done.in_device),
        "held_back": len(done.held_back),
        "failed": len(done.failed),
    }
    words = {
        "renewed": "renewed",
        "delivered": "delivered late, after a broken run",
        "in_device": "key in the device",
        "held_back": "held back by a CA that ends",
        "failed": "failed",
    }
    return Result.of(
        verdict,
        data={
            **counts,
            "certificates": [certificate_row(record) for record in (*done.renewed, *done.delivered)],
            "devices": [_row(item) for item in done.in_device],
            "held": [_row(item) for item in done.held_back],
        },
        receipt=receipt_of(authority.receipts),
        tables=[Table("Renewal", ("what", "certificates"), [(words[key], count) for key, count in counts.items()])],
        report=lambda _: _report(verdict, done),
    )


def _report(verdict: "Verdict", done: "Renewals") -> "Report":
    from secguard.report import Code, Report, Text
    from secguard.report import Table as ReportTable

    columns = [
        Text("Holder", "持有者"),
        Text("Profile", "模板"),
        Text("Issuing CA", "签发 CA"),
        Text("Serial number", "序列号"),
        Text("Valid until", "有效期至"),
    ]
    lists = (
        (Text("Renewed", "已续期"), [*done.renewed, *done.delivered]),
        (Text("Key in the device", "私钥在设备内"), done.in_device),
        (Text("Held back by a CA that ends", "因 CA 即将到期而无法续期"), done.held_back),
        (Text("Failed", "续期失败"), [item for item, _ in done.failed]),
    )
    sections = [
        ReportTable(
            title,
            columns,
            [
                [Code(one.holder), one.profile, one.issuer, Code(one.serial), datetime.fromisoformat(one.not_after)]
                for one in items
            ],
        )
        for title, items in lists
        if items
    ]
    return Report.of(verdict, Text("Renewal of certificates", "证书续期"), sections)
