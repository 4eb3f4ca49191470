"""The index from event ID to leaf: memory-mapped hash tables that can be rebuilt from the bodies at any time.

A table of 2^n entries has twice as many 8-byte slots: 32 bits of the ID's hash and 32 bits of index (0 = empty), linear
probing, nothing is ever deleted or moved; after a crash the journal's entries are simply put in again. Before the slots
stand 16 bits an entry, one set by each ID: most unknown IDs end there, in memory that stays in the cache. When a table
is full, a larger one follows. A hit is only a candidate: the caller compares the event itself. The hash is a secret
random prime's remainder, so nobody outside can aim IDs at one slot.
"""

import mmap
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, takewhile
from pathlib import Path

from secguard.core.errors import FormatError
from secguard.core.files import atomic_write, fsync_directory

__all__ = ["IdIndex"]

_HEAD = 4096
_MAGIC = b"SGI2"
_HEADER = struct.Struct("<4sIQ")
_FIRST_BITS = 14
_STEP_BITS = 3
_LAST_BITS = 23
_LOW = (1 << 32) - 1
_FILTER_BITS = 4  # 16 bits an entry: one in sixteen unknown IDs gets past a full table's filter


def _size(bits: int) -> int:
    """Bytes of a table's file: head, filter, slots."""
    return _HEAD + (1 << bits + _FILTER_BITS - 3) + (2 << bits) * 8


def _is_prime(number: int) -> bool:
    rest, twos = number - 1, 0
    while not rest & 1:
        rest >>= 1
        twos += 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):  # deterministic below 2^64 (Sorenson and Webster)
        value = pow(base, rest, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def _secret_prime() -> int:
    while True:
        number = secrets.randbits(64) | 1 << 63 | 1
        if _is_prime(number):
            return number


def _places() -> Iterator[tuple[int, int]]:
    """First index and size (as a power of two) of each table of a log, in order."""
    first, bits = 0, _FIRST_BITS
    while True:
        yield first, bits
        first += 1 << bits
        bits = min(bits + _STEP_BITS, _LAST_BITS)


class _Table:
    def __init__(self, path: Path, first: int, bits: int, *, write: bool) -> None:
        self.first = first
        self.stop = first + (1 << bits)
        self.mask = (2 << bits) - 1
        self.filter_mask = (1 << bits + _FILTER_BITS) - 1
        self._file = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
        size = _size(bits)
        try:
            if os.fstat(self._file).st_size != size:
                raise FormatError("ledger.ids.format", "an ID table has a wrong length", where=str(path))
            self._map = mmap.mmap(self._file, size, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)
        except BaseException:
            os.close(self._file)
            raise
        self._view = memoryview(self._map)
        slots = size - (self.mask + 1) * 8
        self.filter = self._view[_HEAD:slots]
        self.slots = self._view[slots:].cast("Q")

    def close(self) -> None:
        self.filter.release()
        self.slots.release()
        self._view.release()
        self._map.close()
        os.close(self._file)

    def sync(self) -> None:
        self._map.flush()


class IdIndex:
    """The ID tables of a log. Readers and one inserter (which holds the integration lock) may use it at once."""

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        self._folder = folder
        self._write = write
        self._tables: dict[int, _Table] = {}
        self._prime = self._secret()
        self.refresh()

    def _secret(self) -> int:
        path = self._folder / "secret"
        try:
            number = int.from_bytes(path.read_bytes()[:8], "big")
        except FileNotFoundError:
            if not self._write:
                return 0
            if any(self._folder.glob("*.tab")):
                raise FormatError("ledger.ids.format", "the ID index has lost its secret", where=str(path)) from None
            number = _secret_prime()
            atomic_write(path, number.to_bytes(8, "big"), mode=0o640)
        if number >> 63 != 1 or not _is_prime(number):
            raise FormatError("ledger.ids.format", "the ID index is damaged", where=str(path))
        return number

    def refresh(self) -> None:
        """Open tables that another process has added.

        Raises:
            FormatError: `ledger.ids.format`; delete the folder, it is built again.
        """
        if not self._prime:
            self._prime = self._secret()
        for path in self._folder.glob("*.tab"):
            first = int(path.stem)
            if first not in self._tables:
                with path.open("rb") as file:
                    head = file.read(_HEADER.size)
                magic, bits, number = _HEADER.unpack(head) if len(head) == _HEADER.size else (b"", 0, 0)
                if magic != _MAGIC or not 0 < bits <= _LAST_BITS or number != first:
                    raise FormatError("ledger.ids.format", "an ID table is damaged", where=str(path))
                self._tables[first] = _Table(path, first, bits, write=self._write)

    def close(self) -> None:
        """Unmap the tables."""
        for table in self._tables.values():
            table.close()
        self._tables.clear()

    def _hash(self, names: Iterable[str]) -> list[int]:
        # Shifted by 64 bits the remainder of any two IDs differs in all bits, however alike they are.
        prime, number = self._prime, int.from_bytes
        return [(number(b"\x01" + name.encode(), "big") << 64) % prime for name in names]

    def candidates(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Pairs (position in `names`, index of a leaf that may carry that ID)."""
        if not self._tables:
            return []
        hashes = self._hash(names)
        found: list[tuple[int, int]] = []
        for table in self._tables.values():
            slots, mask, first = table.slots, table.mask, table.first
            seen, bits = table.filter, table.filter_mask >> 3
            for position in [k for k, value in enumerate(hashes) if seen[value >> 35 & bits] >> (value >> 32 & 7) & 1]:
                value = hashes[position]
                mark, start = value >> 32, value & mask
                for slot in chain(range(start, mask + 1), range(start)):
                    held = slots[slot]
                    if not held:
                        break
                    if held >> 32 == mark:
                        found.append((position, first + (held & _LOW) - 1))
        return found

    def insert(self, first: int, names: Sequence[str]) -> None:
        """Put in the IDs of consecutive leaves from `first` on; putting in again changes nothing.

        Raises:
            SystemPartError: a new table cannot be written.
        """
        at = 0
        while at < len(names):
            table = self._table_for(first + at)
            count = min(len(names) - at, table.stop - first - at)
            slots, mask, seen, bits = table.slots, table.mask, table.filter, table.filter_mask
            number = first + at - table.first + 1
            for value in self._hash(names[at : at + count]):
                held = value >> 32 << 32 | number
                mark = value >> 32 & bits
                seen[mark >> 3] |= 1 << (mark & 7)
                slot = value & mask
                while (there := slots[slot]) and there != held:
                    slot = slot + 1 & mask
                slots[slot] = held
                number += 1
            at += count

    def covers(self, size: int) -> bool:
        """Whether there is a table for every leaf below `size`."""
        return size == 0 or (
            bool(self._prime)
            and all(first in self._tables for first, _ in takewhile(lambda place: place[0] < size, _places()))
        )

    def complete(self, size: int) -> bool:
        """Whether every leaf below `size` stands in the tables, once, and is found there; not whether under its ID."""
        import numpy as np

        for first, bits in takewhile(lambda place: place[0] < size, _places()):
            count = min(size - first, 1 << bits)
            table = self._tables[first]
            held = np.array(table.slots)
            numbers = np.sort(held[held != 0] & _LOW)
            numbers = numbers[numbers <= count]  # an integrator may be ahead
            if not np.array_equal(numbers, np.arange(1, count + 1)):
                return False
            marks = (held[held != 0] >> 32) & table.filter_mask
            if not (np.array(table.filter)[marks >> 3] >> (marks & 7) & 1).all():
                return False
        return True

    def _table_for(self, index: int) -> _Table:
        first, bits = next(place for place in _places() if index < place[0] + (1 << place[1]))
        table = self._tables.get(first)
        if table is None:
            path = self._folder / f"{first:020d}.tab"
            beside = path.with_suffix(".tmp")
            with beside.open("wb") as file:
                file.write(_HEADER.pack(_MAGIC, bits, first))
                file.flush()
                # Really allocated: a hole that a full disk cannot fill would end the process by SIGBUS.
                os.posix_fallocate(file.fileno(), 0, _size(bits))
            beside.replace(path)
            fsync_directory(self._folder)
            table = self._tables[first] = _Table(path, first, bits, write=True)
        return table

    def sync(self) -> None:
        """Make the tables durable."""
        for table in self._tables.values():
            table.sync()
