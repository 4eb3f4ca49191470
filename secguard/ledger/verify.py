"""Verifying a whole log, from the bodies up; nothing that is stored is believed.

Every body is held against its commitment, every commitment and hash against the tiles, the tree against the signed
checkpoint, the checkpoint against the anchor, and every stored file against what it must hold. Where body, entry and
tile disagree, the one that the other two contradict is named.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from secguard.core import Axis, Finding, Progress, Throttle, Verdict, finding, judge, silent
from secguard.core.errors import FormatError, RefusedError, SecguardError
from secguard.ledger.anchor import Anchor
from secguard.ledger.bodies import commit_many, leaf_hashes, unpack_bodies
from secguard.ledger.ids import IdIndex
from secguard.ledger.integrate import State, event_ids, load_state
from secguard.ledger.journal import Journal, Retired
from secguard.ledger.layout import Config, Layout, read_config
from secguard.ledger.merkle import HASH_SIZE, leaf_hash, root_of
from secguard.ledger.note import Checkpoint, NoteKey, open_checkpoint, parse_checkpoint
from secguard.ledger.publish import read_checkpoint
from secguard.ledger.tiles import (
    BUNDLE,
    body_path,
    bundle_path,
    pack_bundle,
    parse_number,
    parse_path,
    tile_path,
    unpack_bundle,
)

__all__ = ["verify_log"]

_ZERO = bytes(HASH_SIZE)
_ATTEMPTS = 10
"""Looks at a log that grows meanwhile."""
_SAMPLE = 128
"""Bundles of a large log whose IDs are looked up."""


class _PrunedData(msgspec.Struct):
    """The part of an `audit.pruned` event's data that names deleted bodies: ranges [first, last]."""

    indexes: list[tuple[int, int]] = []


class _PrunedEvent(msgspec.Struct):
    kind: str
    data: _PrunedData = msgspec.field(default_factory=_PrunedData)


def _whole(events: Sequence[bytes | None]) -> list[bytes]:
    """The bodies that were not pruned."""
    return [event for event in events if event is not None]


@dataclass(slots=True)
class _Check:
    """One verification under way."""

    layout: Layout
    base: str
    findings: list[Finding] = field(default_factory=list)
    tree: State = field(default_factory=State)
    marks: dict[int, list[tuple[Checkpoint, str]]] = field(default_factory=lambda: defaultdict(list))
    partials: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    bundles: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    pruned: list[int] = field(default_factory=list)
    cited: list[tuple[int, int]] = field(default_factory=list)

    def say(self, code: str, where: str, **data: Any) -> None:
        self.findings.append(finding(code, where, **data))

    def say_error(self, error: SecguardError, code: str, where: str) -> None:
        self.say(code, where, reason=error.message)

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.layout.root))

    def read(self, name: str, code: str) -> bytes | None:
        try:
            with open(f"{self.base}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 - Path costs more than the read
                return file.read()
        except OSError as error:
            self.say(code, name, reason=error.strerror or "")
            return None

    def there(self, name: str) -> bool:
        return (self.layout.root / name).exists()

    def files(self, folder: Path) -> Iterator[str]:
        """Names of all files below a folder, relative to it, sorted."""
        start = len(str(folder)) + 1
        for parent, folders, names in os.walk(folder):
            folders.sort()
            prefix = parent[start:] + "/" if len(parent) >= start else ""
            for name in sorted(names):
                yield prefix + name

    # what the folder holds

    def list_files(self, public: Sequence[str], bodies: Sequence[str], size: int) -> None:
        """Sort the stored tiles; name what no tree of this log can have."""
        for name in public:
            if name == "checkpoint":
                continue
            level, number, width = parse_path(name) or (0, size, 1)
            covered = size >> 8 * max(level, 0)
            if number * BUNDLE + width > covered:
                self.say("ledger.file.unexpected", f"public/{name}")
            elif width < BUNDLE:
                (self.bundles[number] if level < 0 else self.partials[level, number]).append(width)
        for name in bodies:
            place = parse_number(name)
            if place is None or (place + 1) * BUNDLE > size:
                self.say("ledger.file.unexpected", f"bodies/{name}")

    # entries

    def bundle(self, number: int) -> None:
        """Verify a full bundle: bodies, entries, level-0 tile, and the tiles above that it fills."""
        first = number * BUNDLE
        body_file = f"bodies/{body_path(number)}"
        entry_file, tile_file = f"public/{bundle_path(number)}", f"public/{tile_path(0, number)}"
        raw_bodies = self.read(body_file, "ledger.body.missing")
        raw_entries = self.read(entry_file, "ledger.bundle.missing")
        tile = self.read(tile_file, "ledger.tile.missing")
        span = f"entries {first}-{first + BUNDLE - 1}"
        bodies = entries = None
        if raw_bodies is not None:
            try:
                bodies = unpack_bodies(raw_bodies, body_file)
            except FormatError as error:
                self.say_error(error, "ledger.body.damaged", f"{error.where}, {span}")
            else:
                if b'"audit.pruned"' in raw_bodies:
                    self.cite_all(bodies[1])
        if tile is not None and len(tile) != BUNDLE * HASH_SIZE:
            self.say("ledger.tile.damaged", tile_file, bytes=len(tile))
            tile = None
        computed = commit_many(bodies[0], _whole(bodies[1])) if bodies is not None and None not in bodies[1] else None
        hashes = leaf_hashes(computed) if computed is not None else b""
        if computed is None or hashes != tile or pack_bundle(computed) != raw_entries:
            if raw_entries is not None:
                try:
                    entries = unpack_bundle(raw_entries, BUNDLE)
                except FormatError as error:
                    self.say_error(error, "ledger.bundle.damaged", f"{entry_file}, {span}")
            computed = self.commitments(bodies, entries, first) if computed is None else computed
            hashes = self.blame(first, bodies, computed, entries, tile, files=(body_file, entry_file, tile_file))
        self.check_partials(number, computed, hashes)
        self.check_marks(number, hashes)
        for level, place, row in self.tree.push(root_of(hashes)):
            path = f"public/{tile_path(level, place)}"
            self.compare_tile(path, self.read(path, "ledger.tile.missing"), row, level, place)
            self.check_row(level, place, row)

    def commitments(
        self, bodies: tuple[bytes, list[bytes | None]] | None, entries: bytes | None, first: int
    ) -> list[bytes]:
        """What the bodies say the entries are; where a body is gone, what the bundle says."""
        stored = [entries[at : at + 32] for at in range(0, len(entries), 32)] if entries else [_ZERO] * BUNDLE
        if bodies is None:
            return stored
        salts, events = bodies
        full = _whole(events)
        self.pruned += [first + slot for slot, event in enumerate(events) if event is None]
        kept = b"".join([salts[at * 16 : at * 16 + 16] for at, event in enumerate(events) if event is not None])
        made = iter(commit_many(kept, full))
        return [next(made) if event is not None else stored[slot] for slot, event in enumerate(events)]

    def cite_all(self, events: Sequence[bytes | None]) -> None:
        """Take note of the deletions that events of a bundle record."""
        for event in events:
            if event is not None and b'"audit.pruned"' in event:
                self.cite(event)

    def cite(self, event: bytes) -> None:
        try:
            record = msgspec.json.decode(event, type=_PrunedEvent)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        if record.kind == "audit.pruned":
            self.cited += record.data.indexes

    def blame(
        self,
        first: int,
        bodies: tuple[bytes, list[bytes | None]] | None,
        computed: list[bytes],
        entries: bytes | None,
        tile: bytes | None,
        *,
        files: tuple[str, str, str],
    ) -> bytes:
        """Name what is wrong, entry by entry; returns the most credible leaf hashes, to go on with."""
        body_name, entry_name, tile_name = files
        best = []
        for slot, commitment in enumerate(computed):
            index, at = first + slot, slot * 32
            has_body = bodies is not None and bodies[1][slot] is not None
            entry = entries[at : at + 32] if entries is not None else None
            leaf = tile[at : at + 32] if tile is not None else None
            mine = leaf_hash(commitment)
            theirs = leaf_hash(entry) if entry is not None else None
            if has_body and entry is not None and commitment != entry:
                if leaf == mine:
                    self.say("ledger.bundle.mismatch", f"{entry_name}, entry {index}", index=index)
                else:
                    self.say("ledger.body.mismatch", f"{body_name}, entry {index}", index=index)
                    if leaf is not None and leaf != theirs:
                        self.say("ledger.bundle.mismatch", f"{entry_name}, entry {index}", index=index)
                best.append(leaf or theirs or mine)
                continue
            if leaf is not None and leaf != mine:
                self.say("ledger.tile.mismatch", f"{tile_name}, leaf {index}", index=index, level=0)
            best.append(mine if has_body or entry is not None else leaf or _ZERO)
        return b"".join(best)

    # tiles

    def compare_tile(self, path: str, stored: bytes | None, row: bytes, level: int, number: int) -> None:
        if stored is None or stored == row:
            return
        if len(stored) != len(row):
            self.say("ledger.tile.damaged", path, bytes=len(stored))
            return
        for slot in range(len(row) // HASH_SIZE):
            at = slot * HASH_SIZE
            if stored[at : at + HASH_SIZE] != row[at : at + HASH_SIZE]:
                index = (number * BUNDLE + slot) << 8 * level
                self.say("ledger.tile.mismatch", f"{path}, hash {slot}", index=index, level=level)

    def check_row(self, level: int, number: int, row: bytes) -> None:
        """Stored partial versions of a tile against its hashes."""
        for width in self.partials.pop((level, number), ()):
            path = f"public/{tile_path(level, number, width)}"
            self.compare_tile(path, self.read(path, "ledger.tile.missing"), row[: width * HASH_SIZE], level, number)

    def check_partials(self, number: int, commitments: Sequence[bytes], hashes: bytes) -> None:
        """Stored partial versions of a bundle and of its level-0 tile."""
        self.check_row(0, number, hashes)
        for width in self.bundles.pop(number, ()):
            path = f"public/{bundle_path(number, width)}"
            data = self.read(path, "ledger.bundle.missing")
            try:
                entries = unpack_bundle(data or b"", width)
            except FormatError as error:
                self.say_error(error, "ledger.bundle.damaged", f"{path}, from entry {number * BUNDLE}")
                continue
            for slot in range(width):
                if entries[slot * 32 : slot * 32 + 32] != commitments[slot]:
                    index = number * BUNDLE + slot
                    self.say("ledger.bundle.mismatch", f"{path}, entry {index}", index=index)

    def check_marks(self, number: int, hashes: bytes) -> None:
        """Roots of the checkpoints whose size falls into this bundle."""
        have = number * BUNDLE + len(hashes) // HASH_SIZE
        for size in [size for size in self.marks if size // BUNDLE == number and size <= have]:
            root = self.tree.root(hashes[: size % BUNDLE * HASH_SIZE])
            for signed, where in self.marks.pop(size):
                if root != signed.root:
                    self.say("ledger.root.mismatch", where, size=size, computed=root.hex(), signed=signed.root.hex())

    def need_partials(self, size: int) -> None:
        """The partial tiles and bundle that a reader of the checkpoint of this size needs."""
        last, rest = divmod(size, BUNDLE)
        if rest and not any(self.there(f"public/{bundle_path(last, width)}") for width in (rest, BUNDLE)):
            self.say("ledger.bundle.missing", f"public/{bundle_path(last, rest)}", reason="")
        level = 0
        while size >> 8 * level:
            number, rest = divmod(size >> 8 * level, BUNDLE)
            if rest and not any(self.there(f"public/{tile_path(level, number, width)}") for width in (rest, BUNDLE)):
                self.say("ledger.tile.missing", f"public/{tile_path(level, number, rest)}", reason="")
            level += 1

    # the journal's tail

    def tail(self, journal: Journal) -> None:
        """Everything after the full bundles, from the journal.

        Raises:
            Retired: an integrator took the segment away meanwhile; nothing was judged.
        """
        salts, bodies = b"", []
        try:
            last = journal.frames[-1].segment if journal.frames else 0
            for frame in list(journal.frames):
                if frame.segment == last and frame.first + frame.events <= self.tree.size:
                    continue  # in body files, and its checksum was looked at when the journal was loaded
                columns = journal.read(frame)
                skip = max(0, self.tree.size - frame.first)
                if skip < frame.events:
                    salts += columns.salts[skip * 16 :]
                    bodies += columns.bodies[skip:]
        except RefusedError as error:
            self.say("ledger.journal.damaged", Path(error.where).name, reason=str(error))
        self.cite_all(bodies)
        for at in range(0, len(bodies) - BUNDLE + 1, BUNDLE):
            self._end_block(salts[at * 16 : (at + BUNDLE) * 16], bodies[at : at + BUNDLE])
        rest = len(bodies) // BUNDLE * BUNDLE
        self._end_block(salts[rest * 16 :], bodies[rest:])
        for level, row in enumerate(self.tree.rows, 1):
            self.check_row(level, self.tree.size >> 8 * (level + 1), bytes(row))

    def _end_block(self, salts: bytes, bodies: Sequence[bytes]) -> None:
        commitments = commit_many(salts, bodies)
        hashes = leaf_hashes(commitments)
        number = self.tree.size // BUNDLE
        self.check_partials(number, commitments, hashes)
        self.check_marks(number, hashes)
        if len(bodies) == BUNDLE:
            for level, place, row in self.tree.push(root_of(hashes)):
                self.check_row(level, place, row)

    def check_ids(self, size: int) -> None:
        """The index from event ID to entry: whole, and right for all bundles of a small log, for 128 of a large one.

        What cannot be opened is built again by whoever needs it, and is no finding.
        """
        folder = self.layout.ids
        try:
            index = IdIndex(folder)
        except (FormatError, OSError):
            return
        try:
            if not index.covers(size) or (folder / "building").exists():
                return
            if not index.complete(size):
                self.say("ledger.ids.damaged", self.name(folder))
                return
            for number in range(0, size // BUNDLE, max(1, size // BUNDLE // _SAMPLE)):
                path = self.layout.bodies / body_path(number)
                try:
                    bodies = unpack_bodies(path.read_bytes())[1]
                    names = event_ids([b"{}" if body is None else body for body in bodies])
                except (SecguardError, UnicodeDecodeError, OSError):
                    continue  # named where bodies are verified
                found = set(index.candidates(names))
                for at, body in enumerate(bodies):
                    if body is not None and (at, number * BUNDLE + at) not in found:
                        self.say("ledger.ids.damaged", f"{self.name(folder)}, entry {number * BUNDLE + at}")
                        return
        finally:
            index.close()

    def judge_pruned(self) -> None:
        ranges = sorted(self.cited)
        for index in self.pruned:
            if not any(low <= index <= high for low, high in ranges):
                where = f"bodies/{body_path(index // BUNDLE)}, entry {index}"
                self.say("ledger.body.missing", where, reason="deleted, and no audit.pruned event says so", index=index)


def _notes(check: _Check, config: Config, keys: Sequence[NoteKey]) -> Iterator[Checkpoint]:
    """Judge the stored checkpoint and the anchored one; yield those that can be read."""
    layout = check.layout
    anchor = Anchor(layout.root / config.anchor, config.origin)
    raw: dict[str, bytes | None] = {}
    for name in ("checkpoint", "anchor"):
        try:
            raw[name] = note = read_checkpoint(layout) if name == "checkpoint" else anchor.read()
        except SecguardError as error:
            check.say_error(error, "ledger.checkpoint.damaged", name)
            continue
        if note is None:
            continue
        try:
            signed = open_checkpoint(note, keys, name) if keys else parse_checkpoint(note, name)
        except FormatError as error:
            check.say_error(error, "ledger.checkpoint.damaged", name)
            continue
        except RefusedError as error:
            check.say_error(error, "ledger.checkpoint.signature", name)
            signed = parse_checkpoint(note, name)
        if signed.origin != config.origin:
            check.say("ledger.checkpoint.foreign", name, origin=signed.origin, expected=config.origin)
            continue
        check.marks[signed.size].append((signed, name))
        yield signed
    local, far = raw.get("checkpoint"), raw.get("anchor")
    if local is not None and far is None and "anchor" in raw:
        check.say("ledger.anchor.missing", str(anchor.path))
    elif far is not None and local is None and "checkpoint" in raw:
        check.say("ledger.checkpoint.missing", check.name(layout.checkpoint))
    elif local is not None and far is not None and local != far:
        check.say("ledger.checkpoint.behind", check.name(layout.checkpoint), anchor=str(anchor.path))


def _count_bundles(layout: Layout) -> int:
    number = 0
    while (layout.bodies / body_path(number)).exists():
        number += 1
    return number


def _load(check: _Check, journal: Journal) -> State:
    """The state, and the journal from there on; an integrator may move on between the two."""
    layout = check.layout
    state = _state(check)
    for attempt in range(_ATTEMPTS):
        try:
            journal.load(state.size)
        except (RefusedError, Retired) as error:
            latest = _state(check)
            if latest.size == state.size or attempt == _ATTEMPTS - 1:
                where = error.where if isinstance(error, RefusedError) else check.name(layout.journal)
                check.say("ledger.journal.damaged", where, reason=str(getattr(error, "message", error)))
                break
            state = latest
        else:
            break
    return state


def _state(check: _Check) -> State:
    try:
        return load_state(check.layout)
    except SecguardError as error:
        found = finding("ledger.state.damaged", check.name(check.layout.state), reason=error.message)
        if found not in check.findings:
            check.findings.append(found)
        return State(_count_bundles(check.layout) * BUNDLE)


def verify_log(root: Path, keys: Sequence[NoteKey] = (), *, at: datetime, progress: Progress = silent) -> Verdict:
    """Verify a whole log: tiles, bundles, bodies, journal, checkpoint and anchor; takes no lock and changes nothing.

    Args:
        root: the log's folder.
        keys: keys that the caller believes to be the log's; without any, provenance is unknown.
        at: time of judgement, aware.
        progress: told the entries done.

    Returns:
        A verdict over integrity, completeness and provenance; every finding names file and index.

    Raises:
        UsageError: there is no log here.
        FormatError: its configuration is damaged.
    """
    layout = Layout(root)
    config = read_config(layout)
    check = _Check(layout, str(layout.root))
    report = Throttle(progress)
    signed = list(_notes(check, config, keys))
    # What is listed before the sizes are read lies within them, also while a writer and an integrator go on.
    public, bodies = list(check.files(layout.public)), list(check.files(layout.bodies))
    journal = Journal(layout.journal)
    try:
        state = _load(check, journal)
        if journal.garbage:
            check.say("ledger.journal.torn", journal.place(), bytes=journal.garbage)
        total = max(journal.size, state.size)
        check.list_files(public, bodies, total)
        done = 0
        for attempt in range(_ATTEMPTS):
            for number in range(done, state.size // BUNDLE):
                check.bundle(number)
                report((number + 1) * BUNDLE, total, "entries")
            done = state.size // BUNDLE
            if state.rows and check.tree.rows != state.rows:
                check.say("ledger.state.damaged", check.name(layout.state), reason="it does not match the tree")
            try:
                check.tail(journal)
            except Retired as error:
                if attempt == _ATTEMPTS - 1:
                    check.say("ledger.journal.damaged", check.name(layout.journal), reason=str(error))
                    break
                state = _load(check, journal)
                total = max(journal.size, state.size)
            else:
                break
        check.check_ids(state.size)
        report(total, total, "entries")
    finally:
        journal.close()
    for size, notes in check.marks.items():
        for _, where in notes:
            check.say("ledger.checkpoint.rollback", where, size=size, have=total)
    if signed:
        check.need_partials(min(total, signed[0].size))
    check.judge_pruned()
    examined = {Axis.INTEGRITY, Axis.COMPLETENESS}
    if signed and keys:
        examined.add(Axis.PROVENANCE)
    elif not signed:
        check.say("ledger.checkpoint.none", check.name(layout.checkpoint))
    else:
        check.say("ledger.checkpoint.unverified", check.name(layout.checkpoint))
    default = (Axis.INTEGRITY, Axis.COMPLETENESS, Axis.PROVENANCE)
    return judge(f"{config.origin} ({total} entries)", at, examined=examined, findings=check.findings, default=default)
