"""What a list asks for, checked line by line before anything is made: profile, device, requests, duplicates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from secguard.core import FormatError, SecguardError, UsageError
from secguard.core.limits import read_bounded
from secguard.identity.issuing.listing import Line, Listing
from secguard.identity.issuing.plan import find_profile, fitting_serial
from secguard.identity.issuing.request import MAX_CSR, check_holder
from secguard.identity.profiles import Holder, Profile
from secguard.identity.site import Site
from secguard.trust import Purpose

__all__ = ["Device", "Refusal", "Setting", "wishes"]

_ENDINGS = ("csr", "pem", "der", "p10")
_AUTOMATIC = (Purpose.DEVICE, Purpose.PLATFORM)


@dataclass(frozen=True, slots=True)
class Setting:
    """How a list is provisioned.

    Attributes:
        folder: where the deliveries go.
        format: `pem` (encrypted PKCS#8 and chain) or `p12` (encrypted PKCS#12 with the full chain).
        profile: for lines that name none; empty: by the type of the device.
        jobs: worker processes.
        encoding: of the list; empty: found out.
        requests: folder of the devices' requests (`<gbid>.csr`, or `<gbid>.<profile>.csr`); None: keys are made.
        passphrase: encrypts the delivered keys; None: a random one is made.
        replace: active certificates over other keys are superseded.
        resume: there must be a run to go on with.
        dry_run: only check.
    """

    folder: Path
    format: str = "pem"
    profile: str = ""
    jobs: int = 1
    encoding: str = ""
    requests: Path | None = None
    passphrase: bytes | None = None
    replace: bool = False
    resume: bool = False
    dry_run: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """One thing that was not done.

    Attributes:
        line: of the list.
        gbid: the device, as the list has it.
        profile: the certificate; empty: all of the line.
        code: stable name.
        reason: one sentence.
        hint: what to do.
    """

    line: int
    gbid: str
    profile: str
    code: str
    reason: str
    hint: str

    @classmethod
    def of(cls, line: int, gbid: str, profile: str, error: SecguardError) -> "Refusal":
        """The refusal that an error means for a line."""
        return cls(line, gbid[:40], profile, error.code, error.message, error.hint)


@dataclass(slots=True)
class Device:
    """One device of a list.

    Attributes:
        number: position among the devices of the list, from 0; does not depend on which are refused.
        gbid: its ID.
        name: see `Line`.
        vendor_serial: see `Line`.
        lines: line number by profile.
        wanted: (profile, request or None) of each certificate.
        issuers: names of the CAs that will certify it.
    """

    number: int
    gbid: str
    name: str = ""
    vendor_serial: str = ""
    lines: dict[str, int] = field(default_factory=dict)
    wanted: list[tuple[str, bytes | None]] = field(default_factory=list)
    issuers: set[str] = field(default_factory=set)

    def refusal(self, profile: str, error: SecguardError) -> Refusal:
        """What an error means for one of its certificates."""
        return Refusal.of(self.lines[profile], self.gbid, profile, error)


def wishes(site: Site, listing: Listing, setting: Setting) -> tuple[list[Device], list[Refusal]]:
    """The devices of a list with what each is to have, and the lines that ask for what cannot be.

    Raises:
        UsageError: `setting.profile` is unknown.
    """
    if setting.profile:
        _device_profile(find_profile(site, setting.profile))
    refused = [Refusal.of(number, gbid, "", error) for number, gbid, error in listing.wrong]
    groups: dict[str, list[Line]] = {}
    for line in listing.lines:
        groups.setdefault(line.gbid, []).append(line)
    known = site.registry.known(gbid for gbid in groups if len(gbid) == 20)
    found: list[Device] = []
    for number, (gbid, lines) in enumerate(groups.items()):
        device = Device(number, gbid)
        for line in lines:
            try:
                fitting_serial(known.get(gbid), line.vendor_serial)
                _wish(site, device, line, setting)
            except SecguardError as error:
                refused.append(Refusal.of(line.number, gbid, line.profile, error))
        twice = _twice(device, lines)
        if twice is not None:
            refused += [Refusal.of(line.number, gbid, line.profile, twice) for line in lines]
        elif device.wanted:
            found.append(device)
    return found, refused


def _wish(site: Site, device: Device, line: Line, setting: Setting) -> None:
    """Add what one line asks for."""
    named = line.profile or setting.profile
    profile = _device_profile(find_profile(site, named)) if named else _by_type(site, line.gbid)
    _, gbid = check_holder(line.gbid, profile, site.config.edition, line.vendor_serial)
    csr = _request(line, profile, setting)
    profiles = [profile] if csr is not None else [profile, *(site.profiles[name] for name in profile.companions)]
    issuers = {site.issuer(one.purpose, gbid) for one in profiles}
    device.issuers |= issuers
    device.name = device.name or line.name
    device.vendor_serial = device.vendor_serial or line.vendor_serial
    for one in profiles:
        device.wanted.append((one.name, csr))
        device.lines.setdefault(one.name, line.number)


def _twice(device: Device, lines: Sequence[Line]) -> SecguardError | None:
    """Lines that name one device and do not go together: which of them is right, nobody knows."""
    profiles = [profile for profile, _ in device.wanted]
    serials = {line.vendor_serial for line in lines if line.vendor_serial}
    if len(profiles) == len(set(profiles)) and len(serials) <= 1:
        return None
    numbers = ", ".join(str(line.number) for line in lines[:10])
    return UsageError(
        "identity.list.twice", f"lines {numbers} name the same device", hint="keep the right one of them; none was done"
    )


def _device_profile(profile: Profile) -> Profile:
    if profile.holder is not Holder.DEVICE:
        raise UsageError(
            "identity.provision.profile",
            f"profile {profile.name} is not for devices",
            hint="camera, nvr, platform ...; `secguard identity issue` takes the others",
        )
    return profile


def _by_type(site: Site, gbid: str) -> Profile:
    """The one profile that is made for the device's type."""
    code = gbid[10:13]
    fit = [
        profile
        for profile in site.profiles.values()
        if profile.holder is Holder.DEVICE and profile.types and profile.purpose in _AUTOMATIC
        and code and code.startswith(profile.types)
    ]  # fmt: skip
    if len(fit) != 1 and len(gbid) == 20:
        raise UsageError(
            "identity.provision.type",
            f"{'no' if not fit else 'more than one'} profile is made for type {code}",
            hint="name it in the column profile, or with --profile",
        )
    # An ID that is none is refused with the reason by `check_holder`.
    return fit[0] if fit else next(one for one in site.profiles.values() if one.holder is Holder.DEVICE)


def _request(line: Line, profile: Profile, setting: Setting) -> bytes | None:
    """The line's request: in the cell, in the file that the cell names, or in the folder under the device's ID."""
    if line.csr.startswith("-----BEGIN"):
        return line.csr.encode()
    if setting.requests is None:
        if line.csr:
            raise UsageError(
                "identity.provision.request", "the line names a request and no folder is given", hint="give --csr-dir"
            )
        return None
    names = [f"{line.gbid}.{profile.name}.{end}" for end in _ENDINGS] + [f"{line.gbid}.{end}" for end in _ENDINGS]
    for name in [line.csr] if line.csr else names:
        path = setting.requests / name
        if Path(name).name == name and path.is_file():
            return read_bounded(path, MAX_CSR)
    raise FormatError(
        "identity.provision.request",
        f"no request {(line.csr or names[4])[:80]!r}",
        hint=f"put it into {setting.requests}",
    )
