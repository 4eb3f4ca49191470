"""The registry beside what was presented: who must answer where, and with which certificate."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Axis, Finding, Outcome, UsageError, finding
from secguard.identity.probe.result import Endpoint
from secguard.identity.probe.served import serve_facts
from secguard.identity.probe.targets import Target, parse_target, safe
from secguard.identity.records import CertificateRecord, DeviceRecord, DeviceStatus, Status
from secguard.identity.registry import Registry

__all__ = ["Book", "activate", "to_activate"]


class Book:
    """What the registry says of endpoints.

    Args:
        registry: the open registry.
        default_port: of addresses without one.
    """

    def __init__(self, registry: Registry, default_port: int = 443) -> None:
        self._registry = registry
        self.devices: Sequence[DeviceRecord] = registry.devices()
        found = (item for name, item in registry.authorities().items() if item.certificate and name != "root")
        self.authorities: Sequence[x509.Certificate] = [item.x509() for item in found]
        places: dict[tuple[str, int], set[str]] = {}
        hosts: dict[str, set[str]] = {}
        for device in self.devices:
            if device.status == DeviceStatus.RETIRED or not device.address.strip():
                continue
            with suppress(UsageError):
                target = parse_target(device.address, default_port)
                places.setdefault((target.host, target.port), set()).add(device.gbid)
                hosts.setdefault(target.host, set()).add(device.gbid)
        # Two devices at one endpoint: the registry itself is wrong, and names nobody.
        self._places = {place: next(iter(ids)) for place, ids in places.items() if len(ids) == 1}
        self._hosts = {host: next(iter(ids)) for host, ids in hosts.items() if len(ids) == 1}

    def device_at(self, target: Target) -> str:
        """The device that the registry has at an endpoint, or at its host on another port; empty if none."""
        return self._places.get((target.host, target.port)) or self._hosts.get(target.host, "")

    def compare(self, leaf: x509.Certificate, made: Endpoint) -> Iterable[Finding]:
        """Findings about a presented certificate; marks the endpoint that serves its device's active one."""
        item = made.certificate or serve_facts(leaf, 1)
        where = made.target
        record = self._registry.by_serial(f"{leaf.serial_number:032x}") or self._registry.by_serial(item.serial)
        if record is not None and record.certificate != leaf.public_bytes(Encoding.DER):
            record = None
        stated = made.device or item.gbid
        if record is not None:
            yield from self._recorded(record, made)
        elif item.believed and leaf.issuer in {one.subject for one in self.authorities}:
            yield finding("identity.endpoint.unrecorded", where, serial=item.serial)
        elif made.device and self._has_active(made.device):
            yield finding("identity.endpoint.not-active", where, serial=item.serial, status="unknown to the registry")
        if self.devices and not made.device and (record is None or record.device is not None):
            yield from self._whereabouts(stated, made)
        if record is None and item.spki:
            for other in self._registry.with_key(item.spki):
                if other.status != Status.VOID and other.holder != stated:
                    yield finding(
                        "identity.endpoint.key-shared", where, other=safe(f"{other.holder} ({other.profile})")
                    )
                    break

    def _recorded(self, record: CertificateRecord, made: Endpoint) -> Iterable[Finding]:
        if record.status == Status.ACTIVE:
            made.active = bool(record.device) and record.device == (made.device or record.device)
            if record.device and made.device and not made.active:
                return  # another device's: the ID in it says so
        elif record.status == Status.SUPERSEDED:
            yield finding("identity.endpoint.superseded", made.target, serial=record.serial)
        elif record.status == Status.REVOKED:
            if not any(item.code == "identity.endpoint.revoked" for item in made.findings):
                yield finding(
                    "identity.endpoint.revoked", made.target, since=record.revoked or "", reason=record.reason or ""
                )
        else:
            yield finding("identity.endpoint.not-active", made.target, serial=record.serial, status=record.status)

    def _whereabouts(self, stated: str, made: Endpoint) -> Iterable[Finding]:
        """An address that no device has: is the device itself known?"""
        device = self._registry.device(stated) if stated else None
        if device is None:
            name = stated or (made.certificate.subject if made.certificate else "")
            yield finding("identity.endpoint.not-registered", made.target, stated=name or "-")
        elif device.address:
            yield finding("identity.endpoint.moved", made.target, stated=stated, address=safe(device.address))

    def _has_active(self, device: str) -> bool:
        return any(item.status == Status.ACTIVE for item in self._registry.certificates(device))


def to_activate(registry: Registry, endpoints: Iterable[Endpoint]) -> list[str]:
    """Devices that serve their active certificate, judged good, and are not `active` yet; changes nothing."""
    found: dict[str, None] = {}
    for item in endpoints:
        if not (item.active and item.certificate and item.certificate.believed):
            continue
        if any(one.axis in {Axis.PROVENANCE, Axis.REVOCATION} and one.outcome is Outcome.FAIL for one in item.findings):
            continue
        device = registry.device(item.certificate.gbid)
        if device is not None and device.status not in {DeviceStatus.ACTIVE, DeviceStatus.RETIRED}:
            found[device.gbid] = None
    return list(found)


def activate(registry: Registry, devices: Sequence[str]) -> None:
    """Move devices to `active`, in one step.

    Raises:
        SystemPartError: the registry cannot be written.
    """
    with registry.transaction():
        for gbid in devices:
            registry.set_status(gbid, DeviceStatus.ACTIVE)
