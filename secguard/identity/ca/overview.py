"""How the CAs of a site stand: what `identity ca show` tells, read from the registry and the files; needs no key."""

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import SecguardError
from secguard.core.limits import read_bounded
from secguard.gbid import Scope
from secguard.identity.ca.asking import read_request
from secguard.identity.ca.request import read_pending
from secguard.identity.ca.setting import Setting
from secguard.identity.certificate import ROOT
from secguard.identity.profiles import CaProfile
from secguard.identity.records import CaRecord, CaStatus
from secguard.keys import key_id
from secguard.trust import Purpose, common_name, parse_crls, scope_of, stated_purposes

__all__ = ["CaView", "chain_in_force", "view_cas"]


@dataclass(frozen=True, slots=True)
class CaView:
    """One CA.

    Attributes:
        name: its name.
        status: see `CaStatus`; `revoked` when the root's list says so, `expired` when its time is over.
        kind: its profile.
        purposes: what it certifies.
        scope: the GB/T 28181 IDs it certifies, or asks for.
        key: `file`, `token` or `elsewhere`.
        subject: CN; empty while pending.
        serial: serial number, hex; empty while pending.
        not_before: start of its validity; None while pending.
        not_after: its end; None while pending.
        sha256: fingerprint of the certificate, hex; empty while pending.
        key_sha256: SHA-256 of the SubjectPublicKeyInfo, hex.
        in_force: certificates of it that are in force.
        crl: `fresh`, `stale`, `missing`; empty while pending.
        crl_until: when its list ends.
    """

    name: str
    status: str
    kind: str
    purposes: tuple[str, ...]
    scope: Scope | None
    key: str
    subject: str = ""
    serial: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    sha256: str = ""
    key_sha256: str = ""
    in_force: int = 0
    crl: str = ""
    crl_until: datetime | None = None


def view_cas(setting: Setting) -> list[CaView]:
    """All CAs, the root first, then by name; pending ones too."""
    known = setting.registry.authorities()
    counts = setting.registry.in_force(setting.clock.now())
    profiles = setting.ca_profiles
    names = sorted(known, key=lambda name: (name != ROOT, name))
    return [_view(setting, known[name], counts.get(name, 0), profiles) for name in names]


def _view(setting: Setting, record: CaRecord, count: int, profiles: dict[str, CaProfile]) -> CaView:
    place = "elsewhere" if not record.key else "token" if record.key.startswith("pkcs11:") else "file"
    kinds = [kind for kind in profiles if record.name == kind or record.name.startswith(f"{kind}-")]
    kind = max(kinds, key=len, default="")
    if record.status == CaStatus.PENDING:
        purposes = tuple(str(one) for one in profiles[kind].purposes) if kind else ()
        scope, key = None, ""
        try:
            pending = read_pending(setting, record.name)
            if pending is not None:
                ask, public = read_request(pending.csr.encode())
                scope, key = ask.scope, key_id(public)
        except SecguardError:
            pass  # a damaged note must not hide the others; `ca request` says what is wrong
        return CaView(record.name, record.status, kind, purposes, scope, place, key_sha256=key)
    certificate = record.x509()
    now = setting.clock.now()
    freshness, until = _freshness(setting, record.name, certificate, now)
    return CaView(
        record.name,
        _status(setting, record, certificate, now),
        kind,
        tuple(str(one) for one in stated_purposes(certificate) if one is not Purpose.OCSP),
        scope_of(certificate),
        place,
        common_name(certificate),
        f"{certificate.serial_number:032x}",
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        certificate.fingerprint(hashes.SHA256()).hex(),
        key_id(certificate.public_key()),
        count,
        freshness,
        until,
    )


def _status(setting: Setting, record: CaRecord, certificate: x509.Certificate, now: datetime) -> str:
    if certificate.not_valid_after_utc < now:
        return "expired"
    if record.status == CaStatus.RETIRED and setting.root_crl.exists():
        try:
            (crl,) = parse_crls(read_bounded(setting.root_crl), str(setting.root_crl))
        except (SecguardError, ValueError):
            return record.status
        if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            return "revoked"
    return record.status


def _freshness(
    setting: Setting, name: str, certificate: x509.Certificate, now: datetime
) -> tuple[str, datetime | None]:
    path = setting.folder / "crl" / f"{name}.crl"
    if not path.exists():
        return "missing", None
    try:
        (crl,) = parse_crls(read_bounded(path), str(path))
        if not crl.is_signature_valid(certificate.public_key()):  # type: ignore[arg-type] # keys.Algorithm admits none that cannot sign
            return "foreign", crl.next_update_utc
    except (SecguardError, ValueError):
        return "damaged", None
    until = crl.next_update_utc
    return ("fresh" if until is not None and until >= now else "stale"), until


def chain_in_force(setting: Setting) -> bytes:
    """All CA certificates that something in force may lead to, in PEM: current and retiring ones, then the root."""
    known = setting.registry.authorities()
    names = [
        name
        for name, record in known.items()
        if name != ROOT and record.status in {CaStatus.CURRENT, CaStatus.RETIRING}
    ]
    return b"".join(known[name].x509().public_bytes(Encoding.PEM) for name in [*names, ROOT] if name in known)
