"""Profiles of certificates, one YAML file each in `certs/` (end entities) and `certs/ca/` (CAs); schema-checked."""

import difflib
import inspect
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from secguard.core import FormatError, UsageError
from secguard.core.limits import read_bounded
from secguard.keys import Algorithm
from secguard.trust import Purpose

if TYPE_CHECKING:
    from secguard.core.yamltree import Tree

__all__ = [
    "Asked",
    "CaProfile",
    "Domains",
    "Holder",
    "Profile",
    "Usage",
    "load_ca_profiles",
    "load_profile",
    "load_profiles",
    "profile_schemas",
]

_MAX_BYTES = 64 << 10
_MAX_FILES = 64
_MAX_UNCHECKED_DAYS = 90
_OF_DEVICES = {Purpose.DEVICE, Purpose.MEDIA_SIGNING}
_OF_TLS = {Purpose.DEVICE, Purpose.PLATFORM, Purpose.ISOLATION_AGENT}
_FILE_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_STEP = re.compile(r"[a-z_]+|\d+")
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


class Asked(StrEnum):
    """What a certificate may take over from a request (PKCS#10)."""

    DNS = "dns"
    IP = "ip"


class Domains(StrEnum):
    """The DNS names that a CA may certify: none are constrained, `cam.<area>.<domain>`, or all of the site's domain."""

    NONE = "none"
    REGIONS = "regions"
    SITE = "site"


_WORDS = sorted({str(word) for kind in (Holder, Usage, Asked, Domains, Purpose, Algorithm) for word in kind})
_WRONG_WORD = re.compile(r"Invalid enum value '(.{1,60})'")


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
        from_request: alternative names that a request may add: `dns` (at most 8 host names below the site's domain, no
            wildcard, no other device's name), `ip` (at most 8 unicast addresses). What a request may not ask for is
            ignored; what it may ask for and gets wrong is refused. Empty: only the key of a request counts.
        server_keys: a device may have its key made here and sent to it (EST, RFC 7030, 4.4); the key is not kept.
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
    server_keys: bool = False
    from_request: Annotated[tuple[Asked, ...], msgspec.Meta(max_length=2)] = ()
    no_check: bool = False


_P = TypeVar("_P", Profile, CaProfile)


def load_profile(path: Path) -> Profile:
    """Read one profile.

    Raises:
        UsageError: no such file.
        FormatError: `identity.profile.*`: not YAML, or not a profile; the message names the field, `where` the line.
    """
    profile, source = _load(path, Profile)
    device = profile.holder is Holder.DEVICE
    if profile.purpose in _OF_DEVICES and not device:
        raise source.bad(f"`purpose: {profile.purpose}` needs `holder: device`", "holder")
    for field, given in (("dns", profile.dns), ("types", bool(profile.types)), ("server_keys", profile.server_keys)):
        if given and not device:
            raise source.bad(f"`{field}` needs `holder: device`", field)
    if profile.usages and profile.purpose not in _OF_TLS:
        raise source.bad(f"`usages` are for TLS; a key for {profile.purpose} never serves TLS", "usages")
    if profile.no_check and profile.purpose is not Purpose.OCSP:
        raise source.bad("`no_check` needs `purpose: ocsp`", "no_check")
    if profile.no_check and profile.days > _MAX_UNCHECKED_DAYS:
        raise source.bad(f"what nobody checks cannot be revoked: at most {_MAX_UNCHECKED_DAYS} `days`", "days")
    if profile.name in profile.companions:
        raise source.bad("a profile is no companion of itself", "companions")
    return profile


def load_ca_profiles(folder: Path) -> dict[str, CaProfile]:
    """Read the profiles of CAs, by name; `root` is always among them.

    Args:
        folder: `certs/ca` of the workspace.

    Raises:
        UsageError: the root's is missing.
        FormatError: one is not a profile, or states no purpose.
    """
    profiles = {}
    for path in _files(folder):
        profile, source = _load(path, CaProfile)
        if bool(profile.purposes) == (profile.name == "root"):
            raise source.bad("every CA but the root states its `purposes`", "purposes")
        if len(set(profile.purposes)) != len(profile.purposes):
            raise source.bad("a purpose stands twice in `purposes`", "purposes")
        profiles[profile.name] = profile
    if "root" not in profiles:
        raise UsageError(
            "identity.profile.none",
            "no profile of a root CA",
            hint="`secguard init WORKSPACE --add-missing` puts it there",
            where=str(folder),
        )
    return profiles


def load_profiles(folder: Path) -> dict[str, Profile]:
    """Read all profiles of a folder, by name.

    Raises:
        UsageError: there are none.
        FormatError: one is not a profile, or names a companion that is not there or has companions itself.
    """
    files = _files(folder)
    if not files:
        raise UsageError(
            "identity.profile.none",
            "no certificate profiles",
            hint="`secguard init WORKSPACE --add-missing` puts them there",
            where=str(folder),
        )
    profiles = {path.stem: load_profile(path) for path in files}
    for path in files:
        for companion in profiles[path.stem].companions:
            other = profiles.get(companion)
            if other is None or other.companions or other.holder is not profiles[path.stem].holder:
                _, source = _load(path, Profile)
                raise source.bad(
                    f"companion {companion!r} is not a profile of the same holder without companions", "companions"
                )
    return profiles


@dataclass(frozen=True, slots=True)
class _Source:
    """A file, and the line of each of its keys."""

    path: Path
    tree: "Tree"

    def bad(self, message: str, *field: str | int, hint: str = "") -> FormatError:
        return FormatError(
            "identity.profile.format",
            message,
            hint=hint or "docs/identity.md lists the keys of a profile",
            where=f"{self.path}:{self.tree.line(*field)}",
        )


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.yaml"))
    if len(files) > _MAX_FILES:
        raise FormatError(
            "identity.profile.too-many", f"more than {_MAX_FILES} profiles", hint="remove some", where=str(folder)
        )
    return files


def _load(path: Path, kind: type[_P]) -> tuple[_P, _Source]:
    from secguard.core.yamltree import load  # PyYAML only when certificates are issued

    source = _Source(path, load(read_bounded(path, _MAX_BYTES), str(path), "identity.profile"))
    if not _FILE_NAME.fullmatch(path.stem):
        raise source.bad(
            "the file's name is the profile's", hint="small letters, digits and hyphens, at most 40, a letter first"
        )
    value = source.tree.value
    if not isinstance(value, dict):
        raise source.bad("a profile is an object: `key: value` lines")
    known = [field.name for field in msgspec.structs.fields(kind) if field.name != "name"]
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"keys: {', '.join(known)}"
            if key == "name":
                hint = "the file's name is the profile's"
            raise source.bad(f"unknown key {key[:40]!r}", key, hint=hint)
    try:
        profile = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        steps = [int(step) if step.isdigit() else step for step in _STEP.findall(place)]
        name = f"{steps[0]}: " if steps else ""
        wrong = _WRONG_WORD.search(text)
        near = difflib.get_close_matches(wrong[1], _WORDS, n=1) if wrong else []
        raise source.bad(f"{name}{text}", *steps, hint=f"did you mean {near[0]}?" if near else "") from None
    return msgspec.structs.replace(profile, name=path.stem), source


def profile_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas of the two kinds of profile, for editors: `profile` (certs/*.yaml) and `ca-profile` (certs/ca)."""
    made = {}
    for name, kind in (("profile", Profile), ("ca-profile", CaProfile)):
        (schema,), found = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
        body = found.pop(schema["$ref"].rpartition("/")[2])
        about = _described(kind)
        fields = {
            key: {**item, "description": about.get(key, "")}
            for key, item in body["properties"].items()
            if key != "name"
        }
        made[name] = {**body, "properties": fields, "$defs": found}
    return made


def _described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The texts of a docstring's `Attributes`, by name; a line that is further in goes on with the one above."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:")[2]
    items = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in items}
