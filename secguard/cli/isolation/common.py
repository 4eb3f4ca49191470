"""What the commands of a scan share: options, keys, the record in a workspace, and how a result is shown."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table
from secguard.core.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.core.verdict import Verdict
    from secguard.isolation.runs.conclude import RunResult
    from secguard.isolation.runs.runner import Act
    from secguard.keys import Signer

__all__ = [
    "FILE",
    "acts",
    "chain_option",
    "folder_option",
    "hostile_option",
    "key_option",
    "new_folder",
    "passphrase_option",
    "show",
    "signer_of",
    "signing",
]

_WORDS = {
    "en": {"pass": "pass", "fail": "fail", "unknown": "inconclusive"},
    "zh": {"pass": "通过", "fail": "不通过", "unknown": "无法判定"},
}


FILE = click.Path(path_type=Path, dir_okay=False)
key_option = click.option(
    "--key", "key", metavar="REF", help="Key that signs, file:PATH.  [default: made for this run]"
)
passphrase_option = click.option("--passphrase-file", type=FILE, help="Opens the key.")
folder_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write plan, observations and result here too, signed: a new folder for each run. A workspace keeps its own.",
)
hostile_option = click.option(
    "--allow-hostile",
    is_flag=True,
    help="Send probes that may crash poor network stacks wherever probes go, not only to the agents' own addresses.",
)
chain_option = click.option("--chain", type=FILE, help="Certificates of the key that signs, PEM, its own first.")


def signer_of(ctx: Context, key: str | None, passphrase_file: Path | None) -> "Signer | None":
    """The key of `--key`, opened; None if there is none."""
    if key is None:
        return None
    from secguard.keys import find_passphrase, load_signer

    site = ctx.workspace_or_none()
    if site is None:
        return load_signer(key, find_passphrase(passphrase_file))
    with site:
        return load_signer(key, site.passphrase(passphrase_file))


def signing(
    ctx: Context, key: str | None, passphrase_file: Path | None, chain: Path | None
) -> "tuple[Signer | None, list[x509.Certificate]]":
    """Who signs a plan: `--key` with its `--chain`, else the operator of the workspace, if it has an authority.

    Raises:
        UsageError: a chain without a key, or of another one.
    """
    from secguard.isolation.agent.keys import spki
    from secguard.trust import read_certificates

    if key is not None:
        signer = signer_of(ctx, key, passphrase_file)
        assert signer is not None
        certificates = read_certificates(chain) if chain else []
        if certificates and spki(certificates[0].public_key()) != spki(signer.public_key()):
            raise UsageError("isolation.key.chain", "the chain is of another key", where=str(chain))
        return signer, certificates
    if chain is not None:
        raise UsageError("isolation.key.chain", "--chain is for --key", hint="give --key too")
    site = ctx.workspace_or_none()
    if site is None:
        return None, []
    with site:
        if not site.root_certificate.exists() or not site.registry.holders("operator"):
            return None, []
        return site.operator_signer(passphrase_file)


def new_folder(folder: Path | None) -> None:
    """Refuse, before anything is sent, to write over an earlier scan.

    Raises:
        RefusedError: the folder holds something.
    """
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        raise RefusedError(
            "isolation.output.exists",
            "the folder is not empty; a scan never overwrites another",
            hint="name a new one, or leave -o away: a workspace keeps every scan by itself",
            where=str(folder),
        )


@contextlib.contextmanager
def acts(ctx: Context, case: str, reason: str, **data: Any) -> Iterator["Act"]:
    """Records the run as a long act when a workspace is open."""
    from secguard.isolation.runs.runner import no_act

    site = ctx.workspace_or_none()
    if site is None:
        yield no_act
        return
    from secguard.events import long_act

    with site:
        site.close_dangling()
        ledger, actor = site.ledger, site.actor()
        yield lambda digest: long_act(
            ledger, site.clock, "scan", actor=actor, subject=f"sha256:{digest}", case=case, reason=reason, **data
        )


def show(result: "RunResult", lang: str, verdict: "Verdict | None" = None, **data: Any) -> Result:
    """A run as a command's result; `verdict` stands for its own, `data` goes into its document."""
    from secguard.isolation.judge.show import kind_words, report

    zones = list(dict.fromkeys([pair.src for pair in result.matrix] + [pair.dst for pair in result.matrix]))
    cells = {(pair.src, pair.dst): pair for pair in result.matrix}

    def text(src: str, dst: str) -> str:
        pair = cells.get((src, dst))
        if pair is None:
            return "-"
        kinds = [getattr(kind_words(kind), lang) for kind in pair.kinds]
        return ": ".join(filter(None, (_WORDS[lang][pair.outcome], ", ".join(kinds))))

    matrix = Table(
        "从（行）到（列）" if lang == "zh" else "from (row) to (column)",
        ["", *zones],
        [[src, *(text(src, dst) for dst in zones)] for src in zones],
    )
    columns = result.columns
    names = list(columns)
    return Result.of(
        verdict or result.verdict,
        data={
            **data,
            "plan": result.digest,
            "policy": result.plan.policy,
            "run": result.plan.run,
            "seconds": result.seconds,
            "matrix": result.matrix,
            "cases": columns,
            "problems": result.problems,
            "sweeps": [item.row() for item in result.sweeps],
        },
        tables=[matrix, *_sweeps(result)],
        lines=[*result.problems, f"{_size(result)} in {result.seconds:.1f} s"],
        jsonl=(dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)),
        report=lambda _: report(result),
    )


def _size(result: "RunResult") -> str:
    swept = sum(sweep.size for sweep in result.plan.sweeps)
    return f"{len(result.plan.cases)} cases" + (f" and {swept:,} probes of sweeps" if swept else "")


def _sweeps(result: "RunResult") -> list[Table]:
    if not result.sweeps:
        return []
    rows = [
        (
            f"{item.src} -> {item.dst}",
            item.target,
            f"{item.protocol} {item.ports}".strip(),
            f"{item.probed:,} of {item.named:,}" + ("" if item.covered else " (no sensor)"),
            ", ".join(f"{count:,} {word}" for word, count in sorted(item.counts.items(), key=lambda pair: -pair[1])),
        )
        for item in result.sweeps
    ]
    return [Table("sweeps", ["from -> to", "target", "ports", "hosts", "results"], rows)]
