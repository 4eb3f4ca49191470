"""What of a kept scan is handed out: signed result, signed list of files, and who signed; no secret, no packets.

Whoever holds it learns what the scan found, checks who said so, and can hold the folder against the list later. That
the result follows from what the agents saw is for `check_folder`, which has the folder.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from secguard.core import FormatError, RefusedError
from secguard.core.limits import read_bounded
from secguard.isolation.agent.credentials import claimed_chain
from secguard.isolation.evidence.manifest import MANIFEST, open_manifest
from secguard.isolation.judge.result import ScanHead, open_head
from secguard.keys import as_sealed, public_pem
from secguard.trust import MALFORMED

__all__ = [
    "JUDGE",
    "MAX_LIST",
    "MAX_RESULT",
    "PLAN",
    "RESULT",
    "SIGNER",
    "Handout",
    "check_regular",
    "judged_at",
    "read_handout",
    "read_key",
    "scan_name",
    "signer_of",
]

PLAN, RESULT, SIGNER, JUDGE = "plan.json", "result.json", "signer.pem", "judge.pem"
MAX_RESULT = 32 << 20
"""Bytes of a signed result that is handed out: some 200,000 cases."""
MAX_LIST = 1 << 20
"""Bytes of a signed list of files that is handed out."""
_MAX_KEY = 1 << 16
_MAX_NAMES = 4096
_JUDGED = "%Y%m%dT%H%M%SZ"


def scan_name(at: datetime, run: str) -> str:
    """The name of a kept run, from when it was judged and its ID."""
    return f"{at:{_JUDGED}}-{run[:8]}"


def judged_at(name: str) -> datetime:
    """When a run was judged, from the start of its name.

    Raises:
        ValueError: it is no run's name.
    """
    return datetime.strptime(name[:16], _JUDGED).replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Handout:
    """What is handed out of a scan.

    Attributes:
        result: the signed result (DSSE).
        files: the signed list of the folder's files with their SHA-256, captures among them (DSSE).
        signer: the public key that signed both, PEM.
        chain: that key's certificates, leaf first, without the root; empty where the plan carries none of it.
    """

    result: bytes
    files: bytes
    signer: bytes
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def key(self) -> PublicKeyTypes:
        """The signer's key.

        Raises:
            FormatError: it is none.
        """
        return _parse_key(self.signer, SIGNER)

    def is_of(self, chain: Sequence[x509.Certificate]) -> bool:
        """Whether the signer's key is the one that this chain (leaf first) certifies."""
        return bool(chain) and _certifies(chain[0], self.key)

    def open(self) -> ScanHead:
        """The result, once every byte of it and of the list is proven to be its signer's.

        Raises:
            FormatError: not a result, not a list of files, or not byte for byte as it was signed.
            RefusedError: another key signed it, or the two are of different scans.
        """
        key = self.key
        if len(self.result) > MAX_RESULT or len(self.files) > MAX_LIST:
            raise FormatError("isolation.handout.too-large", f"larger than {MAX_RESULT} bytes")
        result = open_head(self.result, [key])
        if not as_sealed(self.result, key) or public_pem(key) != self.signer:
            raise FormatError("isolation.result.form", "the result is not as it was written")
        listed = open_manifest(self.files, key)
        named = {item.name: (item.size, item.sha256) for item in listed.files}
        own = (len(self.result), hashlib.sha256(self.result).hexdigest())
        if (listed.run, listed.plan, named.get(RESULT)) != (result.run, result.plan, own):
            raise RefusedError("isolation.handout.other", "the list of files is of another scan than the result")
        if self.chain and not self.is_of(self.chain):
            raise RefusedError("isolation.handout.chain", "the certificates are of another key than signed the result")
        return result


def read_handout(folder: Path) -> Handout:
    """What is handed out of a run's folder, checked.

    Raises:
        SecguardError: something of it is missing, too large, or not as it was signed.
    """
    check_regular(folder)
    key = signer_of(folder)
    result, files = read_bounded(folder / RESULT, MAX_RESULT), read_bounded(folder / MANIFEST, MAX_LIST)
    made = Handout(result, files, public_pem(key), _chain(folder, key))
    made.open()
    return made


def _chain(folder: Path, key: PublicKeyTypes) -> tuple[x509.Certificate, ...]:
    """The certificates that the plan carries, if they are of the key that signed the result; a claim, to be judged."""
    try:
        chain = tuple(claimed_chain(read_bounded(folder / PLAN)))
    except FormatError as error:
        if error.code != "isolation.plan.format":
            raise
        return ()
    return chain if chain and _certifies(chain[0], key) else ()


def _certifies(certificate: x509.Certificate, key: PublicKeyTypes) -> bool:
    try:
        return certificate.public_key() == key
    except MALFORMED:
        return False


def check_regular(folder: Path) -> None:
    """Refuse what is no plain file: a pipe would never end, a link may lead anywhere.

    Raises:
        FormatError: there is such a file in the folder.
    """
    for path in sorted(folder.iterdir())[:_MAX_NAMES]:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise FormatError("isolation.folder.file", f"{path.name[:80]} is no plain file", where=str(path))


def signer_of(folder: Path) -> PublicKeyTypes:
    """The public key in a run's folder that signed its result and its manifest; the plan's, unless another judged.

    Raises:
        UsageError: there is none.
        FormatError: it is no key.
    """
    return read_key(folder / JUDGE if (folder / JUDGE).exists() else folder / SIGNER)


def read_key(path: Path) -> PublicKeyTypes:
    """A public key in PEM.

    Raises:
        UsageError: there is no such file.
        FormatError: it is no key.
    """
    return _parse_key(read_bounded(path, _MAX_KEY), str(path))


def _parse_key(data: bytes, where: str) -> PublicKeyTypes:
    try:
        return load_pem_public_key(data[:_MAX_KEY])
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError("isolation.key.format", "not a public key in PEM", where=where) from error
