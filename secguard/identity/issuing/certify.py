"""The one path by which certificates come into being.

The life of a certificate: its row is `reserved` (committed) -> it is signed, deterministically -> `signed` (committed)
-> its event is recorded in the ledger -> `active` (committed) -> it is handed out. A crash at any point leaves a row
that the next order over the same key takes up again, with the same serial number, the same bytes and the same event ID.
A batch of orders is one commit, one record and one lock: a thousand certificates cost the disk what one costs it.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Axis, RefusedError, SecguardError, describe, rfc3339
from secguard.events import Event, new_event_id
from secguard.identity.certificate import Validity, build_leaf, shard_of
from secguard.identity.issuing.order import Certified, Order
from secguard.identity.issuing.plan import Job, fitting_serial, in_the_way, plan
from secguard.identity.issuing.request import allowed_names
from secguard.identity.issuing.template import Template, signs_templates
from secguard.identity.lock import exclusive
from secguard.identity.records import CaStatus, CertificateRecord, DeviceRecord, DeviceStatus, Status
from secguard.identity.site import Site
from secguard.keys import Algorithm, Signer
from secguard.trust import TrustPolicy

__all__ = ["certify", "certify_locked", "new_serial", "open_issuers"]

_MAX_TEMPLATES = 4096
_ALIKE = 14
"""Digits of an ID that certificates of one kind share: all but the serial number."""

Answer = Certified | SecguardError


def new_serial() -> str:
    """A serial number of 128 bits, 127 of them random, in lower-case hex (RFC 5280, 4.1.2.2)."""
    return f"{secrets.randbits(127) | 1 << 127:032x}"


def certify(site: Site, orders: Sequence[Order]) -> list[Answer]:
    """Certify keys: check, reserve, sign, store, record, put into force. No files are written.

    Ordering again what is in force gives the same certificate again. Safe to call from several threads and processes.

    Returns:
        One answer an order, in their order: the certificate, or why it is refused; that one spoils no other.

    Raises:
        UsageError: no or a wrong passphrase.
        RefusedError: the ledger refuses; what was signed is kept back until the next order for it.
        SystemPartError: a write failed, or another process holds the lock for too long.
    """
    with exclusive(site.lock):
        return certify_locked(site, orders)


def certify_locked(site: Site, orders: Sequence[Order], *, strict: bool = False) -> list[Answer]:
    """`certify` for a caller that holds the site's lock.

    Args:
        site: the site's CAs.
        orders: what is asked for.
        strict: the first refusal is raised, and nothing of the batch comes into being.
    """
    batch = _Batch(strict, site.clock.now().replace(microsecond=0), {}, {}, {})
    with site.still():
        for index, order in enumerate(orders):
            with batch.refusing(index):
                batch.jobs[index] = plan(site, order)
    closed = open_issuers(site, {job.issuer for job in batch.jobs.values()})
    for index, job in list(batch.jobs.items()):
        if job.issuer in closed:
            batch.refuse(index, closed[job.issuer])
    try:
        while waiting := batch.later():
            _take(site, batch)
            batch.jobs = waiting
        _take(site, batch)
    finally:
        _give_back(site, batch)
    return [batch.answers[index] for index in range(len(orders))]


@dataclass(slots=True)
class _Batch:
    """Orders on their way together, by their position; what is answered leaves `jobs`.

    `used` are the one-time secrets that were used up, at the time `at`. What many orders share is worked out once:
    `spans` (validity by profile and CA), `kinds` (templates, by a shorter key than the site's).
    """

    strict: bool
    at: datetime
    jobs: dict[int, Job]
    answers: dict[int, Answer]
    used: dict[int, str]
    spans: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    kinds: dict[tuple[str, str, str, Algorithm], Template] = field(default_factory=dict)

    def refuse(self, index: int, error: SecguardError) -> None:
        """Answer one order with an error; the others go on, unless the caller is strict."""
        if self.strict:
            raise error
        self.answers[index] = error
        self.jobs.pop(index, None)

    def refusing(self, index: int) -> "_Refusing":
        """Refuse the order with what the block raises."""
        return _Refusing(self, index)

    def later(self) -> dict[int, Job]:
        """Take out the orders that meet an earlier one, in its place or over its key; they wait for their turn."""
        taken: set[object] = set()
        waiting: dict[int, Job] = {}
        for index, job in list(self.jobs.items()):
            if job.place in taken or job.spki in taken:
                waiting[index] = self.jobs.pop(index)
            taken |= {job.place, job.spki}
        return waiting


@dataclass(slots=True)
class _Refusing:
    """A context manager that costs less than a generator: it is entered several times an order."""

    batch: _Batch
    index: int

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, SecguardError):
            return False
        self.batch.refuse(self.index, error)
        return True


def open_issuers(site: Site, names: Iterable[str]) -> dict[str, SecguardError]:
    """Open CA keys before anything is made, and tell which cannot be opened.

    Raises:
        SecguardError: none of them can.
    """
    wanted = sorted(names)
    failed: dict[str, SecguardError] = {}
    for name in wanted:
        try:
            site.signer(name)
        except SecguardError as error:
            failed[name] = error
    if wanted and len(failed) == len(wanted):
        raise failed[wanted[0]]
    return failed


def _take(site: Site, batch: _Batch) -> None:
    """Bring orders that do not meet to their end."""
    _check(site, batch)
    _reserve(site, batch)
    _sign(site, batch)
    _record(site, list(batch.jobs.values()))
    for index, job in batch.jobs.items():
        batch.answers[index] = _answer(site, job)


def _check(site: Site, batch: _Batch) -> None:
    """The registry's part of the rules, with one question for all orders; what passes has a row, not yet entered."""
    jobs = batch.jobs.values()
    devices = site.registry.known({job.device.value for job in jobs if job.device is not None})
    standing: dict[tuple[str, str], list[CertificateRecord]] = {}
    for row in site.registry.standing({job.holder for job in jobs}):
        standing.setdefault((row.holder, row.profile), []).append(row)
    over: dict[str, list[CertificateRecord]] = {}
    for row in site.registry.with_keys({job.spki for job in jobs}):
        over.setdefault(row.spki, []).append(row)
    now = site.clock.now()
    for index, job in list(batch.jobs.items()):
        with batch.refusing(index):
            known = devices.get(job.holder) if job.device is not None else None
            job.known, job.vendor_serial = known, fitting_serial(known, job.order.vendor_serial)
            _meet(site, job, standing.get(job.place, ()), now)
            if not job.new:
                continue
            _check_key(job, over.get(job.spki, ()))
            if job.record is None:
                job.record, job.fresh = _row(site, batch, job, now), True
            if job.device is not None:
                devices[job.holder] = job.entry = _entry(job, now)


def _meet(site: Site, job: Job, rows: Iterable[CertificateRecord], now: datetime) -> None:
    """What stands in the order's place: a row that an interrupted issue left, an active certificate, both or none."""
    for row in rows:
        if row.status == Status.ACTIVE:
            if not row.expired(now):
                _meet_active(site, job, row)
        elif _usable(site, row, job, now):
            job.record, job.issuer = row, row.issuer
        else:
            job.given_up = row


def _entry(job: Job, now: datetime) -> DeviceRecord:
    """The device's record with what the order says of it."""
    if job.known is None:
        return DeviceRecord(job.holder, job.order.name, job.vendor_serial, DeviceStatus.REGISTERED, rfc3339(now))
    name = job.order.name or job.known.name
    return msgspec.structs.replace(job.known, name=name, vendor_serial=job.vendor_serial)


def _meet_active(site: Site, job: Job, active: CertificateRecord) -> None:
    """An active certificate is the answer, or is superseded, or stands in the way."""
    if active.spki == job.spki:
        if not job.order.renewal:
            job.record, job.new = active, False
        elif job.profile.from_request and job.order.csr is None:
            job.names = allowed_names(active.x509().extensions, job.profile, site.config.domain, job.device)
    elif not job.order.replace:
        raise in_the_way(site, active)


def _check_key(job: Job, rows: Iterable[CertificateRecord]) -> None:
    """A key serves one holder for one thing, and never again after a revocation."""
    for other in rows:
        if other.status != Status.VOID and (other.holder, other.profile) != job.place:
            raise RefusedError(
                "identity.key.shared",
                f"this key is certified for {other.holder} ({other.profile})",
                hint="every certificate needs a key of its own",
            )
        if other.status == Status.REVOKED:
            raise RefusedError("identity.key.revoked", "a certificate over this key was revoked", hint="make a new key")


def _reserve(site: Site, batch: _Batch) -> None:
    """Commit one row a certificate before it is signed, and the use of the secret that allows it."""
    if not any(job.fresh or job.entry != job.known or job.order.secret for job in batch.jobs.values()):
        return
    used: dict[int, str] = {}
    with site.registry.transaction():
        for index, job in list(batch.jobs.items()):
            if not job.order.secret:
                continue
            with batch.refusing(index):
                if not site.registry.use_secret(job.order.secret, batch.at, *job.place):
                    raise RefusedError("identity.enrol.secret", "the one-time secret has been used, or has expired")
                used[index] = job.order.secret
        jobs = list(batch.jobs.values())
        site.registry.void(*(job.given_up for job in jobs if job.given_up is not None and job.fresh))
        site.registry.register(*(job.entry for job in jobs if job.entry is not None and job.entry != job.known))
        site.registry.reserve(*(job.row for job in jobs if job.fresh))
    batch.used |= used


def _give_back(site: Site, batch: _Batch) -> None:
    """Give the secrets back that brought no certificate: a refusal costs none."""
    back = [digest for index, digest in batch.used.items() if not isinstance(batch.answers.get(index), Certified)]
    if back:
        with site.registry.transaction():
            for digest in back:
                site.registry.restore_secret(digest, batch.at)


def _usable(site: Site, pending: CertificateRecord, job: Job, now: datetime) -> bool:
    """Tell whether the row of an interrupted issue serves this order."""
    if pending.spki != job.spki or pending.expired(now):
        return False
    # A CA that has been relieved since then signs no more; what it had signed holds.
    return pending.status == Status.SIGNED or (
        pending.issuer == job.issuer or site.cas[pending.issuer].status == CaStatus.CURRENT
    )


def _span(site: Site, batch: _Batch, job: Job, now: datetime) -> tuple[str, str]:
    """From when to when, as the registry keeps it."""
    place = job.profile.name, job.issuer
    asked = job.order.validity
    if asked is None and place in batch.spans:
        return batch.spans[place]
    validity = asked or Validity.starting(now, job.profile.days, within=site.certificates[job.issuer])
    if asked is None and validity.not_after <= now:
        raise RefusedError("identity.ca.expired", "the issuing CA has expired", where=job.issuer)
    span = rfc3339(validity.not_before), rfc3339(validity.not_after)
    if asked is None:
        batch.spans[place] = span
    return span


def _row(site: Site, batch: _Batch, job: Job, now: datetime) -> CertificateRecord:
    not_before, not_after = _span(site, batch, job, now)
    serial = new_serial()
    shards = 0 if job.profile.no_check else site.config.crl_shards
    return CertificateRecord(
        issuer=job.issuer,
        serial=serial,
        holder=job.holder,
        device=job.device.value if job.device else None,
        profile=job.profile.name,
        purpose=job.profile.purpose,
        status=Status.RESERVED,
        not_before=not_before,
        not_after=not_after,
        spki=job.spki,
        key=job.order.key,
        event=new_event_id(),
        shard=shard_of(int(serial, 16), shards),
    )


def _sign(site: Site, batch: _Batch) -> None:
    """Sign reserved certificates, each as a verifier will believe it, and commit them."""
    reserved = {index: job for index, job in batch.jobs.items() if job.row.status == Status.RESERVED}
    if not reserved:
        return
    made: dict[int, bytes] = {}
    try:
        for index, job in reserved.items():
            with batch.refusing(index):
                made[index] = _build(site, batch, job)
    except SecguardError:
        with site.registry.transaction():
            site.registry.void(*(job.row for job in reserved.values()))
        raise
    with site.registry.transaction():
        site.registry.store_all((reserved[index].row, data) for index, data in made.items())
        site.registry.void(*(job.row for index, job in reserved.items() if index not in made))
    for index, data in made.items():
        job = reserved[index]
        job.record = msgspec.structs.replace(job.row, status=Status.SIGNED, certificate=data)


@lru_cache(64)
def _validity(not_before: str, not_after: str) -> Validity:
    return Validity(datetime.fromisoformat(not_before), datetime.fromisoformat(not_after))


def _build(site: Site, batch: _Batch, job: Job) -> bytes:
    """Sign one certificate: the first of a kind by the builder, and judged; the others from the template it gives."""
    row, signer = job.row, site.signer(job.issuer)
    serial = int(row.serial, 16)
    validity = _validity(row.not_before, row.not_after)
    short = job.profile.name, job.issuer, job.holder[:_ALIKE], job.algorithm
    template = batch.kinds.get(short) if job.device is not None and not job.names else None
    kind: tuple[object, ...] = ()
    if template is None:
        kind = _kind(site, job, signer)
        template = site.templates.get(kind) if kind else None
    if template is not None and job.device is not None:
        batch.kinds[short] = template
        return template.certificate(
            template.tbs(job.device, serial, validity, job.key_bytes, job.vendor_serial), signer
        )
    certificate = build_leaf(
        job.profile,
        job.holder,
        site.config,
        job.public,
        serial=serial,
        validity=validity,
        issuer=site.certificates[job.issuer],
        issuer_name=job.issuer,
        signer=signer,
        vendor_serial=job.vendor_serial,
        names=job.names,
    )
    _judge(site, job, certificate)
    if kind and job.device is not None:
        template = Template(certificate, job.profile, job.device, site.config, job.issuer)
        tbs = template.tbs(job.device, serial, validity, job.key_bytes, job.vendor_serial)
        if tbs == certificate.tbs_certificate_bytes:
            if len(site.templates) >= _MAX_TEMPLATES:
                site.templates.clear()
            site.templates[kind] = template
    return certificate.public_bytes(Encoding.DER)


def _kind(site: Site, job: Job, signer: Signer) -> tuple[object, ...]:
    """What certificates share that a verifier judges alike; empty for one that is a kind of its own.

    Of the ID only the six digits of the serial number differ within a kind, so centre, type and network, on which the
    GB scope and the name constraints look, were judged for all.
    """
    if job.device is None or job.names or not signs_templates(signer):
        return ()
    issuer = site.certificates[job.issuer]
    return job.profile, site.config, job.issuer, issuer, job.device.value[:_ALIKE], job.algorithm


def _judge(site: Site, job: Job, certificate: x509.Certificate) -> None:
    """Judge a certificate as a verifier will.

    Raises:
        RefusedError: `identity.certificate.rejected`: it would not be believed.
    """
    chain = [certificate, site.certificates[job.issuer]]
    at = datetime.fromisoformat(job.row.not_before)
    judgement = TrustPolicy([site.root]).judge_chain(chain, job.profile.purpose, at, gbid=job.device)
    if not judgement.believed:
        reasons = [describe(item) for item in judgement.findings if item.axis is Axis.PROVENANCE]
        raise RefusedError(
            "identity.certificate.rejected",
            f"a verifier would not believe this certificate: {reasons[0] if reasons else 'no path'}",
            hint="the profile, the site's domain or the CA is not right for it",
            where=job.holder,
        )


def _record(site: Site, jobs: Sequence[Job]) -> None:
    """Record what was signed, then put it into force."""
    waiting = [job for job in jobs if job.row.status == Status.SIGNED]
    if not waiting:
        return
    events: dict[str, Event] = {}
    for job in waiting:
        row = job.row
        if job.entry is not None and job.entry.status == DeviceStatus.REGISTERED:
            # The same ID at every attempt: the ledger keeps the first.
            name = f"device-registered-{row.holder}"
            events.setdefault(name, site.event("device.registered", row.holder, name))
        kind = "certificate.renewed" if job.order.renewal else "certificate.issued"
        events[row.event] = site.event(kind, row.holder, row.event, **_facts(row))
    site.record(list(events.values()))
    with site.registry.transaction():
        site.registry.activate(*(job.row for job in waiting))
    for job in waiting:
        job.record = msgspec.structs.replace(job.row, status=Status.ACTIVE)


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


def _answer(site: Site, job: Job) -> Certified:
    data = job.row.certificate
    assert data is not None
    return Certified(job.row, data, (data, site.cas[job.row.issuer].certificate), job.new)
