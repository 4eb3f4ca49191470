"""The key that answers for a CA by OCSP, certified by that CA (RFC 6960, 4.2.2.2) and renewed by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import SecguardError, UsageError
from secguard.identity.issuing.certify import certify
from secguard.identity.issuing.deliver import make_folder, obtain_key
from secguard.identity.issuing.order import Order
from secguard.identity.lock import exclusive
from secguard.identity.records import CaStatus, CertificateRecord, Status
from secguard.identity.site import Site
from secguard.identity.status import der
from secguard.keys import Signer, key_id, load_signer
from secguard.trust import Purpose, stated_purposes

__all__ = ["PROFILE", "Delegate", "delegates", "obtain"]

PROFILE = "ocsp"
"""Profile of the certificates of responders."""


@dataclass(frozen=True, slots=True)
class Delegate:
    """A responder's key and certificate.

    Attributes:
        issuer: name of the CA it answers for.
        signer: the key.
        sign: signs bytes as X.509 does; the signature only.
        not_before: start of the certificate.
        not_after: end of the certificate.
        responder: ResponderID, by key, in DER.
        algorithm: AlgorithmIdentifier of its signatures, in DER.
        certificates: the certs field of a BasicOCSPResponse, in DER.
    """

    issuer: str
    signer: Signer
    sign: Callable[[bytes], bytes]
    not_before: datetime
    not_after: datetime
    responder: bytes
    algorithm: bytes
    certificates: bytes


def delegates(site: Site) -> tuple[list[Delegate], dict[str, SecguardError]]:
    """The delegates of all CAs that can have one, and why others have none.

    The root has none: it certifies CAs only, and those are on its list.
    """
    found: list[Delegate] = []
    failed: dict[str, SecguardError] = {}
    for name, certificate in site.certificates.items():
        if Purpose.OCSP not in stated_purposes(certificate):
            continue
        try:
            found.append(obtain(site, name))
        except SecguardError as error:
            # One that cannot certify any more may have nobody left to answer for it.
            if site.cas[name].key and site.cas[name].status != CaStatus.RETIRED:
                failed[name] = error
    return found, failed


def obtain(site: Site, name: str) -> Delegate:
    """The delegate of a CA; its certificate is made, or renewed when half of it is over.

    Raises:
        UsageError: no or a wrong passphrase; the CA's key is elsewhere, or it certifies nothing any more.
        RefusedError: the key file is readable by others, or recording failed.
        SystemPartError: a write failed.
    """
    path = site.folder / "keys" / f"ocsp.{name}.key.pem"
    now = site.clock.now()
    row = site.registry.active(_holder(name), PROFILE)
    current = _open(site, name, row, path) if row is not None else None
    if current is not None and now < current.not_before + (current.not_after - current.not_before) / 2:
        return current
    try:
        return _certify(site, name, path)
    except SecguardError:
        if current is not None and now < current.not_after:
            return current
        raise


def _holder(name: str) -> str:
    return f"ocsp/{name}"


def _open(site: Site, name: str, row: CertificateRecord, path: Path) -> Delegate | None:
    """The delegate that is in force, if its key is there."""
    if row.issuer != name or not path.exists():
        return None
    signer = load_signer(f"file:{path}", site.passphrase)
    return _delegate(name, signer, row) if key_id(signer.public_key()) == row.spki else None


def _certify(site: Site, name: str, path: Path) -> Delegate:
    profile = site.profiles.get(PROFILE)
    if profile is None:
        raise UsageError("identity.profile.unknown", f"no profile {PROFILE!r}", where=str(site.certs))
    if site.passphrase is None:
        raise UsageError("keys.passphrase.missing", "no passphrase", hint="give --passphrase-file FILE")
    site.signer(name)
    rows = list(site.registry.certificates(_holder(name)))
    with exclusive(site.lock):
        make_folder(path.parent)
        spent = {row.spki for row in rows if row.status == Status.REVOKED}
        signer, _ = obtain_key(path, profile.key, site.passphrase, spent)
    spki = key_id(signer.public_key())
    order = Order(
        _holder(name),
        PROFILE,
        public=signer.public_key(),
        key=site.reference(path),
        issuer=name,
        replace=True,
        renewal=any(row.spki == spki and row.status == Status.ACTIVE for row in rows),
    )
    (answer,) = certify(site, [order])
    if isinstance(answer, SecguardError):
        raise answer
    return _delegate(name, signer, answer.record)


def _delegate(name: str, signer: Signer, row: CertificateRecord) -> Delegate:
    certificate = row.x509()
    identifier = x509.SubjectKeyIdentifier.from_public_key(signer.public_key()).digest  # type: ignore[arg-type] # ours
    return Delegate(
        name,
        signer,
        der.signing(signer, repeatable=False),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        der.tlv(0xA2, der.tlv(0x04, identifier)),
        der.algorithm(signer),
        der.tlv(0xA0, der.sequence(certificate.public_bytes(Encoding.DER))),
    )
