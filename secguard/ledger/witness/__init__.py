"""Witnesses (C2SP tlog-witness): others who remember how far a log went, so that its newest entries cannot vanish."""

from secguard.ledger.witness.asking import Answer, Peer, ask, ask_all, fetch_seen
from secguard.ledger.witness.comparing import Compared, Seen, compare, known_checkpoints, read_cosigned
from secguard.ledger.witness.cosignature import (
    Cosignature,
    WitnessKey,
    add_cosignatures,
    cosign,
    cosignatures,
    parse_verifier,
)
from secguard.ledger.witness.home import WitnessHome
from secguard.ledger.witness.witness import Reply, Witness

__all__ = [
    "Answer",
    "Compared",
    "Cosignature",
    "Peer",
    "Reply",
    "Seen",
    "Witness",
    "WitnessHome",
    "WitnessKey",
    "add_cosignatures",
    "ask",
    "ask_all",
    "compare",
    "cosign",
    "cosignatures",
    "fetch_seen",
    "known_checkpoints",
    "parse_verifier",
    "read_cosigned",
]
