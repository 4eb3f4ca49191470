"""What is probed: endpoints by HOST:PORT, from the command line, a list, or the registry."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from secguard.core import FormatError, UsageError
from secguard.core.limits import read_bounded
from secguard.gbid import GbId
from secguard.identity.records import DeviceRecord, DeviceStatus

__all__ = ["MAX_TARGETS", "Target", "parse_target", "read_targets", "registry_targets", "safe", "unique"]

MAX_TARGETS = 200_000
"""Endpoints in one run, by default."""

_MAX_LIST = 32 << 20
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def safe(text: str, limit: int = 120) -> str:
    """Text from outside in printable characters, at most `limit` of them: no controls, no marks that turn its order."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint.

    Attributes:
        host: address, or DNS name in lower case (IDNA).
        port: 1 to 65535.
        device: GB/T 28181 ID of the device that must answer there; empty if nobody says.
    """

    host: str
    port: int
    device: str = ""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """True if the host is a DNS name."""
        return _address(self.host) == ""


def _address(host: str) -> str:
    """The one spelling of an IP address, with its scope; empty for a name."""
    bare, percent, scope = host.partition("%")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return ""
    if percent and (address.version == 4 or not re.fullmatch(r"[A-Za-z0-9_.-]{1,16}", scope)):
        return ""
    return f"{address}{percent}{scope}"


def parse_target(text: str, default_port: int = 443, where: str = "") -> Target:
    """Read `HOST:PORT`, `HOST`, `[IPV6]:PORT` or an IPv6 address; `ID@HOST:PORT` says which device must answer.

    Raises:
        UsageError: `identity.probe.target`: anything else, a range of addresses, or a URL.
    """
    item = text.strip()
    before, at, place = item.rpartition("@")
    device = GbId.parse(before).value if at else ""
    if "/" in place:
        kind = "a URL" if "://" in place else "a range of addresses"
        raise _bad(text, f"{kind} is no endpoint", "name each endpoint as HOST:PORT, or list them with --file", where)
    host, port = place, str(default_port)
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or not _address(host):
            raise _bad(text, "not [IPV6]:PORT", "write [2001:db8::1]:443", where)
        port = rest[1:] if rest else port
    elif place.count(":") == 1:
        host, _, port = place.partition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise _bad(text, "the port is none", "1 to 65535", where)
    known = _address(host)
    if known:
        return Target(known, int(port), device)
    try:
        name = host.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        name = ""
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise _bad(text, "neither an address nor a DNS name", "write HOST:PORT or [IPV6]:PORT", where)
    return Target(name, int(port), device)


def _bad(text: str, message: str, hint: str, where: str) -> UsageError:
    return UsageError("identity.probe.target", f"{safe(text, 80)!r}: {message}", hint=hint, where=where)


def read_targets(path: Path, default_port: int = 443) -> list[Target]:
    """Read a list: one `HOST:PORT [ID]` a line; `#` begins a remark.

    Raises:
        UsageError: no such file; a line that is no endpoint, with its number.
        FormatError: not UTF-8, or too large.
    """
    try:
        text = read_bounded(path, _MAX_LIST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(
            "identity.probe.list", "not UTF-8", hint="save the list as UTF-8", where=f"{path}: offset {error.start}"
        ) from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if len(words) > 2:
            raise _bad(line, "more than HOST:PORT and an ID", "one endpoint a line", f"{path}:{number}")
        if words:
            target = parse_target(words[0], default_port, f"{path}:{number}")
            device = GbId.parse(words[1]).value if len(words) == 2 else target.device
            found.append(Target(target.host, target.port, device))
    return found


def registry_targets(
    devices: Iterable[DeviceRecord], area: str = "", default_port: int = 443
) -> tuple[list[Target], list[DeviceRecord]]:
    """Endpoints of registered devices, and the devices that have no usable address; retired ones are left out.

    Args:
        devices: records of the registry.
        area: only IDs that start with it.
        default_port: for addresses without one.
    """
    targets, without = [], []
    for device in devices:
        if device.status == DeviceStatus.RETIRED or not device.gbid.startswith(area):
            continue
        try:
            found = parse_target(device.address, default_port) if device.address.strip() else None
        except UsageError:
            found = None
        if found is None:
            without.append(device)
        else:
            targets.append(Target(found.host, found.port, device.gbid))
    return targets, without


def unique(targets: Sequence[Target], limit: int = MAX_TARGETS) -> list[Target]:
    """Each endpoint once, in order.

    Raises:
        UsageError: `identity.probe.none`, or `identity.probe.too-many` for more than `limit`.
    """
    found = list(dict.fromkeys(targets))
    if not found:
        raise UsageError(
            "identity.probe.none", "no endpoint to probe", hint="give HOST:PORT, --file LIST or --registry"
        )
    if len(found) > limit:
        raise UsageError(
            "identity.probe.too-many", f"{len(found):,} endpoints; {limit:,} are the limit", hint="--max raises it"
        )
    return found
