"""The files a holder gets: key, certificate, chain and root; each written whole or not at all."""

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from secguard.core.files import translate_os_error
from secguard.keys import Algorithm, Signer, generate, key_id, load_signer, save_private_key
from secguard.store import atomic_write
from secguard.trust import chain_pem

__all__ = ["Bundle", "file_name", "make_folder", "obtain_key"]

_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where the files of one certificate lie.

    Attributes:
        folder: their folder.
        stem: start of their names, `<holder>.<profile>`.
    """

    folder: Path
    stem: str

    @property
    def key(self) -> Path:
        """The private key: encrypted PKCS#8, mode 0600."""
        return self.folder / f"{self.stem}.key.pem"

    @property
    def certificate(self) -> Path:
        """The certificate alone."""
        return self.folder / f"{self.stem}.pem"

    @property
    def chain(self) -> Path:
        """The certificate and its issuing CA's, without the root: what TLS and media signing present."""
        return self.folder / f"{self.stem}.chain.pem"

    @property
    def root(self) -> Path:
        """The root certificate."""
        return self.folder / "ca.pem"

    def write(self, certificate: x509.Certificate, issuer: x509.Certificate, root: x509.Certificate) -> list[Path]:
        """Write the public files; the chain last, since its presence says that all are there.

        Raises:
            SystemPartError: a write failed.
        """
        files = {
            self.root: chain_pem([root]),
            self.certificate: chain_pem([certificate]),
            self.chain: chain_pem([certificate, issuer]),
        }
        for path, data in files.items():
            atomic_write(path, data)
        return list(files)


def file_name(holder: str) -> str:
    """A holder's name as a file name."""
    return _UNSAFE.sub("_", holder).lstrip(".") or "_"


def make_folder(folder: Path) -> bool:
    """Make a folder for secrets, mode 0700, and tell whether it was made; one that is there is left as it is.

    Raises:
        SystemPartError: it cannot be made.
    """
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise translate_os_error(error, folder) from error
    return made


def obtain_key(path: Path, algorithm: Algorithm, passphrase: bytes, spent: AbstractSet[str]) -> tuple[Signer, bool]:
    """Make a private key, or take up the one that an interrupted issue left.

    Args:
        path: where it is kept.
        algorithm: its kind.
        passphrase: encrypts it.
        spent: `key_id`s that must not be certified again (revoked, superseded); such a key is replaced.

    Returns:
        The key, and whether it was made now.

    Raises:
        UsageError: a key is there that the passphrase does not open.
        RefusedError: it is readable by others.
        SystemPartError: the write failed.
    """
    exists = path.exists()
    if exists:
        found = load_signer(f"file:{path}", passphrase)
        if found.algorithm is algorithm and key_id(found.public_key()) not in spent:
            return found, False
    fresh = generate(algorithm)
    save_private_key(path, fresh, passphrase, overwrite=exists)
    return fresh, True
