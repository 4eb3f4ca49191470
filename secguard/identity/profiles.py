"""Profiles of certificates, one YAML file each in `certs/` (end entities) and `certs/ca/` (CAs); schema-checked."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from secguard.core import FormatError, UsageError
from secguard.core.limits import read_bounded
from secguard.keys import Algorithm
from secguard.trust import Purpose

__all__ = [
    "CaProfile",
    "Domains",
    "Holder",
    "Profile",
    "Usage",
    "load_ca_profiles",
    "load_profile",
    "load_profiles",
]

_MAX_BYTES = 64 << 10
_MAX_FILES = 64
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
_Type = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}$")]


class Holder(StrEnum):
    """Whom a certificate names: a device by its GB/T 28181 ID, a host by DNS name or IP address, any by a name."""

    DEVICE = "device"
    HOST = "host"
    NAME = "name"


class Usage(StrEnum):
    """Extended key usages a profile may add to the one of its purpose."""

    CLIENT_AUTH = "client-auth"
    SERVER_AUTH = "server-auth"


class Domains(StrEnum):
    """The DNS names that a CA may certify: none are constrained, `cam.<area>.<domain>`, or all of the site's domain."""

    NONE = "none"
    REGIONS = "regions"
    SITE = "site"


class CaProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the certificates of one kind of CA say.

    Attributes:
        name: the file's name without `.yaml`.
        purposes: what it may certify, besides its own OCSP responder; empty only for the root.
        key: kind of its key.
        days: validity in days; never beyond the root's.
        domains: its critical name constraint.
    """

    days: Annotated[int, msgspec.Meta(ge=1, le=20 * 366)]
    name: str = ""
    purposes: Annotated[tuple[Purpose, ...], msgspec.Meta(max_length=9)] = ()
    key: Algorithm = Algorithm.P256
    domains: Domains = Domains.NONE


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the certificates of one profile say.

    Attributes:
        name: the file's name without `.yaml`.
        purpose: what the key is for; decides the issuing CA, the extended key usage and the policy.
        holder: whom the certificate names.
        types: GB/T 28181 type codes (or starts of them) it may be issued to; empty: any.
        key: kind of key that is made.
        accept: kinds of key that are accepted in a CSR; empty: only `key`.
        days: validity in days; never beyond the issuing CA's.
        usages: further extended key usages.
        dns: add the device's DNS name.
        companions: profiles issued along with this one, each with a key of its own.
        no_check: nobody need ask for the status of these certificates (id-pkix-ocsp-nocheck); only for `ocsp`.
    """

    purpose: Purpose
    days: Annotated[int, msgspec.Meta(ge=1, le=3650)]
    name: str = ""
    holder: Holder = Holder.DEVICE
    types: Annotated[tuple[_Type, ...], msgspec.Meta(max_length=64)] = ()
    key: Algorithm = Algorithm.P256
    accept: Annotated[tuple[Algorithm, ...], msgspec.Meta(max_length=4)] = ()
    usages: Annotated[tuple[Usage, ...], msgspec.Meta(max_length=2)] = ()
    dns: bool = False
    companions: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=4)] = ()
    no_check: bool = False


_P = TypeVar("_P", Profile, CaProfile)


def load_profile(path: Path) -> Profile:
    """Read one profile.

    Raises:
        UsageError: no such file.
        FormatError: `identity.profile.format`: not YAML, or not a profile; the message names the field.
    """
    profile = _load(path, Profile)
    if profile.dns and profile.holder is not Holder.DEVICE:
        raise _bad(str(path), "`dns` needs `holder: device`")
    if profile.no_check and profile.purpose is not Purpose.OCSP:
        raise _bad(str(path), "`no_check` needs `purpose: ocsp`")
    return profile


def load_ca_profiles(folder: Path) -> dict[str, CaProfile]:
    """Read the profiles of CAs, by name; `root` is always among them.

    Args:
        folder: `certs/ca` of the workspace.

    Raises:
        UsageError: the root's is missing.
        FormatError: one is not a profile, or states no purpose.
    """
    files = sorted(folder.glob("*.yaml"))[:_MAX_FILES]
    profiles = {path.stem: _load(path, CaProfile) for path in files}
    if "root" not in profiles:
        raise UsageError(
            "identity.profile.none", "no profile of a root CA", hint="`secguard init` puts it there", where=str(folder)
        )
    for name, profile in profiles.items():
        if bool(profile.purposes) == (name == "root"):
            raise _bad(str(folder / f"{name}.yaml"), "every CA but the root states its `purposes`")
    return profiles


def _load(path: Path, kind: type[_P]) -> _P:
    from secguard.core.yamltree import load  # PyYAML only when certificates are issued

    value = load(read_bounded(path, _MAX_BYTES), str(path), "identity.profile").value
    if isinstance(value, dict) and "name" in value:
        raise _bad(str(path), "unknown key name: the file's name is the profile's")
    try:
        profile = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _bad(str(path), str(error)) from error
    return msgspec.structs.replace(profile, name=path.stem)


def load_profiles(folder: Path) -> dict[str, Profile]:
    """Read all profiles of a folder, by name.

    Raises:
        UsageError: there are none.
        FormatError: one is not a profile, or names a companion that is not there or has companions itself.
    """
    files = sorted(folder.glob("*.yaml"))[:_MAX_FILES]
    if not files:
        raise UsageError(
            "identity.profile.none",
            "no certificate profiles",
            hint="`secguard init` puts them there",
            where=str(folder),
        )
    profiles = {path.stem: load_profile(path) for path in files}
    for path in files:
        for companion in profiles[path.stem].companions:
            other = profiles.get(companion)
            if other is None or other.companions or other.holder is not profiles[path.stem].holder:
                raise _bad(str(path), f"companion {companion!r} is not a profile of the same holder without companions")
    return profiles


def _bad(where: str, message: str) -> FormatError:
    return FormatError(
        "identity.profile.format", message, hint="docs/identity.md lists the keys of a profile", where=where
    )
