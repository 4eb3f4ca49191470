"""`secguard isolation`: prove with packets that zones are separated."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, act_options, command, require_option
from secguard.cli.isolation.folders import judge_folder, keep, read_key
from secguard.core.errors import UsageError
from secguard.core.verdict import Axis

if TYPE_CHECKING:
    from secguard.isolation.runs.conclude import RunResult
    from secguard.isolation.runs.runner import Act
    from secguard.keys import Signer

__all__ = ["judge_", "lab_", "plan", "run_"]

_WORDS = {
    "en": {"pass": "pass", "fail": "fail", "unknown": "inconclusive"},
    "zh": {"pass": "通过", "fail": "不通过", "unknown": "无法判定"},
}


_FILE = click.Path(path_type=Path, dir_okay=False)
_key = click.option("--key", "key", metavar="REF", help="Key that signs, file:PATH.  [default: made for this run]")
_passphrase = click.option("--passphrase-file", type=_FILE, help="Opens the key.")
_folder = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write plan, observations and result here, signed.",
)


def _signer(ctx: Context, key: str | None, passphrase_file: Path | None) -> "Signer | None":
    if key is None:
        return None
    from secguard.keys import find_passphrase, load_signer

    site = ctx.workspace_or_none()
    if site is None:
        return load_signer(key, find_passphrase(passphrase_file))
    with site:
        return load_signer(key, site.passphrase(passphrase_file))


@contextlib.contextmanager
def _acts(ctx: Context, case: str, reason: str, **data: Any) -> Iterator["Act"]:
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


def _show(result: "RunResult", lang: str, **data: Any) -> Result:
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
        result.verdict,
        data={
            **data,
            "plan": result.digest,
            "policy": result.plan.policy,
            "run": result.plan.run,
            "seconds": result.seconds,
            "matrix": result.matrix,
            "cases": columns,
            "problems": result.problems,
        },
        tables=[matrix],
        lines=[*result.problems, f"{len(result.plan.cases)} cases in {result.seconds:.1f} s"],
        jsonl=(dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)),
        report=lambda _: report(result),
    )


def _namespace(text: str) -> tuple[str, str]:
    zone, equals, place = text.partition("=")
    if not equals or not zone or not place:
        raise UsageError("isolation.namespace.format", f"not ZONE=NAMESPACE: {text[:60]!r}", hint="int=/run/netns/int")
    if "/" in place:
        return zone, place
    return zone, f"/proc/{place}/ns/net" if place.isdigit() else f"/run/netns/{place}"


@command("isolation.plan", "plan")
@click.argument("policy", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, help="Where to write the signed plan (private, 0600).")
@click.option("--valid", type=click.FloatRange(60, 31 * 86400), default=86400, show_default=True, help="Seconds.")
@_key
@_passphrase
def plan(
    ctx: Context, *, policy: Path, output: Path, valid: float, key: str | None, passphrase_file: Path | None
) -> Result:
    """Compile a policy into a signed plan; every agent needs its addresses in the policy."""
    from collections import Counter

    from secguard.core.clock import SystemClock
    from secguard.core.files import atomic_write
    from secguard.isolation.plan.compiler import compile_plan
    from secguard.isolation.plan.plan import AgentInfo, open_plan, seal_plan
    from secguard.isolation.policy.policy import load_policy
    from secguard.keys import Algorithm, generate

    checked = load_policy(policy)
    agents = [AgentInfo(a.name, zone.name, a.addresses) for zone in checked.zones for a in zone.agents]
    signer = _signer(ctx, key, passphrase_file) or generate(Algorithm.ED25519)
    envelope = seal_plan(compile_plan(checked, agents, SystemClock().now(), valid=valid), signer)
    made, digest = open_plan(envelope, [signer.public_key()])
    atomic_write(output, envelope, mode=0o600)
    pairs = Counter(
        (made.agents[a].zone, made.agents[b].zone) for a, b in zip(made.cases.src, made.cases.dst, strict=True)
    )
    return Result(
        data={"plan": digest, "cases": len(made.cases), "output": output, "not_after": made.not_after},
        tables=[Table("cases", ["from", "to", "cases"], [(*pair, count) for pair, count in pairs.items()])],
        lines=[f"plan sha256:{digest}", f"valid until {made.not_after:%Y-%m-%d %H:%M:%S} UTC"],
    )


@command("isolation.run", "run")
@click.argument("policy", type=_FILE)
@click.argument("more", nargs=-1, metavar="[ZONE=NAMESPACE]...")
@click.option(
    "--in-namespaces",
    "namespaces",
    multiple=True,
    required=True,
    metavar="ZONE=NAMESPACE...",
    help="Network namespace of each zone's agent: a path, a name of /run/netns, or a process ID.",
)
@_folder
@_key
@_passphrase
@act_options
def run_(
    ctx: Context,
    *,
    policy: Path,
    more: Sequence[str],
    namespaces: Sequence[str],
    output: Path | None,
    key: str | None,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Probe between network namespaces by a policy, from both ends, and judge."""
    del yes
    from secguard.isolation.policy.policy import load_policy
    from secguard.isolation.runs.runner import run

    checked = load_policy(policy)
    places = dict(map(_namespace, (*namespaces, *more)))
    with _acts(ctx, case, reason, policy=checked.digest) as act:
        result = run(
            checked, places, signer=_signer(ctx, key, passphrase_file), progress=ctx.progress("isolation"), act=act
        )
    kept = keep(ctx, result, output)
    return _show(result, ctx.lang, **({"folder": kept} if kept else {}))


@command("isolation.judge", "judge")
@click.argument("plan_file", metavar="PLAN|FOLDER", type=click.Path(path_type=Path))
@click.argument("observations", nargs=-1, type=_FILE)
@click.option("--trust", type=_FILE, help="Public key (PEM) whose signature on the plan counts.")
@require_option
def judge_(
    ctx: Context, *, plan_file: Path, observations: Sequence[Path], trust: Path | None, require: tuple[Axis, ...]
) -> Result:
    """Judge a signed plan and the agents' signed observations, carried here as files.

    Takes PLAN and OBSERVATIONS, or the FOLDER of a scan: every file in that is checked first, as `verify` does.
    """
    from secguard.core.limits import read_bounded
    from secguard.isolation.runs.conclude import conclude

    if plan_file.is_dir():
        return _show(judge_folder(ctx, plan_file, trust, require), ctx.lang)
    if trust is None or not observations:
        raise UsageError("isolation.judge.missing", "a plan needs its observations and --trust KEY")
    reports = [read_bounded(path) for path in observations]
    return _show(conclude(read_bounded(plan_file), reports, [read_key(trust)], require=require), ctx.lang)


@command("isolation.lab", "lab")
@click.argument("kind", type=click.Choice(["tight", "leaky"]))
@click.option("--rules", type=_FILE, help="Your own nft rules; the interfaces are called int, ext and dmz.")
@_folder
@_key
@_passphrase
@act_options
def lab_(
    ctx: Context,
    *,
    kind: str,
    rules: Path | None,
    output: Path | None,
    key: str | None,
    passphrase_file: Path | None,
    case: str,
    reason: str,
    yes: bool,
) -> Result:
    """Scan a lab of three zones and a firewall, made of network namespaces for the moment.

    tight passes (exit 0); leaky holds seven planted mistakes, and each is named (exit 1). Needs no root where user
    namespaces are allowed.
    """
    del yes
    from secguard.core.limits import MAX_CONFIG, read_bounded
    from secguard.isolation.lab.lab import run_lab

    text = read_bounded(rules, MAX_CONFIG).decode("utf-8", "replace") if rules else None
    with _acts(ctx, case, reason, lab=kind) as act:
        result = run_lab(
            kind,
            ctx.progress(f"lab {kind}"),
            signer=_signer(ctx, key, passphrase_file),
            act=act,
            rules=text,
        )
    if output is not None:
        keep(ctx, result, output)
    return _show(result, ctx.lang, lab=kind)
