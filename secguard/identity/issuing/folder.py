"""The folder of a provisioning job: its lock, what it belongs to, its passphrase, and what an interrupted run left."""

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from secguard.core import FormatError, RefusedError, SystemPartError, UsageError
from secguard.core.files import atomic_write, translate_os_error
from secguard.core.limits import MAX_CONFIG, read_bounded
from secguard.identity.issuing.listing import Listing
from secguard.identity.issuing.parcel import HIDDEN, Kit
from secguard.identity.issuing.protect import FEW_ROUNDS, FULL_ROUNDS, KeyCipher
from secguard.identity.issuing.wishes import Setting
from secguard.identity.lock import exclusive
from secguard.identity.site import Site
from secguard.keys import find_passphrase, make_passphrase

__all__ = ["JobFolder"]


class _Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the job belongs to; kept in the folder."""

    version: int
    source: str
    sha256: str
    format: str
    salt: str
    rounds: int
    check: str


@dataclass(frozen=True, slots=True)
class JobFolder:
    """An opened folder, held by this process.

    Attributes:
        path: where the deliveries go.
        format: of the deliveries.
        passphrase: of the delivered keys.
        cipher: made of it.
    """

    path: Path
    format: str
    passphrase: bytes
    cipher: KeyCipher

    @property
    def passphrase_file(self) -> Path:
        """Holds a passphrase that was made for the job, mode 0600."""
        return self.path / "passphrase.txt"

    @property
    def refused_file(self) -> Path:
        """The error file."""
        return self.path / "refused.csv"

    @classmethod
    @contextmanager
    def open(cls, setting: Setting, listing: Listing) -> "Iterator[JobFolder]":
        """Make the folder, or take up an earlier run of the same list, and hold it.

        Raises:
            UsageError: nothing to resume; another passphrase than before.
            RefusedError: it belongs to another list or format; another run works in it.
            SystemPartError: a write failed.
        """
        hidden = setting.folder / HIDDEN
        if setting.resume and not (hidden / "job.json").exists():
            raise UsageError(
                "identity.provision.resume", "there is no run to go on with", hint="run it without --resume",
                where=str(setting.folder),
            )  # fmt: skip
        try:
            setting.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            hidden.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise translate_os_error(error, setting.folder) from error
        with _held(hidden / "lock"):
            yield cls._take(setting, listing, hidden / "job.json")

    @classmethod
    def _take(cls, setting: Setting, listing: Listing, path: Path) -> "JobFolder":
        made = setting.folder / "passphrase.txt"
        job = _read(path) if path.exists() else None
        if job is not None and (job.sha256, job.format) != (listing.sha256, setting.format):
            what = f"another list ({job.source})" if job.sha256 != listing.sha256 else f"a job in format {job.format}"
            raise RefusedError(
                "identity.provision.other",
                f"this folder belongs to {what}",
                hint="give another folder with -o; a changed list is another list",
                where=str(setting.folder),
            )
        passphrase, rounds = setting.passphrase, FULL_ROUNDS
        if passphrase is None:
            passphrase, rounds = (find_passphrase(made) if made.exists() else None), FEW_ROUNDS
        if passphrase is None and job is not None:
            raise UsageError(
                "identity.provision.passphrase",
                "the passphrase of this job is not there",
                hint="put passphrase.txt back, or give --key-passphrase-file as before",
                where=str(made),
            )
        passphrase = passphrase or make_passphrase(made)
        cipher = KeyCipher.derive(passphrase, rounds, bytes.fromhex(job.salt) if job else b"")
        if job is not None and job.check != cipher.check():
            raise UsageError(
                "identity.provision.passphrase",
                "this is not the passphrase with which the job was begun",
                hint="give the same --key-passphrase-file (or none) as before",
                where=str(setting.folder),
            )
        if job is None:
            salt = cipher.salt.hex()
            job = _Job(1, listing.name, listing.sha256, setting.format, salt, rounds, cipher.check())
            atomic_write(path, msgspec.json.encode(job), mode=0o600)
        return cls(setting.folder, setting.format, passphrase, cipher)

    def kit(self, site: Site) -> Kit:
        """What the workers are given."""
        issuers = {name: record.certificate for name, record in site.cas.items()}
        return Kit(
            self.path, self.cipher, self.passphrase, self.format, site.profiles, issuers, site.cas["root"].certificate
        )

    def clear(self) -> None:
        """Take away what only an interrupted run needs; all that is in force has been delivered."""
        for path in (self.path / HIDDEN).glob("keys-*"):
            path.unlink(missing_ok=True)
        for path in (self.path / HIDDEN).glob("out-*"):
            shutil.rmtree(path, ignore_errors=True)


def _read(path: Path) -> _Job:
    try:
        return msgspec.json.decode(read_bounded(path, MAX_CONFIG), type=_Job)
    except msgspec.MsgspecError as error:
        raise FormatError(
            "identity.provision.job", "not the file of a provisioning job", hint="give another folder with -o",
            where=str(path),
        ) from error  # fmt: skip


@contextmanager
def _held(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path, 0))
        except SystemPartError as error:
            if error.code != "identity.lock.busy":
                raise
            raise RefusedError(
                "identity.provision.busy", "another run is working in this folder", hint="wait for it to end",
                where=str(path.parent.parent),
            ) from error  # fmt: skip
        yield
