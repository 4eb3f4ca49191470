"""Import a list of devices: plan what would change, then change it in one durable step, recorded.

Nothing is half-imported: a list with a row that cannot be taken changes nothing, unless the caller asks to keep going.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from secguard.core import Progress, SecguardError, Throttle, UsageError, rfc3339, silent
from secguard.identity.inventory.fields import EDITABLE, IGNORED, parse_field
from secguard.identity.inventory.kinds import Kind, kind_of
from secguard.identity.inventory.register import Register
from secguard.identity.inventory.rows import ASIDE, Problem, Row, Source, no_collection, told, totals
from secguard.identity.lock import exclusive
from secguard.identity.records import DeviceRecord, DeviceStatus
from secguard.store import BlobStore

__all__ = [
    "MAX_EVENTS",
    "Change",
    "Plan",
    "RowError",
    "check_coordinates",
    "import_devices",
    "plan_import",
    "read_row",
    "updated",
]

MAX_EVENTS = 1000
"""Changes of one import that get an event of their own; of more, the import's event carries the digest of the list."""
_BATCH = 5000


class Change(msgspec.Struct, frozen=True):
    """A record that an import changes: the device, and field -> (old, new)."""

    gbid: str
    fields: dict[str, tuple[Any, Any]]


@dataclass(slots=True)
class Plan:
    """What an import would do.

    Attributes:
        source: the file.
        new: records to enter.
        changed: records to replace, with what differs.
        unchanged: how many rows say what the register says.
        missing: registered devices, not retired, that the file does not name.
        problems: why rows cannot be taken; nothing is imported while there are any.
        skipped: kind or type code -> entries of a catalog that are no devices to register.
        repeated: entries that a catalog names twice in the same words.
        notes: what else is worth saying.
    """

    source: Source
    new: list[DeviceRecord] = field(default_factory=list)
    changed: list[tuple[DeviceRecord, Change]] = field(default_factory=list)
    unchanged: int = 0
    missing: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """The figures of the import, as the ledger keeps them."""
        return {
            "new": len(self.new),
            "changed": len(self.changed),
            "unchanged": self.unchanged,
            "missing": len(self.missing),
            "refused": len({problem.where for problem in self.problems}),
            "skipped": sum(self.skipped.values()),
        }


def check_coordinates(values: Mapping[str, Any]) -> None:
    """Check a pair of coordinates for what people get wrong.

    Raises:
        UsageError: only one of them; exchanged; 0, 0.
    """
    longitude, latitude = values.get("longitude"), values.get("latitude")
    if (longitude is None) != (latitude is None):
        name = "latitude" if latitude is None else "longitude"
        raise UsageError("identity.import.coordinates", f"no {name}", hint="give both, or none", where=name)
    if longitude is None or latitude is None:
        return
    if longitude == 0 and latitude == 0:
        raise UsageError(
            "identity.import.coordinates",
            "0, 0 lies in the Atlantic",
            hint="leave both empty where the place is not known",
            where="longitude",
        )
    if 3 <= longitude <= 54 and 73 <= latitude <= 136:
        raise UsageError(
            "identity.import.coordinates",
            "longitude and latitude are exchanged",
            hint="in China the longitude is 73 to 136, the latitude 3 to 54",
            where="longitude",
        )


def read_row(register: Register, row: Row, defaults: Mapping[str, str], port: int = 0) -> dict[str, Any]:
    """The values that a row gives; an empty cell gives none.

    Raises:
        RowError: with every problem of the row.
    """
    found: list[Problem] = []
    values: dict[str, Any] = {}
    name = str(row.values.get("gbid", "")).strip()[:40]

    def refuse(error: SecguardError, column: str) -> None:
        found.append(Problem(row.where, column or error.where, error.code, error.message, error.hint, name))

    for column, reason in row.bad:
        found.append(Problem(row.where, column, "identity.import.cell", reason, "", name))
    for column, text in row.values.items():
        if column in IGNORED or not text or column in ASIDE or (column == "ip" and not port):
            continue
        try:
            value = parse_field(column, text)
        except UsageError as error:
            refuse(error, column)
            continue
        if value != "":
            values[column] = value
    if "gbid" not in values and not any(item.field == "gbid" for item in found):
        found.append(Problem(row.where, "gbid", "identity.import.gbid", "no ID", "every device has one"))
    elif "gbid" in values:
        for problem in register.problems(values["gbid"]):
            refuse(problem, "gbid")
    if values.get("longitude") == 0 and values.get("latitude") == 0 and "presence" in row.values:
        del values["longitude"], values["latitude"]  # how platforms say that they do not know
    for column, value in defaults.items():
        if column != "datum" or "longitude" in values:
            values.setdefault(column, value)
    host = values.pop("ip", "")
    if host and port and "address" not in values:
        values["address"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        check_coordinates(values)
    except UsageError as error:
        if not any(item.field in {"longitude", "latitude"} for item in found):
            refuse(error, error.where)
    if found:
        raise RowError(found)
    return values


class RowError(Exception):
    """A row that cannot be taken; `problems` says why."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = problems


def plan_import(
    register: Register,
    source: Source,
    *,
    defaults: Mapping[str, str] | None = None,
    port: int = 0,
    progress: Progress = silent,
) -> Plan:
    """Compare a file with the register, row by row.

    Args:
        register: the register.
        source: the file as read.
        defaults: values for fields that a row leaves empty (`datum`, `zone`, ...).
        port: makes `address` of a catalog's IP address; 0: it is left alone.
        progress: called with rows done.
    """
    plan = Plan(source, problems=list(source.problems), notes=list(source.notes))
    known = {record.gbid: record for record in register.registry.devices()}
    places: dict[str, Row] = {}
    owners: dict[tuple[str, str], tuple[str, str]] = {}
    for record in known.values():
        if record.status != DeviceStatus.RETIRED:
            for key in _identities(record.maker, record.vendor_serial, record.mac):
                owners[key] = record.gbid, "the register"
    counted = Throttle(progress)
    now = rfc3339(register.clock.now())
    total = len(source.rows)
    for number, row in enumerate(source.rows):
        if number % 500 == 0:
            counted(number, total, "devices")
        gbid = row.values.get("gbid", "").strip()
        if source.format == "catalog":
            kind = kind_of(gbid)
            known_form = kind is not Kind.OTHER or (len(gbid) == 20 and gbid.isascii() and gbid.isdigit())
            if known_form and not register.policy.counts(gbid[10:13]):
                plan.skipped[kind] += 1
                continue
        if gbid in places:
            same = told(row) == told(places[gbid])
            if source.format == "catalog" and same:
                plan.repeated += 1
                continue
            plan.problems.append(
                Problem(
                    row.where,
                    "gbid",
                    "identity.import.duplicate",
                    f"the same ID as {places[gbid].where}{'' if same else ', with other values'}",
                    "one device, one row",
                    gbid,
                )
            )
            continue
        if gbid:
            places[gbid] = row
        try:
            values = read_row(register, row, defaults or {}, port)
            _plan_row(plan, row, values, known.get(values["gbid"]), owners, now=now)
        except RowError as error:
            plan.problems += error.problems
    counted(total, total, "devices")
    plan.missing = [
        gbid for gbid, record in known.items() if gbid not in places and record.status != DeviceStatus.RETIRED
    ]
    plan.notes += _pages(source)
    return plan


def _pages(source: Source) -> Iterator[str]:
    """Where a catalog is not whole."""
    for message in source.messages:
        claimed = message.claimed
        if claimed is not None and claimed != message.items:
            yield f"{message.where}: Num says {claimed} items, there are {message.items}"
    for (device, number), (claimed, found) in totals(source.messages).items():
        if found < claimed:
            yield f"the catalog of {device} (SN {number}) is not whole: SumNum says {claimed} items, there are {found}"


def _identities(maker: str, serial: str, mac: str) -> Iterator[tuple[str, str]]:
    if serial:
        yield "vendor_serial", f"{maker.casefold()}\0{serial}"
    if mac:
        yield "mac", mac


def _plan_row(
    plan: Plan,
    row: Row,
    values: dict[str, Any],
    old: DeviceRecord | None,
    owners: dict[tuple[str, str], tuple[str, str]],
    *,
    now: str,
) -> None:
    gbid = values["gbid"]

    def refuse(column: str, code: str, reason: str, hint: str) -> RowError:
        return RowError([Problem(row.where, column, f"identity.import.{code}", reason, hint, gbid)])

    serial = values.get("vendor_serial", "")
    if old is not None and old.status == DeviceStatus.RETIRED and values.get("status") != DeviceStatus.RETIRED:
        raise refuse(
            "status",
            "retired",
            "the device is retired",
            f"`secguard identity device set {gbid} --status registered` brings it back",
        )
    if old is not None and old.vendor_serial and serial not in {"", old.vendor_serial}:
        raise refuse(
            "vendor_serial",
            "serial",
            f"registered with the maker's serial number {old.vendor_serial}, not {serial}",
            "a replaced camera needs an ID of its own; a wrong number is corrected with `device set --vendor-serial`",
        )
    maker = values.get("maker", old.maker if old else "")
    for key in _identities(maker, serial, values.get("mac", "")):
        owner, place = owners.setdefault(key, (gbid, row.where))
        if owner != gbid:
            raise refuse(key[0], "shared", f"{values[key[0]]} belongs to {owner} ({place})", "one device, one record")
    given = {name: value for name, value in values.items() if name in EDITABLE}
    status = values.get("status", "")
    if old is None:
        kept = status if status == DeviceStatus.RETIRED else DeviceStatus.REGISTERED
        plan.new.append(DeviceRecord(gbid=gbid, status=kept, registered=now, updated=now, **given))
        return
    if status == DeviceStatus.RETIRED and old.status != status:
        raise refuse(
            "status",
            "status",
            f"the file says retired, the register {old.status}",
            f"`secguard identity device retire {gbid}` retires it and revokes its certificates",
        )
    fields = {name: (getattr(old, name), value) for name, value in given.items() if getattr(old, name) != value}
    if not fields:
        plan.unchanged += 1
        return
    new = msgspec.structs.replace(old, updated=now, **{name: pair[1] for name, pair in fields.items()})
    plan.changed.append((new, Change(gbid, fields)))


def import_devices(
    register: Register,
    source: Source,
    *,
    keep_going: bool = False,
    dry_run: bool = False,
    defaults: Mapping[str, str] | None = None,
    port: int = 0,
    case: str = "",
    reason: str = "",
    progress: Progress = silent,
) -> Plan:
    """Import a file in one transaction, and record it.

    Args:
        register: the register.
        source: the file as read.
        keep_going: take the good rows where others cannot be taken.
        dry_run: change nothing.
        defaults: as `plan_import`.
        port: as `plan_import`.
        case: case number, recorded.
        reason: recorded.
        progress: called with rows done.

    Returns:
        What was done; with problems and without `keep_going`, nothing was.

    Raises:
        RefusedError: recording failed; nothing was imported.
        SystemPartError: the disk is full, or the database busy.
    """
    if dry_run:
        with no_collection():
            return plan_import(register, source, defaults=defaults, port=port, progress=progress)
    with exclusive(register.lock), no_collection():
        plan = plan_import(register, source, defaults=defaults, port=port, progress=progress)
        if (plan.problems and not keep_going) or not (plan.new or plan.changed):
            return plan
        records = [*plan.new, *(record for record, _ in plan.changed)]
        changes = _changes(plan)
        blob = BlobStore(register.folder / "imports").put(changes)
        with register.registry.transaction():
            for start in range(0, len(records), _BATCH):
                register.registry.save(records[start : start + _BATCH])
            facts: dict[str, Any] = {
                "file": source.name[:200],
                "sha256": source.sha256,
                "format": source.format,
                **plan.counts,
            }
            facts["changes_sha256"] = blob.sha256
            events = [register.event("devices.imported", source.name[:200], case=case, reason=reason, **facts)]
            if len(records) <= MAX_EVENTS:
                events += [
                    register.event("device.registered", record.gbid, f"device-registered-{record.gbid}")
                    for record in plan.new
                ]
                events += [
                    register.event("device.updated", record.gbid, **updated(change.fields))
                    for record, change in plan.changed
                ]
            register.record(events)
    return plan


def updated(fields: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """What an event tells of a changed record."""
    return {
        "fields": sorted(fields),
        "changes_sha256": hashlib.sha256(msgspec.json.encode(dict(sorted(fields.items())))).hexdigest(),
    }


def _changes(plan: Plan) -> bytes:
    """The list of changes, one JSON object a line; the import's event carries its digest."""
    lines: Sequence[Any] = [
        *({"new": record} for record in plan.new),
        *({"changed": change.gbid, "fields": change.fields} for _, change in plan.changed),
    ]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
