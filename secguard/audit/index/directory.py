"""Checks the directory of SQLite's full-text lists: where a search starts to read.

FTS5 keeps the words of the table `words` in sorted leaf pages, and in `words_idx`, for each page, a term that is
greater than all words of the page before and not greater than the page's first. SQLite's own integrity check reads the
pages one after the other, so it passes when directory rows were deleted or changed, and then searches find nothing
(fts5_index.c, "%_idx").
"""

import sqlite3
from collections.abc import Iterator
from itertools import accumulate, groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

__all__ = ["directory_is_sound"]

_HEIGHT_BITS, _PAGE_BITS = 5, 31
_SEGMENT_SHIFT = _PAGE_BITS + _HEIGHT_BITS + 1  # a bit for doclist indexes between
_LEAVES = 1 << _SEGMENT_SHIFT  # smaller row numbers are the structure and the averages
_AT_LEAST = [bytes(range(low, 256)) for low in range(0x81)]
"""First bytes of the numbers that are not smaller; numbers of 128 and more have two bytes."""


class _Page(NamedTuple):
    number: int
    first: bytes
    last: bytes


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for count in range(9):
        byte = data[at + count]
        if count == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + count + 1
    raise AssertionError


def _starts(footer: bytes) -> list[int]:
    """Where the terms of a page begin: each number counts from the one before."""
    if max(footer) < 0x80:
        return list(accumulate(footer))
    starts, place, at = [], 0, 0
    while at < len(footer):
        step, at = _varint(footer, at)
        place += step
        starts.append(place)
    return starts


def _terms(data: bytes) -> tuple[bytes, bytes]:
    """First and last term that begin on a leaf page; empty where none does."""
    footer = data[int.from_bytes(data[2:4], "big") :]
    if not footer:
        return b"", b""
    begin, *others = _starts(footer)
    length, begin = _varint(data, begin)
    first = data[begin : begin + length]
    # A term is what it shares with the one before, and the rest: read the last one from its end to its beginning, from
    # the terms that share less than is still wanted.
    wanted, last = 0 if others else len(first), b""
    shares = bytes(map(data.__getitem__, others))
    while shares:
        shared, at = _varint(data, others[len(shares) - 1])
        length, at = _varint(data, at)
        if not last:
            wanted = shared + length
        if shared < wanted:
            last = data[at : at + wanted - shared] + last
            wanted = shared
        shares = shares[:-1].rstrip(_AT_LEAST[wanted] if wanted < len(_AT_LEAST) else b"")
    return first, first[:wanted] + last


def _sound(pages: list[_Page], rows: list[tuple[int, bytes]]) -> bool:
    """Whether every word of a segment is found from the directory's rows (page, term)."""
    begun = [page for page in pages if page.first]  # on the others a long list of the page before goes on
    if not begun:
        return False
    # Rows of pages before the first one are left over from merges; all lead to the first.
    bounds = {page.number: (before.last, page.first) for before, page in pairwise(begun)}
    start = pages[0]
    for number, term in rows:
        if number <= start.number:
            if term > start.first:
                return False
        elif number not in bounds or not bounds[number][0] < term <= bounds[number][1]:
            return False
    return bounds.keys() <= {number for number, _ in rows}


def _segments(db: sqlite3.Connection, table: str) -> Iterator[tuple[int, list[_Page]]]:
    mask = (1 << _SEGMENT_SHIFT) - 1
    query = f"SELECT id, block FROM {table}_data WHERE id >= ? AND id & ? < ? ORDER BY id"  # noqa: S608 - our own constant
    leaves = db.execute(query, (_LEAVES, mask, 1 << _PAGE_BITS))
    pages = ((place >> _SEGMENT_SHIFT, _Page(place & mask, *_terms(block))) for place, block in leaves)
    for segment, found in groupby(pages, itemgetter(0)):
        yield segment, [page for _, page in found]


def directory_is_sound(db: sqlite3.Connection, table: str) -> bool:
    """Whether searches reach all words that the leaf pages of a full-text table hold.

    Args:
        db: the database.
        table: the table's name, one of ours.

    Raises:
        sqlite3.Error: the tables cannot be read.
    """
    rows: dict[int, list[tuple[int, bytes]]] = {}
    # A term of another type would sort elsewhere than its bytes do.
    query = f"SELECT segid, iif(typeof(term) = 'blob', term, NULL), pgno >> 1 FROM {table}_idx"  # noqa: S608 - as above
    directory = db.execute(query)
    for segment, term, place in directory:
        rows.setdefault(segment, []).append((place, term))
    try:
        return all(_sound(pages, rows.get(segment, [])) for segment, pages in _segments(db, table))
    except (IndexError, TypeError):  # a page is cut off, or something is no bytes
        return False
