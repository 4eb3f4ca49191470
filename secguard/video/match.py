"""Match what is in a stream with what was signed: every slice gets its SEI and its place in the hash list.

An untouched stream costs one comparison a GOP. Only where that fails, hashes are looked up one by one: first as they
stand, then under the anchor that was signed (a changed first slice changes the anchor of its whole GOP), and what
remains is placed between its neighbours. A longest common subsequence then tells changed, missing, repeated, moved
and foreign slices apart.
"""

import hashlib
import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from secguard.video.hashing import Hashed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]

__all__ = ["CHANGED", "FOREIGN", "INTACT", "MOVED", "REPEATED", "UNSIGNED", "Match", "Unit", "common", "match"]

INTACT, CHANGED, FOREIGN, REPEATED, MOVED, UNSIGNED = range(6)
"""What a slice turned out to be."""

_TRIED = 8  # SEIs tried for a run of slices that no list knows as it stands
_NEAR = 8  # slices that a claim without a list is looked for before and behind its place
_MAX_TRIES = 100_000  # of those, in all
_MAX_PARTS = 256  # parts of GOPs looked at for a run
_MAX_PAIRS = 4_000_000  # pairs that one alignment may look at


@dataclass(slots=True)
class Unit:
    """One SEI's claim: a (partial) GOP.

    Attributes:
        hashes: its list, concatenated; empty in low-bitrate mode.
        gop_hash: hash over the list.
        link_hash: first hash of the claim before.
        count: slices it claims.
        continues: it goes on with the GOP of the claim before.
        skipped: running numbers left out before it: claims that the stream lost.
        anchor: H(I) of its GOP as signed; empty if no list tells it.
        first, stop: the slices it was found to cover, when they are all in place.
        exact: they are.
    """

    hashes: bytes
    gop_hash: bytes
    link_hash: bytes
    count: int
    continues: bool = False
    skipped: int = 0
    anchor: bytes = b""
    first: int = -1
    stop: int = -1
    exact: bool = False


@dataclass(slots=True)
class Match:
    """The outcome, by slice and by claim.

    Attributes:
        unit: claim of each hashable unit, -1 for none.
        state: what each is: `INTACT`, `CHANGED`, ...
        missing: places in the list of each claim that nothing in the stream fills, with the slice they come after.
    """

    unit: "Int64s"
    state: "NDArray[np.int8]"
    missing: dict[int, list[tuple[int, int]]] = field(default_factory=dict)


class _Matcher:
    def __init__(self, hashed: Hashed, units: Sequence[Unit]) -> None:
        self.hashed = hashed
        self.units = units
        self.width = hashed.width
        self.count = len(hashed)
        self.unit = np.full(self.count, -1, dtype=np.int64)
        self.known: dict[bytes, list[tuple[int, int]]] = {}
        self.places: dict[int, list[int]] = {}
        self.leads = np.flatnonzero(hashed.leads).tolist()
        self.heads: dict[int, dict[bytes, int]] = {}
        self.tries = 0

    def linked(self, index: int) -> bytes:
        return self.hashed.linked[index * self.width : (index + 1) * self.width]

    def plain(self, index: int) -> bytes:
        return self.hashed.plain[index * self.width : (index + 1) * self.width]

    def size(self, unit: Unit) -> int:
        return len(unit.hashes) // self.width if unit.hashes else unit.count

    def fits(self, unit: Unit, start: int) -> bool:
        size = self.size(unit)
        if start + size > self.count or size == 0:
            return False
        piece = self.hashed.linked[start * self.width : (start + size) * self.width]
        if unit.hashes:
            return piece == unit.hashes
        return hashlib.new(self.hashed.name, piece).digest() == unit.gop_hash

    def exact(self) -> None:
        """Claims whose slices stand together, complete and in order: by a cursor, else by their first hash."""
        cursor = expected = 0
        starts: dict[bytes, list[int]] = {}
        whole: dict[bytes, int] = {}
        for number, unit in enumerate(self.units):
            tried = (cursor, expected) if expected != cursor else (cursor,)
            place = next((at for at in tried if self.fits(unit, at) and self.free(at, self.size(unit))), -1)
            if place < 0:
                if not starts:
                    starts, whole = self.index()
                found = starts.get(unit.hashes[: self.width], ()) if unit.hashes else self.near(unit, expected, whole)
                place = next(
                    (at for at in found[:_TRIED] if self.fits(unit, at) and self.free(at, self.size(unit))), -1
                )
            if place >= 0:
                unit.first, unit.stop, unit.exact = place, place + self.size(unit), True
                self.unit[unit.first : unit.stop] = number
                cursor = expected = unit.stop
            else:
                expected += self.size(unit)

    def near(self, unit: Unit, expected: int, whole: dict[bytes, int]) -> list[int]:
        """Where the slices of a claim without a list may begin: at a GOP's first slice, or about where they should."""
        found = whole.get(unit.gop_hash, -1)
        if found < 0:
            found = self.heads_of(unit.count).get(unit.gop_hash, -1)
        if found >= 0:
            return [found]
        for step in range(1, _NEAR + 1):
            for at in (expected - step, expected + step):
                self.tries += 1
                if self.tries < _MAX_TRIES and at >= 0 and self.fits(unit, at):
                    return [at]
        return []

    def heads_of(self, size: int) -> dict[bytes, int]:
        """Hashes over so many slices from each place on where a GOP begins."""
        if size not in self.heads and len(self.heads) < _TRIED:
            heads = self.heads[size] = {}
            for lead in self.leads:
                piece = self.hashed.linked[lead * self.width : (lead + size) * self.width]
                heads.setdefault(hashlib.new(self.hashed.name, piece).digest(), lead)
        return self.heads.get(size, {})

    def free(self, start: int, size: int) -> bool:
        return bool((self.unit[start : start + size] < 0).all())

    def index(self) -> tuple[dict[bytes, list[int]], dict[bytes, int]]:
        starts: dict[bytes, list[int]] = {}
        for at in range(self.count):
            starts.setdefault(self.linked(at), []).append(at)
        whole: dict[bytes, int] = {}
        borders = [*self.leads, self.count]
        for number in range(len(self.leads)):
            while borders[number] and self.hashed.own[borders[number] - 1]:
                borders[number] -= 1  # unsigned SEIs stand before the slice that begins a GOP, or end the one before
        for rows in (borders, [*self.leads, self.count]):
            for start, end in itertools.pairwise(rows):
                piece = self.hashed.linked[start * self.width : end * self.width]
                whole.setdefault(hashlib.new(self.hashed.name, piece).digest(), start)
        return starts, whole

    def anchors(self) -> None:
        """The signed H(I) of each claim's GOP: the first hash of its list, or the anchor of the claim before."""
        before = b""
        width = self.width
        own = {self.plain(at) for at in np.flatnonzero(self.hashed.own).tolist()}
        for unit in self.units:
            if not unit.continues:
                # An unsigned SEI may stand before the slice that begins the GOP.
                listed = (unit.hashes[at : at + width] for at in range(0, len(unit.hashes), width))
                before = next((item for item in listed if item not in own), b"")
            unit.anchor = before

    def look_up(self) -> None:
        """Slices that some list holds as they stand."""
        for number, unit in enumerate(self.units):
            for place in range(len(unit.hashes) // self.width):
                key = unit.hashes[place * self.width : (place + 1) * self.width]
                self.known.setdefault(key, []).append((number, place))
        previous = -1
        for at in range(self.count):
            if self.unit[at] < 0:
                found = self.known.get(self.linked(at), ())
                if found:
                    number = previous if any(item[0] == previous for item in found) else found[0][0]
                    self.unit[at] = number
                    self.places[at] = [place for item, place in found if item == number]
            previous = int(self.unit[at])

    def runs(self) -> list[tuple[int, int]]:
        """Stretches of slices without a claim."""
        bare = np.concatenate(([False], self.unit < 0, [False]))
        edges = np.flatnonzero(bare[1:] != bare[:-1])
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

    def neighbours(self, start: int, stop: int) -> tuple[int, int, list[int]]:
        """The claims around a run, and those between them that nothing in the stream fills yet."""
        before = int(self.unit[start - 1]) if start else -1
        after = int(self.unit[stop]) if stop < self.count else len(self.units)
        filled = set(np.unique(self.unit).tolist())
        between: list[int] = []
        gops = 0
        for number in range(before + 1, min(after, before + 1 + _MAX_PARTS)):
            if number not in filled:
                gops += not self.units[number].continues
                if gops > _TRIED:  # parts of one GOP are tried together: they share the anchor
                    break
                between.append(number)
        return before, after, between

    def try_anchors(self) -> None:
        """Slices that a list holds under the anchor that was signed.

        In a still scene, pictures of neighbouring GOPs are the same to the byte: a GOP goes to the claim that knows
        most of it, and only what that claim does not know is asked of the others.
        """
        for start, stop in self.runs():
            before, after, between = self.neighbours(start, stop)
            candidates = [n for n in dict.fromkeys((before, *between, after)) if 0 <= n < len(self.units)]
            for low, high in itertools.pairwise(sorted({start, *(at for at in self.leads if start < at < stop), stop})):
                found = self.under_anchors(candidates, low, high)
                for number in sorted(candidates, key=lambda n: -len(found[n])):
                    for at, places in found[number].items():
                        if self.unit[at] < 0:
                            self.unit[at] = number
                            self.places[at] = places

    def under_anchors(self, candidates: Sequence[int], start: int, stop: int) -> dict[int, dict[int, list[int]]]:
        """Slices of a stretch that claims' lists hold under their signed anchor, with their places in each list."""
        held: dict[int, dict[int, list[int]]] = {number: {} for number in candidates}
        anchors: dict[bytes, set[int]] = {}
        for number in candidates:
            if self.units[number].anchor:
                anchors.setdefault(self.units[number].anchor, set()).add(number)
        make = getattr(hashlib, self.hashed.name)
        for at in range(start, stop):
            plain = self.plain(at)
            for anchor, numbers in anchors.items():
                for key in (make(anchor + plain).digest(), plain):
                    for number, place in self.known.get(key, ()):
                        if number in numbers:
                            held[number].setdefault(at, []).append(place)
        return held

    def smooth(self) -> None:
        """A lone slice of another claim in the middle of one belongs, as a stranger, to where it stands."""
        for at in range(1, self.count - 1):
            around = self.unit[at - 1]
            lone = around >= 0 and around == self.unit[at + 1] and self.unit[at] not in {around, -1}
            if lone and not self.units[int(self.unit[at])].exact:
                self.places.pop(at, None)
                self.unit[at] = around

    def fill(self) -> None:
        """What no list knows goes to the claim whose slices are missing at this place."""
        for start, stop in self.runs():
            before, after, between = self.neighbours(start, stop)
            if before == after:
                self.unit[start:stop] = before
                continue
            heads = [at for at in self.leads if start <= at < stop]
            low, high = start, stop
            if before >= 0:
                room = min(self.behind(before), (heads[0] if heads else stop) - start)
                self.unit[start : start + room] = before
                low = start + room
            if after < len(self.units):
                # Where a claim was lost, what begins a GOP is that claim's, not the beginning of the next one.
                whole = self.units[after].skipped > 0 and heads and heads[0] == low
                room = 0 if whole else min(self.ahead(after), high - low)
                self.unit[high - room : high] = after
                high -= room
            if low == high:
                continue
            borders = sorted({low, *(at for at in heads if low <= at < high), high})
            pieces = list(itertools.pairwise(borders))
            # A piece that the next claim links to is the GOP before it: its own SEI is gone, not this one's pictures.
            for number in between:
                if not pieces:
                    break
                linked = [n for n, piece in enumerate(pieces) if self.linked(piece[0]) == self.units[number].link_hash]
                del pieces[: max(linked[-1] + 1 if linked else 0, min(self.units[number].skipped, len(pieces)))]
                if pieces:
                    begin, end = pieces.pop(0)
                    self.unit[begin:end] = number
            if pieces and before >= 0 and after < len(self.units) and pieces[0][0] == low and low not in heads:
                self.unit[pieces[0][0] : pieces[0][1]] = before

    def behind(self, number: int) -> int:
        """Places missing at the end of a claim."""
        if self.units[number].exact:
            return 0
        held = [max(self.places[at]) for at in np.flatnonzero(self.unit == number).tolist() if at in self.places]
        return self.size(self.units[number]) - 1 - max(held, default=-1)

    def ahead(self, number: int) -> int:
        """Places missing at the beginning of a claim."""
        if self.units[number].exact:
            return 0
        held = [min(self.places[at]) for at in np.flatnonzero(self.unit == number).tolist() if at in self.places]
        return min(held, default=self.size(self.units[number]))

    def judge(self) -> Match:
        """Tell what each slice is, claim by claim."""
        state = np.full(self.count, UNSIGNED, dtype=np.int8)
        result = Match(self.unit, state)
        order = np.argsort(self.unit, kind="stable")
        borders = np.searchsorted(self.unit[order], np.arange(len(self.units) + 1))
        for number, unit in enumerate(self.units):
            slices = order[borders[number] : borders[number + 1]].tolist()
            if unit.exact and len(slices) == unit.stop - unit.first:
                state[unit.first : unit.stop] = INTACT
            else:
                self._align(number, unit, slices, result)
        return result

    def _align(self, number: int, unit: Unit, slices: list[int], result: Match) -> None:
        size = self.size(unit)
        options: list[Sequence[int]] = []
        for at in slices:
            if unit.exact and unit.first <= at < unit.stop:
                options.append((at - unit.first,))
            else:
                options.append(self.places.get(at, ()))
        if unit.exact:
            pairs = [(position, at - unit.first) for position, at in enumerate(slices) if unit.first <= at < unit.stop]
        else:
            pairs = common(options)
        taken = {place for _, place in pairs}
        present = {place for places in options for place in places}
        for position, _ in pairs:
            result.state[slices[position]] = INTACT
        missing: list[tuple[int, int]] = []
        ends = [(-1, -1), *pairs, (len(slices), size)]
        for (from_position, from_place), (to_position, to_place) in itertools.pairwise(ends):
            strangers = []
            for position in range(from_position + 1, to_position):
                places = options[position]
                if not places:
                    strangers.append(slices[position])
                else:
                    again = any(place in taken for place in places)
                    result.state[slices[position]] = REPEATED if again else MOVED
            gaps = [place for place in range(from_place + 1, to_place) if place not in present]
            for at, _ in zip(strangers, gaps, strict=False):
                result.state[at] = CHANGED
            for at in strangers[len(gaps) :]:
                result.state[at] = FOREIGN
            after = slices[to_position - 1] if 0 < to_position <= len(slices) else -1
            missing += [(place, after) for place in gaps[len(strangers) :]]
        if missing and slices:
            result.missing[number] = missing
        elif missing:
            result.missing[number] = [(place, -1) for place, _ in missing]


def common(options: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Longest strictly increasing choice of one place a slice (Hunt and Szymanski, 1977): (position, place) pairs."""
    tails: list[int] = []
    links: list[tuple[int, int, int]] = []  # position, place, link before
    heads: list[int] = []
    work = 0
    for position, places in enumerate(options):
        for place in sorted(set(places), reverse=True):
            work += 1
            if work > _MAX_PAIRS:
                break
            rank = bisect_left(tails, place)
            links.append((position, place, heads[rank - 1] if rank else -1))
            if rank == len(tails):
                tails.append(place)
                heads.append(len(links) - 1)
            elif place < tails[rank]:  # of equal ones the first stays: a copy comes after what it copies
                tails[rank] = place
                heads[rank] = len(links) - 1
    chosen = []
    at = heads[-1] if heads else -1
    while at >= 0:
        position, place, at = links[at]
        chosen.append((position, place))
    return chosen[::-1]


def match(hashed: Hashed, units: Sequence[Unit]) -> Match:
    """Match a hashed stream with claims, which are in the order they were signed in.

    Sets `first`, `stop` and `exact` of each unit that is complete and in place.
    """
    matcher = _Matcher(hashed, units)
    matcher.exact()
    if (matcher.unit < 0).any() or not all(unit.exact for unit in units):
        matcher.anchors()
        matcher.look_up()
        matcher.try_anchors()
        matcher.smooth()
        matcher.fill()
    return matcher.judge()
