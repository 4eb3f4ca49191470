"""`secguard identity lint`: what is issued, held against the standards."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.core.limits import MAX_DOCUMENT, read_bounded

if TYPE_CHECKING:
    from secguard.core import Finding, Verdict
    from secguard.identity.lint import Document
    from secguard.report import Report
    from secguard.workspace import Workspace

__all__ = ["lint"]


@command("identity.lint", "lint")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--registry", is_flag=True, help="Lint the CAs, active certificates and lists of this site.")
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="N",
    help="With --registry: at most so many certificates, spread over the register.",
)
def lint(ctx: Context, *, files: tuple[Path, ...], registry: bool, sample: int) -> Result:
    """Hold certificates, revocation lists and OCSP responses against RFC 5280 and 6960, with pkilint.

    Without FILE, one of everything that this site's profiles issue is made in memory and linted. Whatever pkilint says
    at WARNING or above is a violation.
    """
    from secguard.core import Axis, judge
    from secguard.core.clock import SystemClock
    from secguard.identity.lint import documents_of, judge_documents

    progress = ctx.progress("linting")
    lines: Sequence[str] = ()
    problems: Sequence[Finding] = ()
    if files:
        documents = [item for path in files for item in documents_of(read_bounded(path, MAX_DOCUMENT), str(path))]
        found = judge_documents(documents, len(documents), progress)
        subject, now = ", ".join(map(str, files[:4])), SystemClock().now()
    else:
        with ctx.workspace() as ws:
            now = ws.clock.now()
            if registry:
                subject = f"the register of {ws.root}"
                documents, total = _registered(ws, sample)
                lines = [f"{min(sample, total)} of {total} active certificates, the CAs and the lists"]
            else:
                subject = f"the profiles in {ws.certs}"
                documents, problems = _samples(ws)
        found = judge_documents(documents, len(documents), progress)
    verdict = judge(
        subject,
        now,
        examined=[Axis.CONFORMANCE] if documents else [],
        findings=[*problems, *found],
        default=[Axis.CONFORMANCE],
    )
    kinds = dict(Counter(str(item.kind) for item in documents))
    return Result.of(
        verdict,
        data={"linted": kinds},
        tables=[Table("Linted", ("kind", "count"), list(kinds.items()))],
        lines=lines,
        report=lambda _: _report(verdict, kinds),
    )


def _samples(ws: "Workspace") -> "tuple[list[Document], list[Finding]]":
    from secguard.gbid import Scope
    from secguard.identity.profiles import load_ca_profiles, load_profiles
    from secguard.identity.samples import Samples

    scope = Scope((ws.config.site.area,))
    profiles, ca_profiles = load_profiles(ws.certs), load_ca_profiles(ws.certs / "ca")
    samples = Samples(profiles, ca_profiles, ws.identity_config, scope, ws.clock.now())
    return list(samples.documents()), samples.problems


def _registered(ws: "Workspace", sample: int) -> "tuple[list[Document], int]":
    """The site's own: CAs, every n-th active certificate, the published lists."""
    from secguard.identity.lint import Document, Kind

    made = [
        Document(f"CA {name}", Kind.CERTIFICATE, ca.certificate)
        for name, ca in ws.registry.authorities().items()
        if ca.certificate
    ]

    def active() -> "Iterator[Document]":
        for item in ws.registry.certificates():
            if item.status == "active" and item.certificate is not None and item.purpose != "ca":
                name = f"{item.holder} ({item.profile}, {item.serial})"
                yield Document(name, Kind.CERTIFICATE, item.certificate, f"{item.profile} by {item.issuer}")

    total = sum(count for *_, count in ws.registry.expiries())
    step = max(1, -(-total // sample))
    made += [item for number, item in enumerate(active()) if number % step == 0]
    made += [Document(path.name, Kind.CRL, read_bounded(path, MAX_DOCUMENT)) for path in ws.crl_paths()]
    return made, total


def _report(verdict: "Verdict", kinds: "Mapping[str, int]") -> "Report":
    from secguard.report import Facts, Report, Text

    names = {
        "certificate": Text("Certificates", "证书"),
        "crl": Text("Revocation lists", "证书吊销列表"),
        "ocsp-response": Text("OCSP responses", "OCSP 响应"),
    }
    facts = Facts(Text("Linted", "检查对象"), [(names[kind], count) for kind, count in kinds.items()])
    return Report.of(verdict, Text("Certificates against the standards", "证书标准符合性检查"), [facts])
