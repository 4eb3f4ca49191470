"""Where things lie: C2SP tlog-tiles paths, and a reader of stored tiles that gives any node's hash."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from secguard.core.errors import FormatError
from secguard.ledger.merkle import HASH_SIZE, fold

__all__ = [
    "BUNDLE",
    "TILE_HEIGHT",
    "TileReader",
    "body_path",
    "bundle_path",
    "format_number",
    "needed_tiles",
    "pack_bundle",
    "parse_number",
    "parse_path",
    "tile_path",
    "unpack_bundle",
]

TILE_HEIGHT = 8
"""Levels of the tree in one tile."""
BUNDLE = 1 << TILE_HEIGHT
"""Hashes in a full tile, entries in a full bundle, events in a full body file."""
_FULL = BUNDLE * HASH_SIZE
_CACHED = 64


def format_number(number: int) -> str:
    """A tile's number as a path: 1234067 -> `x001/x234/067`."""
    groups = [f"{number % 1000:03d}"]
    while number >= 1000:
        number //= 1000
        groups.append(f"x{number % 1000:03d}")
    return "/".join(reversed(groups))


def _partial(width: int) -> str:
    return "" if width == BUNDLE else f".p/{width}"


def tile_path(level: int, number: int, width: int = BUNDLE) -> str:
    """Path of a tile of `width` hashes: `tile/<L>/<N>[.p/<W>]`."""
    return f"tile/{level}/{format_number(number)}{_partial(width)}"


def bundle_path(number: int, width: int = BUNDLE) -> str:
    """Path of an entry bundle: `tile/entries/<N>[.p/<W>]`."""
    return f"tile/entries/{format_number(number)}{_partial(width)}"


def body_path(number: int) -> str:
    """Path of the file with the bodies of a full bundle, below the private `bodies/`."""
    return format_number(number)


def needed_tiles(size: int) -> Iterator[tuple[int, int, int]]:
    """Every tile of a tree of `size` leaves as (level, number, width); empty ones are left out."""
    level = 0
    while size:
        full, rest = divmod(size, BUNDLE)
        for number in range(full):
            yield level, number, BUNDLE
        if rest:
            yield level, full, rest
        size = full
        level += 1


def pack_bundle(commitments: Sequence[bytes]) -> bytes:
    """An entry bundle: each 32-byte entry after its length as a big-endian uint16."""
    return b"".join([b"\x00\x20", b"\x00\x20".join(commitments)]) if commitments else b""


def unpack_bundle(data: bytes, width: int, where: str = "") -> bytes:
    """The joined 32-byte entries of a bundle.

    Raises:
        FormatError: `ledger.bundle.format`: the lengths are not those of `width` commitments.
    """
    lengths = data[0::34] + data[1::34]
    if len(data) != 34 * width or lengths != b"\x00" * width + b"\x20" * width:
        raise FormatError("ledger.bundle.format", f"not a bundle of {width} commitments", where=where)
    return b"".join([data[i + 2 : i + 34] for i in range(0, len(data), 34)])


def parse_number(text: str) -> int | None:
    """The tile number that a path as `format_number` makes it stands for, or None."""
    groups = text.split("/")
    digits = "".join(part.removeprefix("x") for part in groups)
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else -1
    return number if number >= 0 and format_number(number) == text else None


def parse_path(text: str) -> tuple[int, int, int] | None:
    """(level, number, width) of a path below `public`; level -1 is an entry bundle; None if it is no tile's."""
    parts = text.split("/", 2)
    if len(parts) < 3 or parts[0] != "tile":
        return None
    place, found, width = parts[2].partition(".p/")
    number = parse_number(place)
    level = -1 if parts[1] == "entries" else int(parts[1]) if parts[1].isdigit() and len(parts[1]) < 3 else -2
    count = int(width) if width.isdigit() and len(width) < 4 else BUNDLE
    if number is None or level < -1 or not 0 < count <= BUNDLE or (found and not 0 < count < BUNDLE):
        return None
    made = bundle_path(number, count) if level < 0 else tile_path(level, number, count)
    return (level, number, count) if made == text else None


class TileReader:
    """Reads node hashes from the tiles of a tree of a given size; keeps the latest tiles, folded, in memory."""

    def __init__(self, root: Path, size: int) -> None:
        self._root = root
        self.size = size
        self._cache: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()

    def tile(self, level: int, number: int) -> bytes:
        """The hashes of a tile as this tree's size needs it.

        Raises:
            FormatError: `ledger.tile.missing` or `ledger.tile.format`.
        """
        width = min(BUNDLE, (self.size >> TILE_HEIGHT * level) - number * BUNDLE)
        candidates = [BUNDLE] if width == BUNDLE else [width, BUNDLE]
        for candidate in candidates:
            path = self._root / tile_path(level, number, candidate)
            try:
                data = path.read_bytes()
            except OSError:
                continue
            if len(data) != candidate * HASH_SIZE:
                raise FormatError("ledger.tile.format", f"a tile of {len(data)} bytes", where=str(path))
            return data[: width * HASH_SIZE]
        name = tile_path(level, number, width)
        raise FormatError("ledger.tile.missing", "a tile of the log is missing", where=str(self._root / name))

    def node(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree of 2^level leaves with the given index (a `merkle.Nodes`)."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        number, slot = divmod(index, BUNDLE >> height)
        rows = self._cache.get((tile_level, number))
        if rows is None:
            rows = [self.tile(tile_level, number)]
            self._cache[tile_level, number] = rows
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        while len(rows) <= height:
            rows.append(fold(rows[-1]))
        return rows[height][slot * HASH_SIZE : (slot + 1) * HASH_SIZE]
