"""The witnesses of a site's log: whose keys are believed, asking them, and keeping what they sign."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from secguard.core import Finding, finding
from secguard.core.errors import UsageError
from secguard.ledger import parse_checkpoint
from secguard.ledger.witness import (
    Answer,
    Cosignature,
    Peer,
    WitnessKey,
    add_cosignatures,
    ask_all,
    cosignatures,
)

if TYPE_CHECKING:
    from cryptography import x509

    from secguard.trust import TrustPolicy
    from secguard.workspace.config import LedgerConfig, WitnessConfig
    from secguard.workspace.workspace import Workspace

__all__ = ["Cosigned", "Witnesses", "ask_witnesses", "open_witnesses"]

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Witnesses:
    """A site's witnesses.

    Attributes:
        peers: those whose key is believed.
        chains: certificates of those that the root certifies, leaf first.
        findings: why others are not believed.
        quorum: how many must have cosigned.
    """

    peers: tuple[Peer, ...]
    chains: "tuple[tuple[x509.Certificate, ...], ...]"
    findings: tuple[Finding, ...]
    quorum: int

    @property
    def keys(self) -> list[WitnessKey]:
        """The believed keys."""
        return [peer.key for peer in self.peers]


def open_witnesses(root: Path, config: "LedgerConfig", policy: "TrustPolicy | None", at: datetime) -> Witnesses:
    """The witnesses that the configuration names.

    Args:
        root: the workspace's folder.
        config: its `[ledger]` section.
        policy: judges their certificates; None where the site has no root yet.
        at: the time to judge for.

    Raises:
        UsageError: one has neither certificate nor key, or a file is missing.
        FormatError: a certificate or key cannot be read.
    """
    from secguard.trust import Purpose, read_certificates

    peers: list[Peer] = []
    chains: list[tuple[x509.Certificate, ...]] = []
    findings: list[Finding] = []
    for one in config.witnesses:
        ca = root / one.ca if one.ca else None
        if one.key:
            peers.append(Peer(WitnessKey.parse(one.key), one.url, ca))
            continue
        if not one.certificate or policy is None:
            raise _nameless(one)
        chain = read_certificates(root / one.certificate)
        found = policy.log_keys([chain], at, Purpose.WITNESS)
        findings += found.findings
        for key in found.keys:
            peers.append(Peer(WitnessKey(key.name, key.public_key), one.url, ca))
            chains.append(tuple(chain))
    return Witnesses(tuple(peers), tuple(chains), tuple(findings), config.quorum)


def _nameless(one: "WitnessConfig") -> UsageError:
    return UsageError(
        "workspace.witness.key",
        f"nothing says which key the witness {one.url[:80]} has",
        hint="give certificate = FILE or key = VKEY in [[ledger.witnesses]]; a certificate needs the site's root",
    )


@dataclass(frozen=True, slots=True)
class Cosigned:
    """What came of asking.

    Attributes:
        note: the last checkpoint, with the cosignatures that are kept.
        answers: one a witness.
        cosignatures: those that hold.
        findings: contradictions, silence, a quorum that is not reached.
        reached: as many cosigned as the quorum asks for; False where it asks for none.
    """

    note: bytes
    answers: Sequence[Answer]
    cosignatures: Sequence[Cosignature]
    findings: Sequence[Finding]
    reached: bool


def ask_witnesses(workspace: "Workspace", witnesses: Witnesses, *, seconds: float = 10.0) -> Cosigned:
    """Ask all witnesses to cosign the last checkpoint, and keep what they sign with it, here and at the anchor.

    Raises:
        UsageError: nothing was published yet.
        SecguardError: it cannot be kept.
    """
    log = workspace.ledger
    answers: Sequence[Answer] = ()
    note = b""
    for _ in range(_ATTEMPTS):  # another process may publish meanwhile
        stored = log.checkpoint()
        if stored is None:
            raise UsageError("ledger.checkpoint.none", "nothing is signed yet", hint="run: secguard ledger checkpoint")
        note = stored
        answers = ask_all(witnesses.peers, stored, log.consistency, seconds=seconds)
        for peer in witnesses.peers:
            for answer in answers:
                if answer.name == peer.key.name and answer.lines:
                    note = add_cosignatures(note, answer.lines, [peer.key])
        if log.put_cosigned(stored, note):
            break
    given = cosignatures(note, witnesses.keys)
    findings = [*witnesses.findings, *(answer.finding for answer in answers if answer.finding is not None)]
    if len(given) < witnesses.quorum:
        size = parse_checkpoint(note).size
        findings.append(finding("ledger.witness.quorum", f"checkpoint {size}", have=len(given), need=witnesses.quorum))
    return Cosigned(note, answers, given, findings, 0 < witnesses.quorum <= len(given))
