"""The ear of sweeps: blocks of frames sorted into what left, what arrived and what answered; no loop over frames.

What it does not know - ARP, beacons' echoes, forged and foreign tokens - goes on to the scalar sensor, a bounded number
of frames a block.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.tokens import MAGIC, SIZE, Kind, Status
from secguard.isolation.probes import headers
from secguard.isolation.sweep.frames import Columns, columns, rows_at
from secguard.isolation.sweep.grid import Grids
from secguard.isolation.sweep.seen import ANSWERS, CHANGED, HINT, MAX_ATTEMPTS, Kept

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from secguard.isolation.wire.ring import Block

__all__ = ["Ear"]

_TCP, _UDP = 6, 17
_ICMP = {4: 1, 6: 58}
_ECHO, _ECHO_REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
_PROTOCOLS = {"tcp": {4: _TCP, 6: _TCP}, "udp": {4: _UDP, 6: _UDP}, "icmp": _ICMP}
_GOLDEN = pow(0x9E3779B1, -1, 1 << 32)
_SCALAR = 256  # frames a block that the scalar sensor takes
_WORDS = 32  # distinct ICMP errors of a block that are looked at
_STRETCH = 20


class Ear:
    """What one agent hears of a plan's sweeps."""

    def __init__(self, plan: Plan, me: int, other: Callable[[bytes, bool, int], None]) -> None:
        """`other(frame, outgoing, nanoseconds)` takes the frames that are no sweep's."""
        import numpy as np

        self.plan, self.me = plan, me
        self.grids = Grids(plan)
        self.left: dict[int, NDArray[np.uint8]] = {}
        self.answers: dict[int, NDArray[np.uint8]] = {}
        self.heard: dict[int, NDArray[np.uint16]] = {}
        self.arrived: deque[tuple[int, NDArray[np.int64], int]] = deque()
        self.repeated = 0
        self.active = 0
        self.kept = Kept()
        self._tokens = plan.tokens()
        self._other = other
        self._window = tuple(int(at.timestamp() * 1e9) for at in (plan.not_before, plan.not_after))
        self._hint = int(self._tokens.hint(0))
        # Own sweeps by protocol and source port; an agent's sweeps of one protocol never share one.
        self._mine = {name: np.full(1 << 16, -1, np.int32) for name in _PROTOCOLS}
        for index, sweep in enumerate(plan.sweeps):
            if sweep.src == me:
                self._mine[sweep.protocol][sweep.sport] = index
        self._addresses = {
            family: np.frombuffer(headers.packed(text), np.uint8)
            for family in (4, 6)
            if (text := plan.agents[me].address(family))
        }
        self._senders = [
            np.frombuffer(headers.packed(plan.agents[sweep.src].address(sweep.family)), np.uint8)
            for sweep in plan.sweeps
        ]

    def hear(self, block: "Block") -> None:
        """Take one block of frames."""
        import numpy as np

        kind, start = block.network()
        known = np.zeros(len(block), np.bool_)
        for family in (4, 6):
            if (kind == (0x0800, 0x86DD)[family == 6]).any():
                self._packets(block, columns(block, family, kind, start), known)
        known |= block.outgoing
        if known.all():
            return
        for row in np.flatnonzero(~known & self._wanted(block, kind, start))[:_SCALAR]:
            self._other(block.frame(int(row)), bool(block.outgoing[row]), int(block.time[row]))

    def _wanted(self, block: "Block", kind: "NDArray[Any]", start: "NDArray[np.int64]") -> "NDArray[np.bool_]":
        """Frames worth a look of the scalar sensor: ARP, neighbour advertisements, and whatever carries a mark."""
        import numpy as np

        wanted: NDArray[np.bool_] = kind == 0x0806
        upper = rows_at(block.memory, start, 41)
        wanted = wanted | ((kind == 0x86DD) & (upper[:, 6] == 58) & (upper[:, 40] == 136))
        wanted[block.find(MAGIC, SIZE, 1).row] = True
        return wanted

    def _packets(self, block: "Block", every: Columns, known: "NDArray[np.bool_]") -> None:
        outgoing = block.outgoing[every.row]
        if outgoing.any():
            self._outgoing(block, every.pick(outgoing), known)
        if outgoing.all():
            return
        if outgoing.any():
            every = every.pick(~outgoing)
        self._probes(block, every, known)
        self._tcp_answers(block, every, known)
        self._udp_answers(block, every, known)
        self._icmp_answers(block, every, known)

    # What left.

    def _outgoing(self, block: "Block", out: Columns, known: "NDArray[np.bool_]") -> None:
        import numpy as np

        if out.family not in self._addresses:
            return
        ours = (out.source == self._addresses[out.family]).all(axis=1)
        for name, numbers in _PROTOCOLS.items():
            least = 20 if name == "tcp" else 8
            mask = ours & (out.protocol == numbers[out.family]) & (out.size >= least)
            if name == "tcp":
                mask &= out.upper[:, 13] & 0x17 == 2
            if name == "icmp":
                mask &= out.upper[:, 0] == _ECHO[out.family]
            if not mask.any():
                continue
            some = out.pick(mask)
            sport = some.word(4) if name == "icmp" else some.word(0)
            for sweep, rows, found in self._own(name, sport, some.destination, _port(some, name, 2)):
                known[some.row[rows]] = True
                left = self._array(self.left, sweep, np.uint8)
                for low, counts in _counts(found):
                    part = left[low : low + len(counts)]
                    np.minimum(part + counts, 255, out=part, casting="unsafe")
                self.kept.keep(block, some.row[rows], self._case(sweep, found), (sweep, "left"), outgoing=True)

    def _own(
        self, protocol: str, sport: "NDArray[np.int64]", hosts: "NDArray[np.uint8]", ports: "NDArray[np.int64]"
    ) -> "list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]":
        """By own sweep: rows and numbers of probes, from the source port, the host and the port."""
        import numpy as np

        index = self._mine[protocol][sport]
        found = []
        for sweep in _distinct(index[index >= 0]):
            if self.plan.sweeps[sweep].family != (4 if hosts.shape[1] == 4 else 6):
                continue
            rows = np.flatnonzero(index == sweep)
            numbers = self.grids[sweep].find(hosts[rows], ports[rows])
            good = numbers >= 0
            if good.any():
                found.append((sweep, rows[good], numbers[good]))
        return found

    def _case(self, sweep: int, numbers: "NDArray[np.int64]") -> "NDArray[np.int64]":
        return numbers + self.plan.sweeps[sweep].start

    def _array(self, arrays: "dict[int, NDArray[Any]]", sweep: int, kind: Any) -> "NDArray[Any]":
        import numpy as np

        if sweep not in arrays:
            arrays[sweep] = np.zeros(self.plan.sweeps[sweep].size, kind)
        return arrays[sweep]

    # What arrived.

    def _probes(self, block: "Block", every: Columns, known: "NDArray[np.bool_]") -> None:
        """Probes of others and our UDP answers come with a token; a bare SYN with the hint in its sequence number."""
        import numpy as np

        tcp, udp = every.protocol == _TCP, every.protocol == _UDP
        echo = (every.protocol == _ICMP[every.family]) & (every.upper[:, 0] == _ECHO[every.family])
        at = np.where(tcp, (every.upper[:, 12] >> 4).astype(np.int64) * 4, 8)
        syn = tcp & (every.size >= 20) & (every.upper[:, 13] & 0x17 == 2)
        # After a handshake the token comes as data, wherever it stands in it: those few go to the scalar sensor.
        room = (syn | udp | echo) & (every.size >= at + SIZE)
        if room.any():
            some = every.pick(room)
            payload = rows_at(block.memory, some.start + at[room], SIZE)
            marked = (payload[:, :4] == np.frombuffer(MAGIC, np.uint8)).all(axis=1)
            if marked.any():
                self._tokened(block, some.pick(marked), payload[marked], known)
        bare = syn & (every.size == at)
        if bare.any():
            self._hints(block, every.pick(bare), known)

    def _tokened(self, block: "Block", some: Columns, payload: "NDArray[np.uint8]", known: "NDArray[np.bool_]") -> None:
        import numpy as np

        token = self._tokens.open_columns(payload)
        time = block.time[some.row]
        sweeps = self.grids.sweep_of(token.case)
        good = (token.status == Status.GOOD) & (sweeps >= 0)
        good &= (time >= self._window[0]) & (time <= self._window[1])
        for sweep in _distinct(sweeps[good]):
            index = sweep
            rows = np.flatnonzero(good & (sweeps == sweep))
            numbers = token.case[rows] - self.plan.sweeps[index].start
            known[some.row[rows]] = True
            if self.plan.sweeps[index].src == self.me:
                self._replies(block, some.row[rows], index, numbers, token.kind[rows])
                continue
            probes = token.kind[rows] == Kind.PROBE
            self._arrivals(block, some.pick(rows[probes]), index, numbers[probes], token.seq[rows[probes]])

    def _arrivals(
        self, block: "Block", some: Columns, index: int, numbers: "NDArray[np.int64]", seq: "NDArray[np.int64]"
    ) -> None:
        import numpy as np

        sweep = self.plan.sweeps[index]
        heard = self._array(self.heard, index, np.uint16)
        self.active += len(numbers)
        plain = self._as_sent(some, index, numbers)
        if not plain.all():
            heard[numbers[~plain]] |= np.uint16(CHANGED)
            cases = self._case(index, numbers[~plain])
            self.kept.keep(block, some.row[~plain], cases, (index, "changed"))
        cases = self._case(index, numbers[plain])
        self.kept.keep(block, some.row[plain], cases, (index, "arrived"))
        numbers, attempts = numbers[plain], np.minimum(seq[plain] & 0xFF, MAX_ATTEMPTS - 1)
        for attempt in _distinct(attempts):
            bit = np.uint16(1 << attempt)
            mine = numbers if (attempts == attempt).all() else numbers[attempts == attempt]
            for low, counts in _counts(mine):
                part = heard[low : low + len(counts)]
                fresh = (counts > 0) & (part & bit == 0)
                self.repeated += int(counts.sum()) - int(np.count_nonzero(fresh))
                part[fresh] |= bit
                if sweep.protocol == "udp" and fresh.any():
                    self.arrived.append((index, np.flatnonzero(fresh) + low, attempt))

    def _as_sent(self, some: Columns, index: int, numbers: "NDArray[np.int64]") -> "NDArray[np.bool_]":
        """Whether addresses, protocol and ports of arrivals are those that their probes left with."""
        import numpy as np

        sweep, grid = self.plan.sweeps[index], self.grids[index]
        if sweep.family != some.family:
            return np.zeros(len(some), np.bool_)
        same: NDArray[np.bool_] = (some.source == self._senders[index]).all(axis=1) & (
            some.destination == grid.hosts_of(numbers)
        ).all(axis=1)
        same &= some.protocol == _PROTOCOLS[sweep.protocol][sweep.family]
        if sweep.protocol == "icmp":
            same &= some.word(4) == sweep.sport
        else:
            same &= (some.word(0) == sweep.sport) & (some.word(2) == grid.ports_of(numbers))
        return same

    def _hints(self, block: "Block", bare: Columns, known: "NDArray[np.bool_]") -> None:
        """Bare SYNs: the case that the sequence number hints at, where host and ports agree with it."""
        import numpy as np

        isn = bare.word(4) << 16 | bare.word(6)
        case = (isn ^ self._hint) * _GOLDEN & 0xFFFFFFFF
        sweeps = self.grids.sweep_of(case)
        for sweep in _distinct(sweeps[sweeps >= 0]):
            index = sweep
            if self.plan.sweeps[index].src == self.me or self.plan.sweeps[index].protocol != "tcp":
                continue
            rows = np.flatnonzero(sweeps == sweep)
            numbers = case[rows] - self.plan.sweeps[index].start
            some = bare.pick(rows)
            same = self._as_sent(some, index, numbers)
            if same.any():
                known[some.row[same]] = True
                self.active += int(same.sum())
                self._array(self.heard, index, np.uint16)[numbers[same]] |= np.uint16(HINT)
                self.kept.keep(block, some.row[same], self._case(index, numbers[same]), (index, "hint"))

    # What answered.

    def _replies(
        self,
        block: "Block",
        rows: "NDArray[np.int64]",
        index: int,
        numbers: "NDArray[np.int64]",
        kinds: "NDArray[np.uint8]",
    ) -> None:
        """Authenticated answers of the far agent; our own probe that comes back is an echo of something in between."""
        for kind, word in ((Kind.REPLY_OPEN, "reply-open"), (Kind.REPLY_CLOSED, "reply-closed"), (Kind.PROBE, "echo")):
            mine = kinds == kind
            if mine.any():
                self._answer(block, rows[mine], index, numbers[mine], word)

    def _answer(
        self, block: "Block", rows: "NDArray[np.int64]", index: int, numbers: "NDArray[np.int64]", word: str
    ) -> None:
        import numpy as np

        self.active += len(numbers)
        answers = self._array(self.answers, index, np.uint8)
        answers[numbers] |= np.uint8(ANSWERS[word])
        self.kept.keep(block, rows, self._case(index, numbers), (index, word))

    def _tcp_answers(self, block: "Block", every: Columns, known: "NDArray[np.bool_]") -> None:
        flags = every.upper[:, 13]
        tcp = (every.protocol == _TCP) & (every.size >= 20)
        for word, mask in (("rst", flags & 4 != 0), ("syn-ack", (flags & 0x12 == 0x12) & (flags & 4 == 0))):
            if (mask & tcp).any():
                some = every.pick(mask & tcp)
                for sweep, rows, numbers in self._own("tcp", some.word(2), some.source, some.word(0)):
                    known[some.row[rows]] = True
                    self._answer(block, some.row[rows], sweep, numbers, word)

    def _udp_answers(self, block: "Block", every: Columns, known: "NDArray[np.bool_]") -> None:
        """A device's own answer: no token, but the probe's host and ports."""
        mask = (every.protocol == _UDP) & (every.size >= 8) & ~known[every.row]
        if mask.any():
            some = every.pick(mask)
            for sweep, rows, numbers in self._own("udp", some.word(2), some.source, some.word(0)):
                known[some.row[rows]] = True
                self._answer(block, some.row[rows], sweep, numbers, "echo")

    def _icmp_answers(self, block: "Block", every: Columns, known: "NDArray[np.bool_]") -> None:
        import numpy as np

        icmp = (every.protocol == _ICMP[every.family]) & (every.size >= 8) & ~known[every.row]
        if not icmp.any():
            return
        every = every.pick(icmp)
        back = every.upper[:, 0] == _ECHO_REPLY[every.family]
        if back.any():
            some = every.pick(back)
            ports = np.zeros(len(some), np.int64)
            for sweep, rows, numbers in self._own("icmp", some.word(4), some.source, ports):
                known[some.row[rows]] = True
                self._answer(block, some.row[rows], sweep, numbers, "echo")
        errors = every.upper[:, 0].astype(np.int64) << 8 | every.upper[:, 1]
        for error in _distinct(errors)[:_WORDS]:
            word = headers.error_word(every.family, error >> 8, error & 0xFF)
            if word:
                self._quotes(block, every.pick(errors == error), word, known)

    def _quotes(self, block: "Block", some: Columns, word: str, known: "NDArray[np.bool_]") -> None:
        """ICMP errors by the probe that they quote, as it was sent."""
        import numpy as np

        head = 20 if some.family == 4 else 40
        quote = some.upper[:, 8:]
        upper = (quote[:, 0] & 15).astype(np.int64) * 4 if some.family == 4 else np.full(len(some), 40, np.int64)
        protocol = quote[:, 9 if some.family == 4 else 6]
        source, host = (quote[:, 12:16], quote[:, 16:20]) if some.family == 4 else (quote[:, 8:24], quote[:, 24:40])
        whole = (some.size >= 8 + upper + 8) & (upper >= head)
        if some.family in self._addresses:
            whole &= (source == self._addresses[some.family]).all(axis=1)
        ports = rows_at(block.memory, some.start + 8 + upper, 8)
        first = ports[:, 0].astype(np.int64) << 8 | ports[:, 1]
        second = ports[:, 2].astype(np.int64) << 8 | ports[:, 3]
        ident = ports[:, 4].astype(np.int64) << 8 | ports[:, 5]
        for name, numbers in _PROTOCOLS.items():
            mask = np.flatnonzero(whole & (protocol == numbers[some.family]))
            if not len(mask):
                continue
            sport, dport = (ident, np.zeros_like(ident)) if name == "icmp" else (first, second)
            for sweep, rows, found in self._own(name, sport[mask], host[mask], dport[mask]):
                known[some.row[mask[rows]]] = True
                self._answer(block, some.row[mask[rows]], sweep, found, word)


def _port(some: Columns, protocol: str, at: int) -> "NDArray[np.int64]":
    import numpy as np

    return np.zeros(len(some), np.int64) if protocol == "icmp" else some.word(at)


def _distinct(column: "NDArray[Any]") -> list[int]:
    """The different values of a column; mostly there is one."""
    import numpy as np

    if not len(column):
        return []
    first = column[0]
    return [int(first)] if (column == first).all() else [int(value) for value in np.unique(column)]


def _counts(numbers: "NDArray[np.int64]") -> Iterator["tuple[int, NDArray[np.int64]]"]:
    """By stretch: the lowest number, and how often it and those after it stand there."""
    import numpy as np

    stretches = numbers >> _STRETCH  # numbers far apart must not cost memory for all between them
    for stretch in _distinct(stretches):
        part = numbers[stretches == stretch]
        low = int(part.min())
        yield low, np.bincount(part - low)
