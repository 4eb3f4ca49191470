"""Issuing with files: the holder's key is made, certified (`certify`), and delivered with its chain.

Nothing is delivered without a record. A crash leaves keys and rows that the next issue for the same holder takes up.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import SecguardError, UsageError
from secguard.identity.issuing.certify import certify_locked, new_serial, open_issuers
from secguard.identity.issuing.deliver import Bundle, file_name, make_folder, obtain_key
from secguard.identity.issuing.order import Certified, Order
from secguard.identity.issuing.plan import find_profile, fitting_serial, in_the_way
from secguard.identity.issuing.request import check_holder
from secguard.identity.lock import exclusive
from secguard.identity.profiles import Profile
from secguard.identity.records import CertificateRecord, Status
from secguard.identity.site import Site, no_certificate
from secguard.keys import key_id

__all__ = ["Issued", "Request", "issue", "new_serial", "renew"]

# A key of theirs is never certified anew by `issue`.
_SPENT = {Status.ACTIVE, Status.SUPERSEDED, Status.REVOKED}


@dataclass(frozen=True, slots=True)
class Request:
    """One certificate that is asked for.

    Attributes:
        holder: a device's GB/T 28181 ID, or a name, as the profile says.
        profile: name of the profile.
        folder: where the files go; None: `devices/<holder>` in the authority's folder.
        csr: a PKCS#10 request (PEM or DER) of a device that keeps its own key; None makes a key, and the companions.
        name: what people call the device, for its record.
        vendor_serial: the maker's serial number, for its record and certificate.
        stem: start of the file names; empty: `<holder>.<profile>`.
    """

    holder: str
    profile: str
    folder: Path | None = None
    csr: bytes | None = None
    name: str = ""
    vendor_serial: str = ""
    stem: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """One delivered certificate.

    Attributes:
        record: its row.
        certificate: the certificate.
        files: what was written, key included.
        new: False if it had been issued before and was delivered again.
    """

    record: CertificateRecord
    certificate: x509.Certificate
    files: tuple[Path, ...]
    new: bool


@dataclass(slots=True)
class _Job:
    """One certificate on its way, with the place of its files."""

    request: Request
    profile: Profile
    holder: str
    issuer: str
    bundle: Bundle
    public: PublicKeyTypes | None = None
    key: str = ""
    made: bool = False
    made_folder: bool = False

    def order(self, *, renewal: bool = False) -> Order:
        """What is to be certified."""
        return Order(
            self.holder,
            self.profile.name,
            csr=self.request.csr if self.public is None else None,
            public=self.public,
            key=self.key,
            name=self.request.name,
            vendor_serial=self.request.vendor_serial,
            renewal=renewal,
        )


def issue(site: Site, requests: Sequence[Request]) -> list[Issued]:
    """Issue certificates, their companions included; all are checked before anything is made.

    Asking again for what is active gives the same certificate again.

    Returns:
        One item a certificate: each request's own first, then its companions'.

    Raises:
        UsageError: a wrong ID, name, profile or passphrase.
        FormatError: a CSR that is none.
        RefusedError: outside the CA's scope; an active certificate stands in the way; recording failed.
        SystemPartError: a write failed.
    """
    jobs = [job for request in requests for job in _plan(site, request)]
    with exclusive(site.lock):
        _open_all(site, jobs)
        try:
            for job in jobs:
                if job.request.csr is None:
                    _key(site, job)
            answers = certify_locked(site, [job.order() for job in jobs], strict=True)
        except SecguardError:
            for job in reversed(jobs):  # the folder was made for the first, so it goes last
                _undo(site, job)
            raise
        return [_deliver(site, job, answer) for job, answer in zip(jobs, answers, strict=True)]


def renew(site: Site, holder: str, profile: str, folder: Path | None = None) -> Issued:
    """Certify the key of an active certificate again, for a fresh validity; the old certificate is superseded.

    Raises:
        UsageError: there is no active certificate, or the passphrase is wrong.
        RefusedError: the device lies outside the CA's scope by now, or recording failed.
    """
    active = site.registry.active(holder, profile)
    if active is None:
        raise no_certificate(holder, profile)
    stem = ""
    if folder is None and active.key.startswith("file:"):  # the files go where the key is, under its name
        path = Path(site.locate(active.key).removeprefix("file:"))
        folder, stem = path.parent, path.name.removesuffix(".key.pem")
    job = _plan(site, Request(holder, profile, folder, stem=stem))[0]
    with exclusive(site.lock):
        _open_all(site, [job])
        job.public, job.key = active.x509().public_key(), active.key
        (answer,) = certify_locked(site, [job.order(renewal=True)], strict=True)
        return _deliver(site, job, answer)


def _plan(site: Site, request: Request) -> list[_Job]:
    profile = find_profile(site, request.profile)
    holder, device = check_holder(request.holder, profile, site.config.edition, request.vendor_serial)
    companions = () if request.csr is not None else profile.companions
    folder = request.folder or site.folder / "devices" / file_name(holder)
    jobs = []
    for one in (profile, *(site.profiles[name] for name in companions)):
        stem = request.stem if request.stem and one is profile else f"{file_name(holder)}.{one.name}"
        jobs.append(_Job(request, one, holder, site.issuer(one.purpose, device), Bundle(folder, stem)))
    fitting_serial(site.registry.device(holder) if device else None, request.vendor_serial)
    return jobs


def _open_all(site: Site, jobs: Sequence[_Job]) -> None:
    """Open the CA keys first: a wrong passphrase must show before anything is made."""
    for error in open_issuers(site, {job.issuer for job in jobs}).values():
        raise error


def _key(site: Site, job: _Job) -> None:
    """Take the key of an active certificate, make one, or take up the one that an interrupted issue left."""
    if site.passphrase is None:
        raise UsageError("keys.passphrase.missing", "no passphrase", hint="give --passphrase-file FILE")
    job.key = site.reference(job.bundle.key)
    active = site.registry.active(job.holder, job.profile.name)
    if active is not None and not active.expired(site.clock.now()):
        if active.key != job.key or not job.bundle.key.exists():
            raise in_the_way(site, active)
        job.public = active.x509().public_key()
        return
    used = {item.spki for item in site.registry.certificates(job.holder) if item.status in _SPENT}
    job.made_folder = make_folder(job.bundle.folder)
    signer, job.made = obtain_key(job.bundle.key, job.profile.key, site.passphrase, used)
    job.public = signer.public_key()


def _undo(site: Site, job: _Job) -> None:
    """Take away what was made for an issue that came to nothing; a key that a row waits for stays."""
    with contextlib.suppress(sqlite3.Error, OSError):
        rows = site.registry.with_key(key_id(job.public)) if job.made and job.public is not None else []
        if job.made and all(row.status == Status.VOID for row in rows):
            job.bundle.key.unlink(missing_ok=True)
        if job.made_folder:
            job.bundle.folder.rmdir()


def _deliver(site: Site, job: _Job, answer: Certified | SecguardError) -> Issued:
    if isinstance(answer, SecguardError):
        raise answer
    record = answer.record
    certificate = record.x509()
    make_folder(job.bundle.folder)
    files = job.bundle.write(certificate, site.certificates[record.issuer], site.root)
    keys = [job.bundle.key] if record.key else []
    return Issued(record, certificate, (*keys, *files), answer.new)
