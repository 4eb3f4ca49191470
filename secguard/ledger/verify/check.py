"""One verification of a log under way: every stored file is held against what the bodies give.

Where body, entry and tile disagree, the one that the other two contradict is named.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from secguard.core import Finding, finding
from secguard.core.errors import FormatError, RefusedError, SecguardError
from secguard.ledger.bodies import commit_many, leaf_hashes, unpack_bodies
from secguard.ledger.integrate import State
from secguard.ledger.journal import Journal
from secguard.ledger.layout import Layout
from secguard.ledger.merkle import HASH_SIZE, leaf_hash, root_of
from secguard.ledger.note import Checkpoint
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
from secguard.ledger.verify.pruned import Pruned

__all__ = ["Check", "Mark"]

_ZERO = bytes(HASH_SIZE)


def _whole(events: Sequence[bytes | None]) -> list[bytes]:
    """The bodies that were not pruned."""
    return [event for event in events if event is not None]


class Mark(NamedTuple):
    """A signed checkpoint that the tree must lead to: the log's own, or one that a witness cosigned."""

    signed: Checkpoint
    where: str
    witness: bool = False


@dataclass(slots=True)
class Check:
    """One verification under way."""

    layout: Layout
    base: str
    findings: list[Finding] = field(default_factory=list)
    tree: State = field(default_factory=State)
    marks: dict[int, list[Mark]] = field(default_factory=lambda: defaultdict(list))
    partials: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    bundles: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    pruned: Pruned = field(default_factory=Pruned)

    def say(self, code: str, where: str, **data: Any) -> None:
        """Add a finding."""
        self.findings.append(finding(code, where, **data))

    def say_error(self, error: SecguardError, code: str, where: str) -> None:
        """Add a finding whose reason is an error."""
        self.say(code, where, reason=error.message)

    def name(self, path: Path) -> str:
        """A path relative to the log's folder."""
        return str(path.relative_to(self.layout.root))

    def read(self, name: str, code: str) -> bytes | None:
        """A file; where it cannot be read, None and a finding."""
        try:
            with open(f"{self.base}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 - Path costs more than the read
                return file.read()
        except OSError as error:
            self.say(code, name, reason=error.strerror or "")
            return None

    def there(self, name: str) -> bool:
        """Whether a file exists."""
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
                    self.pruned.cite_all(first, bodies[1])
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
        self.pruned.gone += [first + slot for slot, event in enumerate(events) if event is None]
        kept = b"".join([salts[at * 16 : at * 16 + 16] for at, event in enumerate(events) if event is not None])
        made = iter(commit_many(kept, full))
        return [next(made) if event is not None else stored[slot] for slot, event in enumerate(events)]

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
        """Name each hash of a stored tile that is not the computed one."""
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
            for signed, where, witness in self.marks.pop(size):
                if root != signed.root and witness:
                    self.say("ledger.witness.fork", where, size=size)
                elif root != signed.root:
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
        self.pruned.cite_all(self.tree.size, bodies)
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
