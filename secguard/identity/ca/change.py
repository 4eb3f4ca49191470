"""Changing the CAs of a site: another one for a region, a successor, the end of one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from secguard.core import RefusedError, UsageError, rfc3339
from secguard.events import Event
from secguard.gbid import Scope
from secguard.identity.authority import Authority
from secguard.identity.ca.asking import CaRequest
from secguard.identity.ca.certify import certify_ca, check_scope
from secguard.identity.ca.request import Requested, Wanted, check_name, read_pending, request_cas
from secguard.identity.ca.setting import Setting, kind_of, make_key
from secguard.identity.certificate import ROOT
from secguard.identity.lock import exclusive
from secguard.identity.records import CaRecord, CaStatus
from secguard.trust import scope_of

__all__ = ["Changed", "add_ca", "default_name", "retire_ca", "rollover_ca"]

_GENERATION = re.compile(r"-g[0-9]+$")


@dataclass(frozen=True, slots=True)
class Changed:
    """What was changed.

    Attributes:
        authority: the site's CAs.
        name: the CA that came into force; empty: none yet (the root is elsewhere).
        old: the CA that stopped issuing; empty: none.
        requested: the request for the root; None: the root is here.
        new: False if it had been done before.
    """

    authority: Authority
    name: str = ""
    old: str = ""
    requested: Requested | None = None
    new: bool = True


def default_name(kind: str, scope: Scope) -> str:
    """A name for a CA of a kind that says its scope: `devices-320116`."""
    return "-".join([kind, *scope.areas, *scope.types, *scope.networks])[:40].rstrip("-")


def add_ca(setting: Setting, kind: str, scope: Scope, *, name: str = "", key: str = "") -> Changed:
    """Make another issuing CA, of a site whose root key is here; `Site.issuer` prefers the narrowest.

    Args:
        setting: the site.
        kind: its profile.
        scope: the GB/T 28181 IDs it is to certify.
        name: its name; empty: kind and scope.
        key: a PKCS#11 URI that names the token for its key; empty: an encrypted file.

    Raises:
        UsageError: a wrong kind or name; the root's key is elsewhere; a wrong passphrase or PIN.
        RefusedError: outside the root's scope; the name is taken; recording failed.
    """
    name = check_name(setting, kind, name or default_name(kind, scope))
    authority = setting.authority()
    if not authority.cas[ROOT].key:
        raise UsageError(
            "identity.key.offline",
            "the root's key is not here",
            hint="ask for it: secguard identity ca request -o DIR --kind KIND --area AREA",
        )
    with exclusive(setting.lock):
        there = setting.registry.authorities().get(name)
        if there is not None and there.status == CaStatus.CURRENT and scope_of(there.x509()) == scope:
            changed = Changed(setting.authority(), name, new=False)
        elif there is not None:
            raise RefusedError(
                "identity.ca.exists",
                f"there is a CA {name} already, {there.status}"
                + (f", with the scope {scope_of(there.x509())}" if there.certificate else ""),
                hint="give another --name",
            )
        else:
            changed = Changed(_make(setting, name, scope, key, lambda: None), name)
    if changed.new or not (setting.folder / "crl" / f"{name}.crl").exists():
        _publish(setting, changed.authority)
    return changed


def rollover_ca(setting: Setting, name: str, *, folder: Path | None = None, key: str = "") -> Changed:
    """Make the successor of a CA, of the same kind and scope; the old one issues no more, but answers for its own.

    Args:
        setting: the site.
        name: the CA.
        folder: where the request goes if the root's key is not here.
        key: a PKCS#11 URI that names the token for the new key; empty: an encrypted file.

    Raises:
        UsageError: no such CA; it is the root; a folder is needed; a wrong passphrase or PIN.
        RefusedError: it issues no more already; recording failed.
    """
    authority = setting.authority()
    old, successor, scope = _succession(setting, name)
    if not authority.cas[ROOT].key:
        if folder is None:
            raise UsageError(
                "identity.key.offline",
                "the root's key is not here, so the root must be asked",
                hint=f"secguard identity ca rollover {name} -o DIR; then sign DIR there, and install the answer here",
            )
        requested = request_cas(setting, [Wanted(successor, scope, name)], folder, key=key)[0]
        return Changed(authority, "", name, requested, requested.new)
    with exclusive(setting.lock):
        old, successor, scope = _succession(setting, name)  # again: another process may have been first
        retiring = msgspec.structs.replace(old, status=CaStatus.RETIRING)
        made = _make(setting, successor, scope, key, lambda: setting.registry.set_authority(retiring))
    changed = Changed(made, successor, name)
    _publish(setting, changed.authority)
    return changed


def _succession(setting: Setting, name: str) -> tuple[CaRecord, str, Scope]:
    """The CA that is to be replaced, its successor's name, and their scope."""
    old = _known(setting, name)
    if name == ROOT:
        raise RefusedError(
            "identity.root.rollover",
            "a root cannot be rolled over: everything trusts this one",
            hint="docs/hierarchy.md tells how to change over to a new root",
        )
    if old.status != CaStatus.CURRENT:
        raise RefusedError(
            "identity.ca.status",
            f"{name} issues no more: it is {old.status}",
            hint=f"roll over its successor, or make another: identity ca add {kind_of(name, setting.ca_profiles)}",
        )
    return old, _successor(setting, name), scope_of(old.x509()) or Scope()


def retire_ca(setting: Setting, name: str) -> CaRecord:
    """End a CA: it never issues again; a pending one is dropped. It goes on signing its list while its key is here.

    Raises:
        UsageError: no such CA.
        RefusedError: it is the root; certificates of it are in force; recording failed.
    """
    with exclusive(setting.lock):
        record = _known(setting, name)
        if name == ROOT:
            raise RefusedError("identity.root.retire", "the root cannot be retired: everything trusts it")
        if record.status == CaStatus.RETIRED:
            return record
        if record.status == CaStatus.PENDING:
            setting.record(setting.event("ca.retired", name, reason="dropped before it came into force"))
            with setting.registry.transaction():
                setting.registry.drop_authority(name)
            for path in (setting.pending / f"{name}.json", setting.pending / f"{name}.uri"):
                path.unlink(missing_ok=True)
            if record.key.startswith("file:"):
                (setting.folder / record.key.removeprefix("file:")).unlink(missing_ok=True)  # it certifies nothing
            return msgspec.structs.replace(record, status=CaStatus.RETIRED)
        now = setting.clock.now()
        left = setting.registry.in_force(now).get(name, 0)
        if left and record.x509().not_valid_after_utc >= now:
            raise RefusedError(
                "identity.ca.in-use",
                f"{left} certificates of {name} are in force",
                hint=f"renew their holders (after: identity ca rollover {name}), or revoke them; then retire it",
            )
        retired = msgspec.structs.replace(record, status=CaStatus.RETIRED)
        setting.record(setting.event("ca.retired", name, f"ca-retired-{name}", reason="no certificates in force"))
        with setting.registry.transaction():
            setting.registry.set_authority(retired)
        return retired


def _known(setting: Setting, name: str) -> CaRecord:
    known = setting.registry.authorities()
    if name not in known:
        raise UsageError("identity.ca.unknown", f"no CA {name[:60]!r}", hint=f"there are: {', '.join(known) or 'none'}")
    return known[name]


def _successor(setting: Setting, name: str) -> str:
    """A name for the successor: the one that is pending already, else the first that is free."""
    known = setting.registry.authorities()
    for other, record in known.items():
        if record.status == CaStatus.PENDING:
            pending = read_pending(setting, other)
            if pending is not None and pending.replaces == name:
                return other
    base, number = _GENERATION.sub("", name)[:34], 2
    while f"{base}-g{number}" in known:
        number += 1
    return f"{base}-g{number}"


def _make(setting: Setting, name: str, scope: Scope, place: str, also: Callable[[], None]) -> Authority:
    """Make the key, let the root certify it, and put it into force; `also` runs in the same commit."""
    authority = setting.authority()
    authority.signer(ROOT)  # a wrong passphrase must show before anything is made
    kind, config = kind_of(name, setting.ca_profiles), setting.config
    ask = CaRequest(name, kind, scope, config.organization, config.country, config.domain)
    check_scope(ask, scope, authority.root)  # before anything is made
    signer, reference = make_key(setting, name, setting.ca_profiles[kind].key, place, several=False)

    def enter(certificate: bytes) -> None:
        created = rfc3339(setting.clock.now())
        setting.registry.add_authority(CaRecord(name, certificate, reference, CaStatus.CURRENT, created))
        also()

    def installed(certificate: x509.Certificate) -> list[Event]:
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        return [
            setting.event(
                "ca.installed",
                name,
                f"ca-installed-{fingerprint[:32]}",
                serial=f"{certificate.serial_number:032x}",
                scope=scope.text,
                certificate_sha256=fingerprint,
            )
        ]

    certify_ca(authority, ask, scope, signer.public_key(), also=installed, then=enter)
    setting.receipts.extend(authority.receipts)
    (setting.pending / f"{name}.uri").unlink(missing_ok=True)
    return setting.authority()


def _publish(setting: Setting, authority: Authority) -> None:
    authority.publish_crls()
    setting.receipts.extend(authority.receipts)
