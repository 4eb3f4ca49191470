"""Issuing, so that nothing is delivered without a record.

The life of an issue: the key is made -> its row is `reserved` (committed) -> the certificate is signed,
deterministically -> `signed` (committed) -> the event is recorded in the ledger -> `active` (committed) -> the files
are delivered. A crash at any point leaves a row that the next issue for the same holder takes up again, with the same
serial number, the same bytes and the same event ID.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Axis, RefusedError, SecguardError, UsageError, describe, rfc3339
from secguard.events import Event, new_event_id
from secguard.gbid import GbId
from secguard.identity.certificate import Validity, build_leaf, shard_of
from secguard.identity.issuing.deliver import Bundle, file_name, make_folder, obtain_key
from secguard.identity.issuing.request import check_holder, read_csr
from secguard.identity.lock import exclusive
from secguard.identity.profiles import Profile
from secguard.identity.records import CertificateRecord, DeviceRecord, Status
from secguard.identity.site import Site, no_certificate
from secguard.keys import key_id
from secguard.trust import TrustPolicy

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
    """One certificate on its way."""

    request: Request
    profile: Profile
    holder: str
    device: GbId | None
    bundle: Bundle
    issuer: str
    public: PublicKeyTypes | None = None
    key: str = ""
    made: bool = False
    made_folder: bool = False
    record: CertificateRecord | None = None
    new: bool = True

    @property
    def row(self) -> CertificateRecord:
        assert self.record is not None
        return self.record


def new_serial() -> str:
    """A serial number of 128 bits, 127 of them random, in lower-case hex (RFC 5280, 4.1.2.2)."""
    return f"{secrets.randbits(127) | 1 << 127:032x}"


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
        _open_issuers(site, jobs)
        for job in jobs:
            _find_active(site, job)
        fresh = [job for job in jobs if job.record is None]
        try:
            for job in fresh:
                _key(site, job)
            _reserve(site, fresh)
            _sign(site, [job for job in jobs if job.row.status == Status.RESERVED])
        except SecguardError:
            for job in reversed(fresh):  # the folder was made for the first, so it goes last
                if job.made:
                    job.bundle.key.unlink(missing_ok=True)
                if job.made_folder:
                    with contextlib.suppress(OSError):
                        job.bundle.folder.rmdir()
            raise
        _record(site, jobs)
        return [_deliver(site, job) for job in jobs]


def renew(site: Site, holder: str, profile: str, folder: Path | None = None) -> Issued:
    """Certify the key of an active certificate again, for a fresh validity; the old certificate is superseded.

    Raises:
        UsageError: there is no active certificate, or the passphrase is wrong.
        RefusedError: the device lies outside the CA's scope by now, or recording failed.
    """
    active = site.registry.active(holder, profile)
    if active is None:
        raise no_certificate(holder, profile)
    if folder is None and active.key:
        folder = Path(site.locate(active.key).removeprefix("file:")).parent
    job = _plan(site, Request(holder, profile, folder))[0]
    with exclusive(site.lock):
        _open_issuers(site, [job])
        job.public, job.key = active.x509().public_key(), active.key
        _reserve(site, [job])
        if job.row.status == Status.RESERVED:
            _sign(site, [job])
        _record(site, [job], kind="certificate.renewed")
        return _deliver(site, job)


def _plan(site: Site, request: Request) -> list[_Job]:
    profile = site.profiles.get(request.profile)
    if profile is None:
        raise UsageError(
            "identity.profile.unknown",
            f"no profile {request.profile[:40]!r}",
            hint=f"there are: {', '.join(site.profiles)}",
            where=str(site.certs),
        )
    holder, device = check_holder(request.holder, profile, site.config.edition, request.vendor_serial)
    companions = () if request.csr is not None else profile.companions
    folder = request.folder or site.folder / "devices" / file_name(holder)
    jobs = []
    for one in (profile, *(site.profiles[name] for name in companions)):
        stem = request.stem if request.stem and one is profile else f"{file_name(holder)}.{one.name}"
        jobs.append(_Job(request, one, holder, device, Bundle(folder, stem), site.issuer(one.purpose, device)))
    known = site.registry.device(holder) if device else None
    if known is not None and known.vendor_serial and request.vendor_serial not in {"", known.vendor_serial}:
        raise RefusedError(
            "identity.device.serial",
            f"{holder} is registered with the maker's serial number {known.vendor_serial}",
            hint="another camera needs an ID of its own",
        )
    return jobs


def _open_issuers(site: Site, jobs: Sequence[_Job]) -> None:
    """Open the CA keys first: a wrong passphrase must show before anything is made."""
    for name in {job.issuer for job in jobs}:
        site.signer(name)


def _find_active(site: Site, job: _Job) -> None:
    """Find an active certificate that can be delivered again, or refuse because one stands in the way."""
    if job.request.csr is not None:
        job.public = read_csr(job.request.csr, job.profile)
    active = site.registry.active(job.holder, job.profile.name)
    if active is None or active.expired(site.clock.now()):
        return
    if job.public is not None:
        same = active.spki == key_id(job.public)
    else:
        same = active.key == site.reference(job.bundle.key) and job.bundle.key.exists()
    if not same:
        raise RefusedError(
            "identity.certificate.active",
            f"{job.holder} has an active {job.profile.name} certificate, serial {active.serial}",
            hint="use it, renew it (identity renew), or revoke it first (identity revoke)",
            where=site.locate(active.key).removeprefix("file:") if active.key else "",
        )
    job.record, job.new = active, False


def _key(site: Site, job: _Job) -> None:
    """Make the holder's key, or take up the one that an interrupted issue left."""
    if job.public is None:
        if site.passphrase is None:
            raise UsageError("keys.passphrase.missing", "no passphrase", hint="give --passphrase-file FILE")
        used = {item.spki for item in site.registry.certificates(job.holder) if item.status in _SPENT}
        job.made_folder = make_folder(job.bundle.folder)
        signer, job.made = obtain_key(job.bundle.key, job.profile.key, site.passphrase, used)
        job.public, job.key = signer.public_key(), site.reference(job.bundle.key)
    for other in site.registry.with_key(key_id(job.public)):
        if other.status != Status.VOID and (other.holder, other.profile) != (job.holder, job.profile.name):
            raise RefusedError(
                "identity.key.shared",
                f"this key is certified for {other.holder} ({other.profile})",
                hint="every certificate needs a key of its own",
            )
        if other.status == Status.REVOKED:
            raise RefusedError("identity.key.revoked", "a certificate over this key was revoked", hint="make a new key")


def _reserve(site: Site, jobs: Sequence[_Job]) -> None:
    """Commit one row a certificate before it is signed; a row that an interrupted issue left is taken up."""
    now = site.clock.now()
    with site.registry.transaction():
        for job in jobs:
            assert job.public is not None
            spki = key_id(job.public)
            pending = site.registry.pending(job.holder, job.profile.name)
            if pending is not None and pending.spki == spki:
                job.record = pending
                continue
            if pending is not None:
                site.registry.void(pending)
            if job.device is not None:
                request = job.request
                site.registry.register(
                    DeviceRecord(job.holder, request.name, request.vendor_serial, "registered", rfc3339(now))
                )
            validity = Validity.starting(now, job.profile.days, within=site.certificates[job.issuer])
            if validity.not_after <= now:
                raise RefusedError("identity.ca.expired", "the issuing CA has expired", where=job.issuer)
            serial = new_serial()
            shards = 0 if job.profile.no_check else site.config.crl_shards
            job.record = CertificateRecord(
                issuer=job.issuer,
                serial=serial,
                holder=job.holder,
                device=job.device.value if job.device else None,
                profile=job.profile.name,
                purpose=job.profile.purpose,
                status=Status.RESERVED,
                not_before=rfc3339(validity.not_before),
                not_after=rfc3339(validity.not_after),
                spki=spki,
                key=job.key,
                event=new_event_id(),
                shard=shard_of(int(serial, 16), shards),
            )
            site.registry.reserve(job.record)


def _sign(site: Site, jobs: Sequence[_Job]) -> None:
    """Sign reserved certificates, judge each as a verifier will, and commit them."""
    try:
        made = [(job, _build(site, job)) for job in jobs]
    except RefusedError:
        with site.registry.transaction():
            for job in jobs:
                site.registry.void(job.row)
        raise
    with site.registry.transaction():
        for job, certificate in made:
            data = certificate.public_bytes(Encoding.DER)
            site.registry.store(job.row, data)
            job.record = msgspec.structs.replace(job.row, status=Status.SIGNED, certificate=data)


def _build(site: Site, job: _Job) -> x509.Certificate:
    row = job.row
    assert job.public is not None
    device = site.registry.device(row.device) if row.device else None
    certificate = build_leaf(
        job.profile,
        job.holder,
        site.config,
        job.public,
        serial=int(row.serial, 16),
        validity=Validity(datetime.fromisoformat(row.not_before), datetime.fromisoformat(row.not_after)),
        issuer=site.certificates[job.issuer],
        issuer_name=job.issuer,
        signer=site.signer(job.issuer),
        vendor_serial=device.vendor_serial if device else "",
    )
    chain = [certificate, site.certificates[job.issuer]]
    at = datetime.fromisoformat(row.not_before)
    judgement = TrustPolicy([site.root]).judge_chain(chain, job.profile.purpose, at, gbid=job.device)
    if not judgement.believed:
        reasons = [describe(item) for item in judgement.findings if item.axis is Axis.PROVENANCE]
        raise RefusedError(
            "identity.certificate.rejected",
            f"a verifier would not believe this certificate: {reasons[0] if reasons else 'no path'}",
            hint="the profile, the site's domain or the CA is not right for it",
            where=job.holder,
        )
    return certificate


def _record(site: Site, jobs: Sequence[_Job], kind: str = "certificate.issued") -> None:
    """Record what was signed, then put it into force."""
    waiting = [job for job in jobs if job.row.status == Status.SIGNED]
    if not waiting:
        return
    events: list[Event] = []
    for job in waiting:
        row = job.row
        device = site.registry.device(row.device) if row.device else None
        if device is not None and device.status == "registered":
            # The same ID at every attempt: the ledger keeps the first.
            events.append(site.event("device.registered", device.gbid, f"device-registered-{device.gbid}"))
        events.append(site.event(kind, row.holder, row.event, **_facts(row)))
    site.record(list({event.id: event for event in events}.values()))
    with site.registry.transaction():
        for job in waiting:
            site.registry.activate(job.row)
            job.record = msgspec.structs.replace(job.row, status=Status.ACTIVE)


def _deliver(site: Site, job: _Job) -> Issued:
    certificate = job.row.x509()
    make_folder(job.bundle.folder)
    files = job.bundle.write(certificate, site.certificates[job.issuer], site.root)
    keys = [job.bundle.key] if job.row.key else []
    return Issued(job.row, certificate, (*keys, *files), job.new)


def _facts(row: CertificateRecord) -> dict[str, Any]:
    assert row.certificate is not None
    return {
        "profile": row.profile,
        "purpose": row.purpose,
        "issuer": row.issuer,
        "serial": row.serial,
        "not_after": row.not_after,
        "certificate_sha256": hashlib.sha256(row.certificate).hexdigest(),
    }
