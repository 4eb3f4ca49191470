"""Checks the directory of SQLite's full-text lists: where a search starts to read.

FTS5 keeps words in sorted leaf pages, and in `words_idx`, for each page, a term that is greater than all words of the
page before and not greater than the page's first. SQLite's own integrity check reads the pages one after the other,
so it passes when directory rows were deleted or changed, and then searches find nothing (fts5_index.c, "%_idx").
"""

import sqlite3
from collections.abc import Iterator
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

__all__ = ["directory_is_sound"]

_HEIGHT_BITS, _PAGE_BITS = 5, 31
_SEGMENT_SHIFT = _PAGE_BITS + _HEIGHT_BITS + 1  # a bit for doclist indexes between
_LEAVES = 1 << _SEGMENT_SHIFT  # smaller row numbers are the structure and the averages


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


def _terms(data: bytes) -> tuple[bytes, bytes]:
    """First and last term that begin on a leaf page; empty where none does."""
    at = int.from_bytes(data[2:4], "big")  # the page's own directory of terms
    first = term = b""
    place = 0
    while at < len(data):
        step, at = _varint(data, at)
        start = place + step
        shared, begin = (0, start) if not place else _varint(data, start)
        length, begin = _varint(data, begin)
        term = term[:shared] + data[begin : begin + length]
        first = first or term
        place = start
    return first, term


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


def _segments(db: sqlite3.Connection) -> Iterator[tuple[int, list[_Page]]]:
    mask = (1 << _SEGMENT_SHIFT) - 1
    query = "SELECT id, block FROM words_data WHERE id >= ? AND id & ? < ? ORDER BY id"
    leaves = db.execute(query, (_LEAVES, mask, 1 << _PAGE_BITS))
    pages = ((place >> _SEGMENT_SHIFT, _Page(place & mask, *_terms(block))) for place, block in leaves)
    for segment, found in groupby(pages, itemgetter(0)):
        yield segment, [page for _, page in found]


def directory_is_sound(db: sqlite3.Connection) -> bool:
    """Whether searches reach all words that the leaf pages of the table `words` hold.

    Raises:
        sqlite3.Error: the tables cannot be read.
    """
    rows: dict[int, list[tuple[int, bytes]]] = {}
    # A term of another type would sort elsewhere than its bytes do.
    directory = db.execute("SELECT segid, iif(typeof(term) = 'blob', term, NULL), pgno >> 1 FROM words_idx")
    for segment, term, place in directory:
        rows.setdefault(segment, []).append((place, term))
    try:
        return all(_sound(pages, rows.get(segment, [])) for segment, pages in _segments(db))
    except (IndexError, TypeError):  # a page is cut off, or something is no bytes
        return False
