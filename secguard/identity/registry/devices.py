"""The registry: devices."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from secguard.identity.records import DeviceRecord, DeviceStatus
from secguard.identity.registry.base import Base, batched

__all__ = ["Certified", "DeviceFilter", "Devices"]

_DEVICE = tuple(field.name for field in msgspec.structs.fields(DeviceRecord))
_MUST_SIGN = _DEVICE.index("must_sign")
_INSERT_DEVICE = f"INSERT INTO devices ({', '.join(_DEVICE)}) VALUES ({', '.join('?' * len(_DEVICE))})"  # noqa: S608 - names of our own struct
_NUMBERS = ("longitude", "latitude")


class DeviceFilter(msgspec.Struct, frozen=True):
    """Which devices: every stated condition holds.

    Attributes:
        area: prefix of the ID.
        type_code: type code, or its start.
        status: see `DeviceStatus`.
        zone: network zone.
        missing: fields that are empty, all of them.
        text: part of the name or site.
    """

    area: str = ""
    type_code: str = ""
    status: str = ""
    zone: str = ""
    missing: tuple[str, ...] = ()
    text: str = ""


class Certified(NamedTuple):
    """What a judgement about a device needs of one certificate."""

    device: str
    issuer: str
    serial: str
    profile: str
    status: str
    not_before: str
    not_after: str
    revoked: str | None
    reason: str | None


class Devices(Base):
    """One record a device."""

    def register(self, *records: DeviceRecord) -> None:
        """Enter devices inside a transaction; a known one takes a new name, and a serial number if it has none."""
        self._db.executemany(
            f"{_INSERT_DEVICE} ON CONFLICT (gbid) DO UPDATE SET "
            "name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END, "
            "vendor_serial = CASE vendor_serial WHEN '' THEN excluded.vendor_serial ELSE vendor_serial END",
            map(msgspec.structs.astuple, records),
        )

    def save(self, records: Sequence[DeviceRecord]) -> None:
        """Enter devices, or replace their records, inside a transaction."""
        fields = ", ".join(f"{name} = excluded.{name}" for name in _DEVICE[1:])
        self._db.executemany(
            f"{_INSERT_DEVICE} ON CONFLICT (gbid) DO UPDATE SET {fields}", map(msgspec.structs.astuple, records)
        )

    def set_status(self, gbid: str, status: DeviceStatus) -> None:
        """Move a device on, inside a transaction."""
        self._db.execute("UPDATE devices SET status = ? WHERE gbid = ?", (status, gbid))

    def device(self, gbid: str) -> DeviceRecord | None:
        """The record of a device, or None."""
        return next(self._devices("WHERE gbid = ?", (gbid,)), None)

    def known(self, gbids: Iterable[str]) -> dict[str, DeviceRecord]:
        """The records of those devices that are registered, by ID."""
        return {
            record.gbid: record
            for some in batched(gbids)
            for record in self._devices(f"WHERE gbid IN ({', '.join('?' * len(some))})", some)
        }

    def devices_with_serial(self, vendor_serial: str) -> list[DeviceRecord]:
        """The devices with a maker's serial number; two makers may use the same one."""
        return list(self._devices("WHERE vendor_serial = ? AND vendor_serial != ''", (vendor_serial,)))

    def devices(self) -> list[DeviceRecord]:
        """All devices, by ID."""
        return list(self._devices("ORDER BY gbid", ()))

    def find_devices(self, chosen: DeviceFilter, *, after: str = "", limit: int = -1) -> Iterator[DeviceRecord]:
        """Devices that fit, by ID, from behind the ID `after`; at most `limit` (-1: all)."""
        clause, values = _where(chosen)
        return self._devices(f"WHERE gbid > ? AND {clause} ORDER BY gbid LIMIT ?", (after, *values, limit))

    def count_devices(self, chosen: DeviceFilter) -> int:
        """How many devices fit."""
        clause, values = _where(chosen)
        query = f"SELECT count(*) FROM devices WHERE {clause}"  # noqa: S608 - our own fields and clauses
        return int(self._db.execute(query, values).fetchone()[0])

    def same_hardware(self, record: DeviceRecord) -> list[DeviceRecord]:
        """Other devices in service with the same MAC address, or the same maker's serial number."""
        clause = (
            "WHERE gbid != ? AND status != 'retired' AND "
            "((mac != '' AND mac = ?) OR (vendor_serial != '' AND vendor_serial = ? AND lower(maker) = lower(?)))"
        )
        return list(self._devices(clause, (record.gbid, record.mac, record.vendor_serial, record.maker)))

    def certified(self, purpose: str = "device") -> Iterator[Certified]:
        """Certificates of devices that were ever in force, without their bytes, by device and end."""
        query = (
            f"SELECT {', '.join(Certified._fields)} FROM certificates "  # noqa: S608 - names of our own tuple
            "WHERE device IS NOT NULL AND purpose = ? AND status IN ('active', 'superseded', 'revoked') "
            "ORDER BY device, not_after, serial"
        )
        return (Certified(*row) for row in self._db.execute(query, (purpose,)))

    def _devices(self, clause: str, values: tuple[Any, ...]) -> Iterator[DeviceRecord]:
        query = f"SELECT {', '.join(_DEVICE)} FROM devices {clause}"  # noqa: S608 - our own fields and clauses
        for row in self._db.execute(query, values):
            fields = list(row)
            fields[_MUST_SIGN] = bool(fields[_MUST_SIGN])
            yield DeviceRecord(*fields)


def _where(chosen: DeviceFilter) -> tuple[str, tuple[Any, ...]]:
    parts, values = ["1"], list[Any]()
    if chosen.area:
        parts.append("substr(gbid, 1, ?) = ?")
        values += [len(chosen.area), chosen.area]
    if chosen.type_code:
        parts.append("substr(gbid, 11, ?) = ?")
        values += [len(chosen.type_code), chosen.type_code]
    for name in ("status", "zone"):
        if value := getattr(chosen, name):
            parts.append(f"{name} = ?")
            values.append(value)
    for name in chosen.missing:
        if name not in _DEVICE:
            raise ValueError(f"no field {name}")
        parts.append(f"{name} IS NULL" if name in _NUMBERS else f"{name} = ''")
    if chosen.text:
        parts.append("(instr(name, ?) OR instr(site, ?))")
        values += [chosen.text, chosen.text]
    return " AND ".join(parts), tuple(values)
