"""Change single records by hand: add, set, retire. Each change is one durable step, recorded before it is released."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from secguard.core import RefusedError, UsageError, rfc3339
from secguard.gbid import GbId
from secguard.identity.authority import Authority
from secguard.identity.inventory.fields import EDITABLE, parse_field
from secguard.identity.inventory.importing import check_coordinates, updated
from secguard.identity.inventory.register import Register
from secguard.identity.lock import exclusive
from secguard.identity.records import CertificateRecord, DeviceRecord, DeviceStatus, Status

__all__ = ["MOVES", "add_device", "retire_device", "set_device"]

MOVES: Mapping[str, tuple[str, ...]] = {
    "registered": (),
    "issued": ("installed", "active"),
    "installed": ("issued", "active"),
    "active": ("installed",),
    "retired": ("registered",),
}
"""Status -> those that `set` may lead to. Issuing leads to `issued`, `retire` to `retired`."""


def _values(texts: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in EDITABLE:
            raise UsageError("identity.device.field", f"{name[:40]!r} cannot be set", hint=", ".join(EDITABLE))
        value = parse_field(name, text)
        values[name] = _empty(name) if value == "" else value
    return values


def _empty(name: str) -> Any:
    return {field.name: field.default for field in msgspec.structs.fields(DeviceRecord)}[name]


def _check(register: Register, record: DeviceRecord) -> None:
    """One device, one record: no other device in service has this serial number or MAC address."""
    check_coordinates({"longitude": record.longitude, "latitude": record.latitude})
    for other in register.registry.same_hardware(record):
        same = "mac" if other.mac and other.mac == record.mac else "vendor_serial"
        raise RefusedError(
            "identity.device.shared",
            f"{getattr(record, same)} belongs to {other.gbid}",
            hint="one device, one record: retire the other one, or correct it",
            where=same,
        )


def add_device(register: Register, gbid: str, texts: Mapping[str, str]) -> DeviceRecord:
    """Enter a device.

    Args:
        register: the register.
        gbid: its ID.
        texts: field of `EDITABLE` -> text.

    Raises:
        UsageError: a field cannot be so.
        RefusedError: it is registered already; its serial number or MAC address is another device's; recording failed.
    """
    parsed = GbId.parse(gbid).validate(register.edition)
    now = rfc3339(register.clock.now())
    record = DeviceRecord(gbid=parsed.value, registered=now, updated=now, **_values(texts))
    with exclusive(register.lock):
        if register.registry.device(record.gbid) is not None:
            raise RefusedError(
                "identity.device.exists",
                f"{record.gbid} is registered",
                hint="`secguard identity device set` changes it",
            )
        _check(register, record)
        with register.registry.transaction():
            register.registry.save([record])
            register.record([register.event("device.registered", record.gbid, f"device-registered-{record.gbid}")])
    return record


def set_device(
    register: Register,
    gbid: str,
    texts: Mapping[str, str],
    *,
    status: str = "",
    case: str = "",
    reason: str = "",
) -> tuple[DeviceRecord, dict[str, tuple[Any, Any]]]:
    """Change fields, or the status, of a device.

    Returns:
        The record as it is now, and field -> (old, new); nothing is recorded if nothing differs.

    Raises:
        UsageError: it is not registered, a field cannot be so, or the status cannot follow.
        RefusedError: a serial number that a certificate names cannot change; it is another device's; recording failed.
    """
    values = _values(texts)
    with exclusive(register.lock):
        old = register.device(gbid)
        if status and status != old.status:
            if status not in MOVES[old.status]:
                allowed = ", ".join(MOVES[old.status]) or "none"
                advice = "`identity device retire` ends its service" if status == DeviceStatus.RETIRED else ""
                advice = advice or f"from {old.status} it may become: {allowed}; issuing makes it issued"
                raise UsageError("identity.device.status", f"{old.status} cannot become {status}", hint=advice)
            values["status"] = status
        fields = {name: (getattr(old, name), value) for name, value in values.items() if getattr(old, name) != value}
        if not fields:
            return old, {}
        if "vendor_serial" in fields and _live(register, old.gbid):
            raise RefusedError(
                "identity.device.certified",
                "certificates in force name the old serial number",
                hint="revoke them first (identity revoke), then issue new ones",
                where=old.gbid,
            )
        new = msgspec.structs.replace(
            old, updated=rfc3339(register.clock.now()), **{name: pair[1] for name, pair in fields.items()}
        )
        if new.status != DeviceStatus.RETIRED:
            _check(register, new)
        with register.registry.transaction():
            register.registry.save([new])
            facts: dict[str, Any] = {**updated(fields), **({"status": new.status} if "status" in fields else {})}
            register.record([register.event("device.updated", new.gbid, case=case, reason=reason, **facts)])
    return new, fields


def _live(register: Register, gbid: str) -> Sequence[CertificateRecord]:
    now = register.clock.now()
    live = {Status.ACTIVE, Status.SUPERSEDED, Status.RESERVED, Status.SIGNED}
    return [row for row in register.registry.certificates(gbid) if row.status in live and not row.expired(now)]


def retire_device(
    register: Register,
    gbid: str,
    authority: Authority | None,
    *,
    keep: bool = False,
    case: str = "",
    reason: str = "",
) -> tuple[DeviceRecord, list[CertificateRecord]]:
    """End a device's service: revoke its certificates with cessationOfOperation, then mark it retired.

    Asked again after an interruption it completes the work.

    Args:
        register: the register.
        gbid: the device.
        authority: the CAs, opened with their passphrase; None is enough where nothing is to be revoked.
        keep: leave its certificates in force until they expire.
        case: case number, recorded.
        reason: recorded.

    Raises:
        UsageError: it is not registered, or certificates are to be revoked and there is no authority or passphrase.
        RefusedError: recording failed.
    """
    record = register.device(gbid)
    live = [row for row in _live(register, record.gbid) if row.status in {Status.ACTIVE, Status.SUPERSEDED}]
    revoked: list[CertificateRecord] = []
    if live and not keep:
        if authority is None:
            raise UsageError(
                "identity.ca.none", "certificates are to be revoked, and there is no CA", hint="give --keep"
            )
        revoked = authority.revoke(record.gbid, "cessationOfOperation", case=case)
    with exclusive(register.lock):
        record = register.device(gbid)
        if record.status == DeviceStatus.RETIRED:
            return record, revoked
        new = msgspec.structs.replace(record, status=DeviceStatus.RETIRED, updated=rfc3339(register.clock.now()))
        with register.registry.transaction():
            register.registry.save([new])
            facts: dict[str, Any] = {"revoked": len(revoked), "kept": len(live) if keep else 0}
            register.record([register.event("device.retired", new.gbid, case=case, reason=reason, **facts)])
    return new, revoked
