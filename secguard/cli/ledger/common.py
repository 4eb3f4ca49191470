"""What commands on the ledger share: their options, and the key that a certificate names."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from secguard.core.verdict import Axis, Finding

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

    from secguard.ledger import NoteKey
    from secguard.trust import TrustPolicy

__all__ = ["FILE", "at_option", "certified", "crl_option", "passphrase_option", "root_option", "vkey_option"]

FILE = click.Path(path_type=Path, dir_okay=False)
"""A file's path."""

root_option = click.option("--root", type=FILE, help="Root certificate(s), PEM.  [default: the workspace's]")
crl_option = click.option("--crl", type=FILE, multiple=True, help="Revocation list, PEM or DER (repeatable).")
vkey_option = click.option(
    "--key", "vkeys", multiple=True, metavar="VKEY", help="Log key as a note verifier key (repeatable)."
)
at_option = click.option("--at", "moment", metavar="TIME", help="Judge certificates for this time.  [default: now]")
passphrase_option = click.option("--passphrase-file", type=FILE, help="Opens the log's key.")


def certified(
    policy: "TrustPolicy", chain: "list[x509.Certificate]", at: "datetime"
) -> "tuple[list[NoteKey], list[Finding], set[Axis]]":
    """The key that a certificate of purpose `log` names, with what was found and examined on the way."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from secguard.ledger import NoteKey
    from secguard.trust import Purpose, common_name

    judgement = policy.judge_chain(chain, Purpose.LOG, at)
    keys = []
    if judgement.believed and judgement.leaf is not None:
        key, name = judgement.leaf.public_key(), common_name(judgement.leaf)
        if name and isinstance(key, Ed25519PublicKey):
            keys.append(NoteKey(name, key))
    return keys, list(judgement.findings), set(judgement.examined)
