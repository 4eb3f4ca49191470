"""A site asks an offline root for issuing CAs: it makes their keys, and one request file each.

The key is durable before the request, the request before the row, the row before the file is handed out; asking again
hands out the same request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from secguard.core import FormatError, RefusedError, UsageError, rfc3339
from secguard.core.limits import MAX_PEM, read_bounded
from secguard.gbid import Scope
from secguard.identity.ca.asking import CA_NAME, CaRequest, build_request, read_request
from secguard.identity.ca.setting import Setting, kind_of, make_key
from secguard.identity.certificate import ROOT
from secguard.identity.issuing.deliver import make_folder
from secguard.identity.lock import exclusive
from secguard.identity.records import CaRecord, CaStatus
from secguard.keys import Signer, key_id
from secguard.store import atomic_write
from secguard.trust import scope_of

__all__ = ["Pending", "Requested", "Wanted", "check_name", "read_pending", "request_cas"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An issuing CA that the site wants.

    Attributes:
        name: its name.
        scope: the GB/T 28181 IDs it is to certify.
        replaces: the CA whose successor it is; empty: none.
    """

    name: str
    scope: Scope
    replaces: str = ""


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What waits for the root's signature, as `pending/<name>.json`.

    Attributes:
        csr: the request in PEM.
        replaces: the CA that stops issuing when this one comes into force; empty: none.
    """

    csr: str
    replaces: str = ""


@dataclass(frozen=True, slots=True)
class Requested:
    """One request that was handed out.

    Attributes:
        ask: what is asked for.
        key_sha256: SHA-256 of the SubjectPublicKeyInfo, hex.
        key: reference of the key.
        file: the request.
        new: False if it had been made before.
    """

    ask: CaRequest
    key_sha256: str
    key: str
    file: Path
    new: bool


def read_pending(setting: Setting, name: str) -> Pending | None:
    """What is known of a pending CA, or None.

    Raises:
        FormatError: the file is damaged.
    """
    path = setting.pending / f"{name}.json"
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_bounded(path, MAX_PEM), type=Pending)
    except msgspec.MsgspecError as error:
        raise FormatError(
            "identity.ca.pending",
            "the note of a pending CA is damaged",
            hint=f"drop it (secguard identity ca retire {name}), and request it again",
            where=str(path),
        ) from error


def check_name(setting: Setting, kind: str, name: str) -> str:
    """The name of a new CA of a kind: the kind, or the kind with a suffix.

    Raises:
        UsageError: `identity.ca.kind`, `identity.ca.name`.
    """
    if kind not in setting.ca_profiles or kind == ROOT:
        kinds = ", ".join(one for one in setting.ca_profiles if one != ROOT)
        raise UsageError("identity.ca.kind", f"no kind of CA {kind[:40]!r}", hint=f"there are: {kinds}")
    if not CA_NAME.fullmatch(name) or kind_of(name, setting.ca_profiles) != kind:
        raise UsageError(
            "identity.ca.name",
            f"{name[:60]!r} cannot be the name of a CA of the kind {kind}",
            hint=f"{kind}, or {kind}- and a suffix of a-z, 0-9 and -; at most 40 characters: {kind}-320116",
        )
    return name


def request_cas(setting: Setting, wanted: Sequence[Wanted], folder: Path, *, key: str = "") -> list[Requested]:
    """Make keys, and write one request each into `folder`, as `<name>.csr`.

    Args:
        setting: the site.
        wanted: the CAs.
        folder: where the requests go; made if missing.
        key: a PKCS#11 URI that names the token for the keys; empty: encrypted files.

    Raises:
        UsageError: a wrong name or kind; the passphrase or PIN is missing or wrong.
        RefusedError: the site has the root's key; a CA of this name is there, or is asked for otherwise; the scope
            lies outside the root's; recording failed.
        SystemPartError: a write failed.
    """
    for item in wanted:
        check_name(setting, kind_of(item.name, setting.ca_profiles), item.name)
    make_folder(setting.folder)
    with exclusive(setting.lock):
        known = setting.registry.authorities()
        root = known.get(ROOT)
        if root is not None and root.key:
            raise RefusedError(
                "identity.ca.here", "the root's key is here: nobody need be asked", hint="use: identity ca add KIND"
            )
        for item in wanted:
            _check(setting, item, known)
        done = [_request(setting, item, known, key, several=len(wanted) > 1) for item in wanted]
        fresh = [(ask, signer, reference) for ask, signer, reference, _ in done if ask.name not in known]
        if fresh:
            setting.record(
                *(
                    setting.event(
                        "ca.requested",
                        ask.name,
                        f"ca-requested-{key_id(signer.public_key())[:32]}",
                        ca_kind=ask.kind,
                        scope=ask.scope.text,
                        key_sha256=key_id(signer.public_key()),
                    )
                    for ask, signer, reference in fresh
                )
            )
            with setting.registry.transaction():
                for ask, _, reference in fresh:
                    record = CaRecord(ask.name, b"", reference, CaStatus.PENDING, rfc3339(setting.clock.now()))
                    setting.registry.add_authority(record)
        out = []
        make_folder(folder)
        for ask, signer, reference, csr in done:
            path = folder / f"{ask.name}.csr"
            atomic_write(path, csr)
            out.append(Requested(ask, key_id(signer.public_key()), reference, path, ask.name not in known))
        return out


def _check(setting: Setting, item: Wanted, known: dict[str, CaRecord]) -> None:
    root, there = known.get(ROOT), known.get(item.name)
    if root is not None and not item.scope.within(scope_of(root.x509()) or Scope()):
        raise RefusedError(
            "identity.scope.exceeded",
            f"the scope of {item.name} ({item.scope}) lies outside the root's ({scope_of(root.x509())})",
        )
    if there is not None and there.status != CaStatus.PENDING:
        raise RefusedError(
            "identity.ca.exists",
            f"the CA {item.name} is in force already",
            hint="give another --name, or: identity ca rollover",
            where=item.name,
        )
    pending = read_pending(setting, item.name) if there is not None else None
    if pending is not None:
        asked, _ = read_request(pending.csr.encode())
        if (asked.scope, pending.replaces) != (item.scope, item.replaces):
            raise RefusedError(
                "identity.ca.pending",
                f"the CA {item.name} is asked for already, with the scope {asked.scope}",
                hint=f"install the root's answer, or drop the request: identity ca retire {item.name}",
                where=item.name,
            )


def _request(
    setting: Setting, item: Wanted, known: dict[str, CaRecord], place: str, *, several: bool
) -> tuple[CaRequest, Signer, str, bytes]:
    kind = kind_of(item.name, setting.ca_profiles)
    there = known.get(item.name)
    pending = read_pending(setting, item.name) if there is not None else None
    if there is not None and there.key:
        signer, reference = setting.signer(there.key), there.key
    else:
        algorithm = setting.ca_profiles[kind].key
        signer, reference = make_key(setting, item.name, algorithm, place, several=several)
    config = setting.config
    ask = CaRequest(
        item.name,
        kind,
        item.scope,
        config.organization,
        config.country,
        config.domain,
        config.crl_url,
        config.ca_url,
    )
    if pending is not None:
        asked, public = read_request(pending.csr.encode())
        if asked == ask and key_id(public) == key_id(signer.public_key()):
            return ask, signer, reference, pending.csr.encode()
    csr = build_request(ask, signer)
    read_request(csr)  # what the root could not read must show here
    make_folder(setting.pending)
    note = msgspec.json.encode(Pending(csr.decode("ascii"), item.replaces))
    atomic_write(setting.pending / f"{item.name}.json", note, mode=0o600)
    return ask, signer, reference, csr
