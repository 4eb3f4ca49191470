"""The registry: devices."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from secguard.identity.records import DeviceRecord, DeviceStatus
from secguard.identity.registry.base import Base

__all__ = ["Devices"]

_DEVICE = tuple(field.name for field in msgspec.structs.fields(DeviceRecord))
_MUST_SIGN = _DEVICE.index("must_sign")
_INSERT_DEVICE = f"INSERT INTO devices ({', '.join(_DEVICE)}) VALUES ({', '.join('?' * len(_DEVICE))})"  # noqa: S608 - names of our own struct


class Devices(Base):
    """One record a device."""

    def register(self, record: DeviceRecord) -> None:
        """Enter a device inside a transaction; a known one takes a new name, and a serial number if it has none."""
        self._db.execute(
            f"{_INSERT_DEVICE} ON CONFLICT (gbid) DO UPDATE SET "
            "name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END, "
            "vendor_serial = CASE vendor_serial WHEN '' THEN excluded.vendor_serial ELSE vendor_serial END",
            msgspec.structs.astuple(record),
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

    def devices_with_serial(self, vendor_serial: str) -> list[DeviceRecord]:
        """The devices with a maker's serial number; two makers may use the same one."""
        return list(self._devices("WHERE vendor_serial = ? AND vendor_serial != ''", (vendor_serial,)))

    def devices(self) -> list[DeviceRecord]:
        """All devices, by ID."""
        return list(self._devices("ORDER BY gbid", ()))

    def _devices(self, clause: str, values: tuple[Any, ...]) -> Iterator[DeviceRecord]:
        query = f"SELECT {', '.join(_DEVICE)} FROM devices {clause}"  # noqa: S608 - our own fields and clauses
        for row in self._db.execute(query, values):
            fields = list(row)
            fields[_MUST_SIGN] = bool(fields[_MUST_SIGN])
            yield DeviceRecord(*fields)
