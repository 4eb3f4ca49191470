"""`secguard ledger verify`: the whole log, and what its witnesses remember of it."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, command
from secguard.cli.ledger.common import at_option, certified, root_option, vkey_option
from secguard.core.errors import SystemPartError, UsageError
from secguard.core.verdict import Finding, Outcome, judge

if TYPE_CHECKING:
    from secguard.core.verdict import Verdict
    from secguard.ledger import Checkpoint, NoteKey
    from secguard.ledger.witness import WitnessKey
    from secguard.report import Report
    from secguard.workspace import Workspace

__all__ = ["verify_"]


@command("ledger.verify", "verify")
@root_option
@vkey_option
@at_option
@click.option(
    "--witness",
    "sources",
    multiple=True,
    metavar="URL|FILE",
    help="Hold the log against this witness, or a checkpoint it cosigned (repeatable).  [default: those configured]",
)
@click.option(
    "--witness-key", "witness_keys", multiple=True, metavar="VKEY", help="Key of such a witness (repeatable)."
)
@click.option("--no-witness", is_flag=True, help="Ask no witness.")
def verify_(
    ctx: Context,
    *,
    root: Path | None,
    vkeys: tuple[str, ...],
    moment: str | None,
    sources: tuple[str, ...],
    witness_keys: tuple[str, ...],
    no_witness: bool,
) -> Result:
    """Verify the whole log: bodies, entries, tiles, journal, checkpoint, anchor, and what witnesses have cosigned.

    Exit code 0: all of it holds; 1: something was changed or is missing; 3: something could not be proven.
    """
    from secguard.core.clock import parse_time
    from secguard.ledger import NoteKey, verify_log
    from secguard.ledger.witness import WitnessKey

    if no_witness and sources:
        raise UsageError("cli.usage", "--witness and --no-witness exclude each other")
    with ctx.workspace() as ws:
        at = parse_time(moment) if moment else ws.clock.now()
        keys = [NoteKey.parse(text) for text in vkeys]
        findings: list[Finding] = []
        if not keys:
            # Without an authority, or on a read-only disk, the log can be verified all the same, but for who signed it.
            with contextlib.suppress(UsageError, SystemPartError):
                keys, findings, _ = certified(ws.trust(root), ws.log_chain(), at)
        seen: dict[str, Checkpoint] = {}
        if not no_witness:
            seen, told = _witnessed(ws, root, keys, sources, [WitnessKey.parse(text) for text in witness_keys])
            findings += told
        verdict = verify_log(
            ws.state / "ledger", keys, at=at, witnessed=seen, progress=ctx.progress("verifying the ledger")
        )
        witnesses = {name: checkpoint.size for name, checkpoint in seen.items()}
        data = {
            "origin": ws.ledger.origin,
            "size": ws.ledger.size,
            "keys": [key.vkey() for key in keys],
            "witnesses": witnesses,
        }
    if findings:
        examined = [axis for axis, outcome in verdict.axes.items() if outcome is not Outcome.UNKNOWN]
        together = (*verdict.findings, *findings)
        verdict = judge(verdict.subject, at, examined=examined, findings=together, default=verdict.required)
    return Result.of(verdict, data=data, lines=[verdict.subject], report=lambda _: _report(verdict, data))


def _witnessed(
    ws: "Workspace",
    root: Path | None,
    keys: "Sequence[NoteKey]",
    sources: Sequence[str],
    more: "Sequence[WitnessKey]",
) -> "tuple[dict[str, Checkpoint], list[Finding]]":
    """What witnesses have cosigned, by witness; verified."""
    from secguard.ledger.witness import Peer, known_checkpoints, read_cosigned

    configured = ws.witnesses(root)
    known = [*configured.keys, *more]
    peers, seen = list(configured.peers), {}
    if sources:
        if not known:
            raise UsageError(
                "ledger.witness.key", "no key of a witness is known", hint="give --witness-key VKEY, or configure it"
            )
        peers = []
        for source in sources:
            if source.startswith(("http://", "https://")):
                ours = [peer for peer in configured.peers if peer.url.rstrip("/") == source.rstrip("/")]
                if not ours and len(known) != 1:
                    raise UsageError(
                        "ledger.witness.key",
                        f"{len(known)} keys are known, and none belongs to {source[:80]}",
                        hint="give the one --witness-key VKEY of this witness",
                    )
                peers += ours or [Peer(known[0], source)]
            else:
                one = read_cosigned(Path(source), ws.ledger.origin, keys, known)
                seen[f"{one.witness} ({source})"] = one.checkpoint
    asked = known_checkpoints(peers, ws.ledger, keys)
    seen |= {one.witness: one.checkpoint for one in asked.seen}
    return seen, [*configured.findings, *asked.findings]


def _report(verdict: "Verdict", data: dict[str, Any]) -> "Report":
    from secguard.report import Code, Report, Text

    facts = [
        (Text("log", "日志"), Code(data["origin"])),
        (Text("entries", "条目数"), data["size"]),
        *((Text("log key", "日志公钥"), Code(key)) for key in data["keys"]),
        *((Text("witnessed by", "见证方"), f"{name}: {size}") for name, size in data["witnesses"].items()),
    ]
    return Report.of(verdict, Text("Ledger verification", "账本验证"), facts=facts)
