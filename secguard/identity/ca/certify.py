"""The root certifies an issuing CA, so that no CA certificate comes into being without a record.

Its row among the root's certificates goes the way of every certificate: reserved -> signed -> recorded -> active, each
step durable before the next; an attempt that was broken off is completed with the same serial number.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import RefusedError, rfc3339
from secguard.events import Event, new_event_id
from secguard.gbid import Scope
from secguard.identity.ca.asking import CaRequest, check_key, site_config
from secguard.identity.ca.setting import CA_PROFILE
from secguard.identity.certificate import ROOT, Validity, build_ca
from secguard.identity.issuing.issue import new_serial
from secguard.identity.records import CertificateRecord, Status
from secguard.identity.site import Site
from secguard.keys import key_id
from secguard.trust import common_name, scope_of

__all__ = ["ca_row", "ca_subject", "certify_ca", "check_scope", "known_certificate"]

_MAX_NAME = 64


def ca_subject(root: x509.Certificate, name: str, key: PublicKeyTypes) -> str:
    """The CN of an issuing CA: the start of the root's, the CA's name, and a part of its own key's ID."""
    start = common_name(root).partition(" root CA ")[0]
    end = f"{name} CA {key_id(key)[:8]}"
    return f"{start[: _MAX_NAME - 1 - len(end)].rstrip()} {end}"


def check_scope(ask: CaRequest, scope: Scope, root: x509.Certificate) -> None:
    """Refuse a scope beyond what was asked for, or beyond the root's.

    Raises:
        RefusedError: `identity.scope.exceeded`.
    """
    own = scope_of(root) or Scope()
    for limit, whose in ((ask.scope, "asked-for"), (own, "root's")):
        if not scope.within(limit):
            raise RefusedError(
                "identity.scope.exceeded",
                f"the scope of {ask.name} ({scope}) lies outside the {whose} scope ({limit})",
                hint="narrow it with --scope, or ask the root of that area",
            )


def known_certificate(site: Site, key: PublicKeyTypes) -> CertificateRecord | None:
    """The row of a CA certificate over a key, or None.

    Raises:
        RefusedError: a certificate over this key was revoked, or it is an end entity's.
    """
    for row in site.registry.with_key(key_id(key)):
        if row.status == Status.VOID:
            continue
        if row.issuer != ROOT:
            raise RefusedError("identity.key.shared", f"this key is certified for {row.holder} ({row.profile})")
        if row.status == Status.REVOKED:
            raise RefusedError(
                "identity.key.revoked",
                f"a certificate over this key was revoked, serial {row.serial}",
                hint="make a new key: secguard identity ca rollover",
            )
        return row
    return None


def certify_ca(
    site: Site,
    ask: CaRequest,
    scope: Scope,
    key: PublicKeyTypes,
    *,
    days: int | None = None,
    also: Callable[[x509.Certificate], Sequence[Event]] | None = None,
    then: Callable[[bytes], None] | None = None,
) -> CertificateRecord:
    """Certify an issuing CA; the caller holds the site's lock.

    Args:
        site: the one that has the root's key.
        ask: what is asked for.
        scope: what is granted.
        key: the CA's public key.
        days: validity; None: the profile's.
        also: called with the certificate; gives events that are recorded along.
        then: called with the certificate (DER) in the transaction that puts it into force.

    Returns:
        Its row; the one that is there if the key is certified with this scope already.

    Raises:
        UsageError: no such kind; the root's key is not here, or its passphrase is wrong.
        RefusedError: outside the root's scope; the wrong kind of key; certified otherwise, or revoked; or recording
            failed.
    """
    profile = site.ca_profiles.get(ask.kind)
    if profile is None or ask.kind == ROOT:
        raise RefusedError(
            "identity.ca.kind", f"the root has no profile for CAs of the kind {ask.kind}", where=str(site.certs / "ca")
        )
    check_key(ask, key, profile)
    check_scope(ask, scope, site.root)
    signer = site.signer(ROOT)
    row = known_certificate(site, key)
    if row is None:
        now = site.clock.now()
        validity = Validity.starting(now, days or profile.days, within=site.root)
        if validity.not_after <= now:
            raise RefusedError("identity.ca.expired", "the root has expired", hint="a new root is needed", where=ROOT)
        row = ca_row(ca_subject(site.root, ask.name, key), new_serial(), validity, key, status=Status.RESERVED)
        with site.registry.transaction():
            site.registry.reserve(row)
    if row.status == Status.RESERVED:
        certificate = build_ca(
            profile,
            row.holder,
            site_config(ask, site.config),
            key,
            serial=int(row.serial, 16),
            validity=Validity(datetime.fromisoformat(row.not_before), datetime.fromisoformat(row.not_after)),
            scope=scope,
            issuer=site.root,
            signer=signer,
        )
        data = certificate.public_bytes(Encoding.DER)
        with site.registry.transaction():
            site.registry.store(row, data)
        row = msgspec.structs.replace(row, status=Status.SIGNED, certificate=data)
    made = row.x509()
    if scope_of(made) != scope:
        raise RefusedError(
            "identity.ca.certified",
            f"the key of {ask.name} is certified already with the scope {scope_of(made)}, serial {row.serial}",
            hint="use that certificate, or revoke it and make a new key",
        )
    if row.status == Status.SIGNED:
        event = site.event(
            "ca.certified",
            row.holder,
            row.event,
            name=ask.name,
            serial=row.serial,
            scope=scope.text,
            not_after=row.not_after,
            certificate_sha256=made.fingerprint(hashes.SHA256()).hex(),
            key_sha256=row.spki,
        )
        site.record([event, *(also(made) if also is not None else ())])
        assert row.certificate is not None
        with site.registry.transaction():
            site.registry.activate(row)
            if then is not None:
                then(row.certificate)
        row = msgspec.structs.replace(row, status=Status.ACTIVE)
    return row


def ca_row(
    holder: str,
    serial: str,
    validity: Validity,
    key: PublicKeyTypes,
    *,
    status: Status,
    certificate: bytes | None = None,
) -> CertificateRecord:
    """The row of a CA certificate among the root's certificates."""
    return CertificateRecord(
        issuer=ROOT,
        serial=serial,
        holder=holder,
        device=None,
        profile=CA_PROFILE,
        purpose=CA_PROFILE,
        status=status,
        not_before=rfc3339(validity.not_before),
        not_after=rfc3339(validity.not_after),
        spki=key_id(key),
        key="",
        event=new_event_id(),
        certificate=certificate,
    )
