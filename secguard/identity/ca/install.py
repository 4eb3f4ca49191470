"""The site takes the root's answer: certificates of its pending CAs, and the root's list; all is checked first.

Whatever the folder holds comes into force in one commit, after it is recorded; then the first certificates and lists
are made as `ca init` makes them. Installing again what is installed completes what a crash broke off.
"""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Finding, RefusedError, UsageError, describe, rfc3339
from secguard.core.limits import MAX_DOCUMENT, read_bounded
from secguard.gbid import Scope
from secguard.identity.authority import Authority
from secguard.identity.ca.asking import CaRequest, read_request
from secguard.identity.ca.first import first_certificates
from secguard.identity.ca.request import read_pending
from secguard.identity.ca.rootcrl import check_root_crl, crl_event, keep_root_crl, known_number, revoked_cas
from secguard.identity.ca.setting import Setting, kind_of
from secguard.identity.certificate import ROOT
from secguard.identity.issuing.deliver import make_folder
from secguard.identity.lock import exclusive
from secguard.identity.profiles import Domains
from secguard.identity.records import CaRecord, CaStatus
from secguard.keys import key_id
from secguard.trust import Purpose, parse_certificates, parse_crls, scope_of, stated_purposes
from secguard.trust.path import AnchorStore

__all__ = ["Installed", "install"]

_MAX_FILES = 64
_SHA256 = hashes.SHA256()


@dataclass(slots=True)
class Installed:
    """What was put into force.

    Attributes:
        root: the root certificate.
        names: CAs that came into force now.
        known: CAs of the folder that had been in force before.
        retiring: CAs that stopped issuing because their successors came.
        revoked: CAs that the root's list ends.
        pending: CAs that still wait for the root.
        narrowed: CAs whose scope is smaller than what was asked for.
        crl_number: number of the root's list in force.
        crl_older: the folder's list is older than the one in force, which stays.
        authority: the site's CAs.
    """

    root: x509.Certificate
    names: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    retiring: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    narrowed: list[str] = field(default_factory=list)
    crl_number: int = 0
    crl_older: bool = False
    authority: Authority | None = None


@dataclass(slots=True)
class _Found:
    root: x509.Certificate
    cas: list[tuple[Path, x509.Certificate]]
    crl: x509.CertificateRevocationList | None


def install(setting: Setting, place: Path, *, root_sha256: str = "") -> Installed:
    """Install what the root handed out.

    Args:
        setting: the site.
        place: the folder that `sign` wrote, or a fresh list of the root alone.
        root_sha256: fingerprint that the root must have, hex; empty: not compared.

    Raises:
        UsageError: nothing to install; the passphrase or PIN is missing or wrong.
        FormatError: a file is not what its name says.
        RefusedError: another root; a certificate that was not asked for, or not so; a foreign, stale or older list;
            recording failed.
        SystemPartError: a write failed.
    """
    make_folder(setting.folder)
    with exclusive(setting.lock):
        done, changed = _install(setting, place, root_sha256)
    if not done.names and not done.known:
        return done
    done.authority = setting.authority()
    complete = setting.root_file.exists() and all(
        (setting.folder / "crl" / f"{name}.crl").exists() for name in done.authority.cas
    )
    if changed or not complete:
        first_certificates(done.authority, setting)
        setting.receipts.extend(done.authority.receipts)
    return done


def _install(setting: Setting, place: Path, root_sha256: str) -> tuple[Installed, bool]:
    known = setting.registry.authorities()
    found = _read(setting, place, known)
    print_ = found.root.fingerprint(_SHA256).hex()
    if root_sha256 and root_sha256.replace(":", "").lower() != print_:
        raise RefusedError(
            "identity.root.foreign",
            f"the root's fingerprint is {print_}",
            hint="compare it with what `identity ca show` says on the root's machine",
            where=str(place),
        )
    done = Installed(found.root)
    crl, number = found.crl, 0
    if crl is not None:
        number, newest = check_root_crl(setting, found.root, crl), known_number(setting)
        if number < newest:
            if not found.cas:
                raise RefusedError(
                    "identity.crl.older",
                    f"this list of the root has the number {number}; number {newest} is in force",
                    hint="fetch the newest root.crl from the root's machine",
                    where=str(place),
                )
            crl, done.crl_older = None, True
    if crl is None and setting.root_crl.exists():
        (in_force,) = parse_crls(read_bounded(setting.root_crl), str(setting.root_crl))
    elif crl is not None:
        in_force = crl
    else:
        raise UsageError(
            "identity.crl.missing", "there is no list of the root", hint="sign writes root.crl", where=str(place)
        )
    by_key = {}
    for name, record in known.items():
        pending = read_pending(setting, name) if record.status == CaStatus.PENDING else None
        if pending is not None:
            ask, key = read_request(pending.csr.encode(), name)
            by_key[key_id(key)] = (record, ask, pending.replaces)
    store = AnchorStore([found.root], strict=True)
    fresh: list[CaRecord] = []
    for path, certificate in found.cas:
        same = [name for name, record in known.items() if record.certificate == certificate.public_bytes(Encoding.DER)]
        if same:
            done.known += same
            continue
        wanted = by_key.get(key_id(certificate.public_key()))
        if wanted is None:
            raise RefusedError(
                "identity.ca.unasked",
                "this site did not ask for this certificate",
                hint="it belongs to another site, or its request was dropped",
                where=str(path),
            )
        record, ask, replaces = wanted
        reason = _judge(setting, store, found.root, certificate, ask)
        if not reason and in_force.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            reason = "the root has revoked it"
        if reason:
            raise RefusedError(
                "identity.ca.wrong",
                f"the certificate of {record.name} is not what was asked for: {reason}",
                hint="let the root sign the request again",
                where=str(path),
            )
        if key_id(setting.signer(record.key).public_key()) != key_id(certificate.public_key()):
            raise RefusedError(
                "identity.ca.key",
                f"the key of {record.name} is not the one that was certified",
                hint="put the right key back, or drop the request and ask again",
                where=record.key,
            )
        fresh.append(
            msgspec.structs.replace(record, certificate=certificate.public_bytes(Encoding.DER), status=CaStatus.CURRENT)
        )
        done.names.append(record.name)
        if scope_of(certificate) != ask.scope:
            done.narrowed.append(record.name)
        old = known.get(replaces)
        if old is not None and old.status == CaStatus.CURRENT:
            fresh.append(msgspec.structs.replace(old, status=CaStatus.RETIRING))
            done.retiring.append(replaces)
    if not found.cas and ROOT not in known:
        raise UsageError(
            "identity.ca.nothing",
            "no certificates to install",
            hint="name the folder that `identity ca sign -o DIR` wrote",
            where=str(place),
        )
    ended = [] if crl is None else list(revoked_cas(known, crl))
    done.revoked = [record.name for record in ended]
    if fresh:
        setting.secret()  # a wrong passphrase must show before anything is changed
    events = [
        setting.event(
            "ca.installed",
            record.name,
            f"ca-installed-{record.x509().fingerprint(_SHA256).hex()[:32]}",
            serial=f"{record.x509().serial_number:032x}",
            scope=str(scope_of(record.x509())),
            certificate_sha256=record.x509().fingerprint(_SHA256).hex(),
            root_sha256=print_,
        )
        for record in fresh
        if record.name in done.names
    ]
    events += [setting.event("ca.retired", name, f"ca-retired-{name}", reason="revoked") for name in done.revoked]
    if crl is not None and number > setting.registry.crl_number(ROOT):
        events.append(crl_event(setting, crl, number))
    if events:
        setting.record(*events)
    with setting.registry.transaction():
        if ROOT not in known:
            data = found.root.public_bytes(Encoding.DER)
            setting.registry.add_authority(CaRecord(ROOT, data, "", created=rfc3339(setting.clock.now())))
        for record in (*fresh, *ended):
            setting.registry.set_authority(record)
        if crl is not None:
            setting.registry.raise_crl_number(ROOT, number)
    if crl is not None:
        keep_root_crl(setting, crl)
    for name in done.names:
        (setting.pending / f"{name}.json").unlink(missing_ok=True)
        (setting.pending / f"{name}.uri").unlink(missing_ok=True)
    after = setting.registry.authorities().values()
    done.pending = [record.name for record in after if record.status == CaStatus.PENDING]
    done.crl_number = known_number(setting)
    return done, bool(fresh)


def _read(setting: Setting, place: Path, known: dict[str, CaRecord]) -> _Found:
    """The root, the other certificates, and the list; the root is the one that is known, if one is."""
    # Names that begin with a dot are of the machine that wrote the stick (macOS: `._root.pem`).
    files = sorted(path for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else [place]
    files = [path for path in files if path.suffix in {".pem", ".cer", ".crt", ".crl"} or path == place]
    if not files or len(files) > _MAX_FILES:
        raise UsageError(
            "identity.ca.nothing",
            f"{len(files)} files to install",
            hint="name the folder that `identity ca sign -o DIR` wrote, or a root.crl",
            where=str(place),
        )
    roots: dict[str, x509.Certificate] = {}
    cas: list[tuple[Path, x509.Certificate]] = []
    crls: list[x509.CertificateRevocationList] = []
    for path in files:
        data = read_bounded(path, MAX_DOCUMENT)
        if path.suffix == ".crl" or b"BEGIN X509 CRL" in data:
            crls += parse_crls(data, str(path))
            continue
        for certificate in parse_certificates(data, str(path)):
            if certificate.issuer == certificate.subject:
                roots[certificate.fingerprint(_SHA256).hex()] = certificate
            else:
                cas.append((path, certificate))
    if len(crls) > 1:
        raise UsageError("identity.crl.several", f"{len(crls)} lists; one is expected", where=str(place))
    root = _root(setting, list(roots.values()), known, place)
    return _Found(root, cas, crls[0] if crls else None)


def _root(setting: Setting, roots: list[x509.Certificate], known: dict[str, CaRecord], place: Path) -> x509.Certificate:
    own = known.get(ROOT)
    if own is not None and own.key:
        raise RefusedError(
            "identity.ca.here", "this site has the root's key itself", hint="use: identity ca add, identity crl"
        )
    if own is not None:
        if any(root != own.x509() for root in roots):
            raise RefusedError(
                "identity.root.foreign",
                "this is the root of another site",
                hint="a site has one root; see docs/hierarchy.md on changing it",
                where=str(place),
            )
        return own.x509()
    if len(roots) != 1:
        raise UsageError(
            "identity.root.missing" if not roots else "identity.root.several",
            f"{len(roots)} root certificates; one is expected",
            hint="name the folder that `identity ca sign -o DIR` wrote",
            where=str(place),
        )
    if setting.root_file.exists() and parse_certificates(setting.root_file.read_bytes())[0] != roots[0]:
        raise RefusedError(
            "identity.root.exists",
            "there is another root certificate here already",
            hint="move it away to begin anew",
            where=str(setting.root_file),
        )
    return roots[0]


def _judge(
    setting: Setting, store: AnchorStore, root: x509.Certificate, certificate: x509.Certificate, ask: CaRequest
) -> str:
    """Why a certificate is not the answer to a request; empty if it is."""
    path = store.build([certificate])
    if isinstance(path, Finding):
        return describe(path)
    if path.certificates != (certificate, root):
        return "the root did not issue it"
    extensions = certificate.extensions
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return "it is no CA certificate"
    if not basic.ca or basic.path_length != 0 or not usage.key_cert_sign or not usage.crl_sign:
        return "it is no certificate of an issuing CA"
    profile = setting.ca_profiles[kind_of(ask.name, setting.ca_profiles)]
    wanted, stated = {*profile.purposes, Purpose.OCSP}, set(stated_purposes(certificate))
    if stated != wanted:
        return f"it is for {', '.join(sorted(stated)) or 'nothing'}, not for {', '.join(sorted(wanted))}"
    scope, above = scope_of(certificate), scope_of(root)
    if scope is None or not scope.within(ask.scope) or not scope.within(above or Scope()):
        return f"its scope is {scope}, not within {ask.scope}"
    constraints = [item for item in extensions if isinstance(item.value, x509.NameConstraints)]
    if profile.domains is not Domains.NONE and not any(item.critical for item in constraints):
        return "it has no critical name constraints"
    now = setting.clock.now()
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return f"it is valid from {rfc3339(since)} to {rfc3339(until)}; it is {rfc3339(now)} here: compare the clocks"
    return ""
