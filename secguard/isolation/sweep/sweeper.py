"""An agent's part in the sweeps: it sends its pieces of each round, hears the others', answers, and keeps what it saw.

A round: beacons - the agent's pieces, attempt by attempt - (the controller waits for all agents) - beacons - keep. The
wire's own thread hears meanwhile.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from secguard.core.errors import FormatError
from secguard.isolation.agent.phases import beacon
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.sweeps import KINDS, Piece, rounds
from secguard.isolation.plan.tokens import Kind
from secguard.isolation.probes import headers
from secguard.isolation.probes.columns import fill_columns
from secguard.isolation.sweep.hearing import Ear
from secguard.isolation.sweep.journal import Journal, Record, Slice
from secguard.isolation.sweep.seen import Round, Swept, SweptColumns, pack, unpack
from secguard.isolation.wire import wire

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Sweeper"]

_BATCH = 32_768
_LOOK = 0.002
_PHASE = 2 << 8
_AHEAD = 2  # attempts of the first round whose frames are made before its start order: some megabytes each
_APART = 0.03  # seconds at least between two attempts of a probe
_QUIET = 0.02  # seconds without a frame of ours after which a round has settled
_SETTLE = 1.0
_MARK_TRIES = 20
_MARK_WAIT = 0.05
_TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}


class Sweeper:
    """The sweeps of a session, from the first round to the report."""

    def __init__(self, session: Session, state: Path | None = None) -> None:
        """Get ready: routes to the targets, and what an earlier life kept in `state`.

        Raises:
            SecguardError: raw sockets are not allowed, or `state` belongs to another run.
        """
        self.session = session
        self.plan = session.plan
        self.rounds = rounds(self.plan.sweeps, self.plan.attempts, self.plan.rate)
        self.ear = Ear(self.plan, session.me, session.sensor.hear)
        self.done: dict[int, Round] = {}
        self._heard: dict[int, NDArray[np.uint16]] = {}  # by an earlier life; a round sent again is no replay
        self._round: Round | None = None
        self._ahead: dict[tuple[int, int], list[NDArray[np.uint8]]] = {}
        self._drops = 0
        self._reported = (0, 0)  # repeated, packets: of the last record
        self._answering = self._answerable()
        self._journal: Journal | None = None
        if state is not None:
            self._journal = Journal(state, session.digest, session.info.name)
            self._resume(self._journal)
        self._hops = self._routes()

    # Getting ready.

    def _routes(self) -> dict[int, bytes]:
        """The link-layer header that each own sweep's frames begin with; a sweep without a next hop has none."""
        found: dict[int, bytes] = {}
        known: dict[tuple[str, int], bytes] = {}
        for index, sweep in enumerate(self.plan.sweeps):
            if sweep.src != self.session.me:
                continue
            key = (sweep.cidr, sweep.family)
            if key not in known:
                source = self.session.info.address(sweep.family)
                hops = {
                    way.hop if way and way.interface == self.session.wire.interface.name else ""
                    for way in (wire.route(text, source) for text in {sweep.ranges[0][0], sweep.ranges[-1][1]})
                }
                hop = next(iter(hops)) if len(hops) == 1 else ""
                known[key] = self._header(hop, sweep.family)
                if not known[key]:
                    near = {sweep.ranges[0][0], sweep.ranges[-1][1]} <= hops
                    why = (
                        "it is on this agent's own link, behind no router"
                        if near
                        else "no single next hop that answers"
                    )
                    self.session.problems.append(f"{sweep.cidr} is not swept: {why}")
            if known[key]:
                found[index] = known[key]
        return found

    def _header(self, hop: str, family: int) -> bytes:
        mac = self.session.sensor.neighbours.get(headers.packed(hop)) if hop else None
        return mac + self.session.wire.interface.mac + _TYPES[family] if mac else b""

    def _answerable(self) -> set[int]:
        """Sweeps whose UDP probes are for addresses of this very host: those it answers, as the kernel would TCP."""
        found = set()
        for index, sweep in enumerate(self.plan.sweeps):
            if sweep.protocol == "udp" and self.session.me in sweep.hearing and wire.is_local(sweep.ranges[0][0]):
                found.add(index)
        return found

    def _resume(self, journal: Journal) -> None:
        import numpy as np

        for record in journal.records:
            if not 0 <= record.round.number < len(self.rounds):
                continue
            self.done[record.round.number] = record.round
            self.ear.repeated += record.repeated
            self.ear.kept.packets += record.packets
            for item in record.slices:
                if not 0 <= item.sweep < len(self.plan.sweeps):
                    continue
                size = self.plan.sweeps[item.sweep].size
                if not 0 <= item.first < item.last <= size:
                    continue
                for arrays, data, kind in (
                    (self.ear.left, item.left, "u1"),
                    (self.ear.answers, item.answers, "u1"),
                    (self._heard, item.heard, "<u2"),
                ):
                    if data:
                        part = unpack(data, item.last - item.first, kind)
                        if item.sweep not in arrays:
                            arrays[item.sweep] = np.zeros(size, kind)
                        arrays[item.sweep][item.first : item.last] = part
        self._reported = self.ear.repeated, len(self.ear.kept.packets)

    # Rounds.

    def hear(self) -> None:
        """Hear the others' sweeps from here on: before the first of them may send. What we send first is made ready."""
        self.session.wire.blocks = self.ear.hear
        first = next((number for number in range(len(self.rounds)) if number not in self.done), None)
        if first is not None:
            for attempt in range(min(_AHEAD, self.plan.attempts)):
                self._ahead[first, attempt] = self._build(first, attempt)

    def round(self, number: int) -> None:
        """Send this agent's pieces of a round; the round goes on, and is heard, until `keep`."""
        sender = self.session.wire.sender
        self.session.wire.blocks = self.ear.hear
        self.session.sensor.phase = 2
        self._drops = self.session.wire.drops
        self._round = Round(number=number, began=time.time_ns())
        self._clear(number)
        self._mark(0)
        began = -math.inf
        for attempt in range(self.plan.attempts):
            frames = self._ahead.pop((number, attempt), None) or self._build(number, attempt)
            if frames:
                self.pump(began + _APART - time.monotonic())
            began = time.monotonic()
            for rows in frames:
                sent = sender.send(rows, self.plan.rate, meanwhile=self.pump)
                self._round.sent += sent.sent
                self._round.refused += sent.offered - sent.sent
        self.pump()

    def _build(self, number: int, attempt: int) -> "list[NDArray[np.uint8]]":
        """The frames of one attempt of a round: some megabytes."""
        pieces = [piece for piece in self.rounds[number].get(self.session.me, []) if piece.sweep in self._hops]
        return [rows for piece in pieces for rows in self._frames(piece, attempt)]

    def _clear(self, number: int) -> None:
        """Forget what an earlier try of a round showed of our own probes: they are sent anew.

        What arrived here stays, from whichever try: others may be sending already.
        """
        for piece in self.rounds[number].get(self.session.me, ()):
            for arrays in (self.ear.left, self.ear.answers):
                if piece.sweep in arrays:
                    arrays[piece.sweep][piece.first : piece.last] = 0

    def _frames(self, piece: Piece, attempt: int) -> Iterator["NDArray[np.uint8]"]:
        """The frames of a piece, in an order that spreads hosts and ports."""
        import numpy as np

        sweep, grid = self.plan.sweeps[piece.sweep], self.ear.grids[piece.sweep]
        names = KINDS[sweep.protocol]
        form = self.plan.templates[f"{names[attempt % len(names)]}/{sweep.family}"]
        count = piece.last - piece.first
        order = np.arange(count, dtype=np.int64) * _stride(count) % count + piece.first
        source = headers.packed(self.session.info.address(sweep.family))
        for at in range(0, count, _BATCH):
            numbers = order[at : at + _BATCH]
            cases = numbers + sweep.start
            tokens = None
            if form.token >= 0:
                tokens = self.session.tokens.make_columns(Kind.PROBE, cases, _PHASE | attempt)
            yield fill_columns(
                form,
                len(numbers),
                {len(source): (source, grid.hosts_of(numbers))},
                tokens,
                sport=sweep.sport,
                dport=grid.ports_of(numbers),
                isn=self.session.tokens.hint_columns(cases) if sweep.protocol == "tcp" else 0,
                ident=(cases * 16 + attempt * 4 + 2) & 0xFFFF,
                link=self._hops[piece.sweep],
            )

    def pump(self, seconds: float = 0.0) -> None:
        """Answer what arrived; for some seconds, or once."""
        end = time.monotonic() + seconds
        while True:
            if self.ear.arrived:
                self._answer()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_LOOK, left))

    def _answer(self) -> None:
        """Answer the UDP probes that arrived here: tells one way from both ways, whatever the host's limits."""
        while self.ear.arrived:
            index, numbers, attempt = self.ear.arrived.popleft()
            if index not in self._answering:
                continue
            sweep, grid = self.plan.sweeps[index], self.ear.grids[index]
            there = self.plan.agents[sweep.src].address(sweep.family)
            link = self._header(self.session.hop.get(there, ""), sweep.family)
            if not link:
                continue
            cases = numbers + sweep.start
            packed = headers.packed(there)
            rows = fill_columns(
                self.plan.templates[f"udp/{sweep.family}"],
                len(numbers),
                {len(packed): (grid.hosts_of(numbers), packed)},
                self.session.tokens.make_columns(Kind.REPLY_CLOSED, cases, _PHASE | attempt),
                sport=grid.ports_of(numbers),
                dport=sweep.sport,
                ident=cases & 0xFFFF,
                link=link,
            )
            self.session.wire.sender.send(rows, self.plan.rate)

    def _mark(self, shift: int) -> None:
        """Ask next hops and beacons until each family answered; the bits say who did."""
        assert self._round is not None
        sensor = self.session.sensor
        beat = (2 * self._round.number + (shift > 0)) % 255 + 1
        if self.session.info.interface:
            self._overhear(beat, shift, self._round)
            return
        families = [family for family, targets in self.session.beacon_targets.items() if targets]
        before = {family: (sensor.beacons[family].neighbour[1], sensor.beacons[family].heard[1]) for family in families}

        def bits(family: int) -> int:
            item = sensor.beacons[family]
            return (item.neighbour[1] > before[family][0]) | (item.heard[1] > before[family][1]) << 1

        for _ in range(_MARK_TRIES):
            beacon(self.session, 2, beat)
            end = time.monotonic() + _MARK_WAIT
            while time.monotonic() < end and any(bits(family) != 3 for family in families):
                self.pump(0.005)
            if all(bits(family) == 3 for family in families):
                break
        for family in families:
            self._round.marks[str(family)] = self._round.marks.get(str(family), 0) | bits(family) << shift

    def _overhear(self, beat: int, shift: int, this: Round) -> None:
        """A sensor without an address asks nobody: it has to hear what an agent of its zone asks in this very round."""
        heard, zone = self.session.sensor.beats, self.session.info.zone
        near = [agent for agent in self.plan.agents if agent.zone == zone]
        families = {family for family in (4, 6) if any(agent.address(family) for agent in near)}
        end = time.monotonic() + _MARK_TRIES * _MARK_WAIT
        while time.monotonic() < end and not all((family, beat) in heard for family in families):
            self.pump(0.005)
        for family in families:
            if (family, beat) in heard:
                this.marks[str(family)] = this.marks.get(str(family), 0) | 3 << shift
        if shift:
            heard.clear()

    def keep(self) -> Round:
        """End the round: let answers come in, prove health once more, and write down what was seen.

        Raises:
            FormatError: no round was begun.
            SystemPartError: it cannot be written down.
        """
        if self._round is None:
            raise FormatError("isolation.control.round", "no round of sweeps was begun")
        end = time.monotonic() + _SETTLE
        quiet = time.monotonic() + _QUIET
        while time.monotonic() < min(end, quiet):
            before = self.ear.active
            self.pump(0.005)
            if self.ear.active != before:
                quiet = time.monotonic() + _QUIET
        self._mark(2)
        self._round.drops = self.session.wire.drops - self._drops
        self._round.ended = time.time_ns()
        done, self._round = self._round, None
        self.done[done.number] = done
        if self._journal is not None:
            repeated, packets = self._reported
            # Stragglers of the round before may have come in: it is written down once more.
            numbers = [number for number in (done.number - 1, done.number) if number >= 0]
            slices = [item for number in numbers for pieces in self.rounds[number].values() for item in pieces]
            record = Record(
                done, list(map(self._slice, slices)), self.ear.repeated - repeated, self.ear.kept.packets[packets:]
            )
            self._journal.append(record)
            self._reported = self.ear.repeated, len(self.ear.kept.packets)
        return done

    def _slice(self, piece: Piece) -> Slice:
        part = slice(piece.first, piece.last)
        left, answers = self.ear.left.get(piece.sweep), self.ear.answers.get(piece.sweep)
        return Slice(
            piece.sweep,
            piece.first,
            piece.last,
            left=pack(left[part]) if left is not None else b"",
            answers=pack(answers[part]) if answers is not None else b"",
            heard=self._arrived(piece.sweep, part),
        )

    def _arrived(self, sweep: int, part: slice) -> bytes:
        """What was heard of a part of a sweep, in this life and in those before, packed."""
        columns = [arrays[sweep][part] for arrays in (self._heard, self.ear.heard) if sweep in arrays]
        return pack(columns[0] if len(columns) == 1 else columns[0] | columns[1]) if columns else b""

    # The end.

    def finish(self) -> None:
        """Back to the cases: the session's own ear hears again."""
        self.pump()
        self.session.wire.blocks = None

    def report(self) -> Swept:
        """Everything that was seen."""
        self.finish()
        if self._journal is not None:
            self._journal.close()
        found = []
        for index, sweep in enumerate(self.plan.sweeps):
            left, answers = self.ear.left.get(index), self.ear.answers.get(index)
            if sweep.src == self.session.me:
                item = SweptColumns(
                    sweep=index,
                    left=pack(left >= self.plan.attempts) if left is not None else b"",
                    answers=pack(answers) if answers is not None else b"",
                )
            else:
                item = SweptColumns(sweep=index, heard=self._arrived(index, slice(None)))
            if item.left or item.answers or item.heard:
                found.append(item)
        return Swept(
            rounds=[self.done[number] for number in sorted(self.done)],
            columns=found,
            repeated=self.ear.repeated,
            packets=self.ear.kept.packets,
        )


def _stride(count: int) -> int:
    """A step that visits each of `count` numbers once, neighbours far apart."""
    step = max(1, int(count * 0.6180339887))
    while math.gcd(step, count) != 1:
        step += 1
    return step
