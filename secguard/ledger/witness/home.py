"""A witness's folder: `witness.toml` with its name, its key and the logs it knows; the key; its memory.

It is no workspace and needs none: a witness belongs on another machine, best to another organisation.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Self

import msgspec

from secguard.core.clock import Clock
from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.limits import MAX_CONFIG, read_bounded
from secguard.keys import Algorithm, Signer, generate, load_signer, save_private_key
from secguard.ledger.note import NoteKey, check_name
from secguard.ledger.witness.cosignature import WitnessKey
from secguard.ledger.witness.witness import Witness

__all__ = ["WitnessHome"]

_FILE = "witness.toml"
_KEY = "key.pem"


class _Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    key: str = _KEY
    logs: Annotated[list[str], msgspec.Meta(max_length=10_000)] = []


class WitnessHome:
    """A witness's folder, read.

    Attributes:
        root: the folder.
        name: under which it cosigns.
        logs: keys of the logs it knows.
    """

    def __init__(self, root: Path, name: str, key: str, logs: tuple[NoteKey, ...]) -> None:
        self.root = root
        self.name = name
        self.logs = logs
        self._key = key

    @classmethod
    def create(cls, root: Path, name: str, passphrase: bytes | None, key: str = "") -> Self:
        """Make a witness: a folder, and in it a fresh key.

        Args:
            root: the folder; made if missing.
            name: of the witness, like a URL without its scheme.
            passphrase: encrypts the key; None leaves it in clear, for its owner alone.
            key: a key that is there already, `file:` or `pkcs11:`; empty: a new one is made.

        Raises:
            UsageError: the name cannot stand in a note.
            RefusedError: there is a witness already.
            SystemPartError: it cannot be written.
        """
        check_name(name)
        if (root / _FILE).exists():
            raise RefusedError("ledger.witness.exists", "there is a witness already", where=str(root))
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise translate_os_error(error, root) from error
        if not key:
            save_private_key(root / _KEY, generate(Algorithm.ED25519), passphrase)
        home = cls(root, name, key or _KEY, ())
        home._write()
        return home

    @classmethod
    def open(cls, root: Path) -> Self:
        """Read a witness's folder.

        Raises:
            UsageError: there is no witness.
            FormatError: `witness.toml` makes no sense.
        """
        path = root / _FILE
        if not path.is_file():
            raise UsageError(
                "ledger.witness.missing",
                "no witness here",
                hint="make one with: secguard ledger witness init DIR --name NAME",
                where=str(root),
            )
        try:
            config = msgspec.convert(tomllib.loads(read_bounded(path, MAX_CONFIG).decode()), _Config)
            check_name(config.name)
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, msgspec.ValidationError) as error:
            raise FormatError("ledger.witness.config", str(error), where=str(path)) from error
        return cls(root, config.name, config.key, tuple(NoteKey.parse(text) for text in config.logs))

    def _write(self) -> None:
        lines = [
            "# A witness of transparency logs (C2SP tlog-witness).",
            f"name = {_quoted(self.name)}",
            f"key = {_quoted(self._key)}        # a file here, file:PATH, or pkcs11: (RFC 7512)",
            "logs = [                 # verifier keys of the logs whose checkpoints are cosigned",
            *(f"  {_quoted(key.vkey())}," for key in self.logs),
            "]",
        ]
        atomic_write(self.root / _FILE, ("\n".join(lines) + "\n").encode())

    def add_log(self, key: NoteKey) -> bool:
        """Let it know a log; False if it knew this key before.

        Raises:
            SystemPartError: it cannot be written.
        """
        if any(known.vkey() == key.vkey() for known in self.logs):
            return False
        self.logs = (*self.logs, key)
        self._write()
        return True

    def signer(self, passphrase: bytes | None) -> Signer:
        """The witness's key.

        Raises:
            UsageError: no such file, a missing or wrong passphrase, a key of another kind.
            RefusedError: the file is readable by others.
        """
        reference = self._key
        if not reference.startswith(("pkcs11:", "file:")):
            reference = f"file:{self.root / reference}"
        signer = load_signer(reference, passphrase)
        if signer.algorithm is not Algorithm.ED25519:
            raise UsageError("ledger.key.kind", f"a witness signs with Ed25519, this key is {signer.algorithm}")
        return signer

    def verifier(self, passphrase: bytes | None) -> WitnessKey:
        """Name and public key, for those who ask it."""
        return WitnessKey(self.name, self.signer(passphrase).public_key())  # type: ignore[arg-type] # `signer` saw to it

    def request(self, passphrase: bytes | None) -> bytes:
        """A certification request (PKCS#10, PEM) for its key: `identity issue NAME --profile witness --csr FILE`."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding
        from cryptography.x509.oid import NameOID

        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        key = self.signer(passphrase).private_key()
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, None)  # type: ignore[arg-type] # Ed25519 takes no digest
        return request.public_bytes(Encoding.PEM)

    def witness(self, passphrase: bytes | None, clock: Clock) -> Witness:
        """Open it, to answer."""
        return Witness(self.root, self.name, self.signer(passphrase), self.logs, clock)


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
