"""The ear of sweeps: what frames in columns mean, and that noise harms nothing."""

import struct
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan
from secguard.isolation.plan.tokens import Kind, Tokens
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.probes import headers
from secguard.isolation.probes.packets import checksum, fill
from secguard.isolation.sweep.hearing import Ear
from secguard.isolation.sweep.seen import ANSWERS, CHANGED, HINT
from secguard.isolation.wire.ring import Block

INT, EXT = 0, 1
SOURCE, SOURCE6 = "10.2.0.2", "fd00:2::2"
POLICY = load_policy(
    b"""\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  int:
    ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: "fd00:1::/64"}]
    agents: [{name: a-int, covers: [10.1.1.0/24, "fd00:1::/64"]}]
    targets:
    - {cidr: 10.1.1.0/28, tcp: [1-10], udp: [53, 161], icmp: true}
    - {cidr: "fd00:1::/124", tcp: [1-10], udp: [53], icmp: true}
  ext: {ipBlocks: [{cidr: 10.2.0.0/16}, {cidr: "fd00:2::/64"}], agents: [a-ext]}
profiles: []
"""
)
AGENTS = (AgentInfo("a-int", "int", ("10.1.0.2", "fd00:1::ff")), AgentInfo("a-ext", "ext", (SOURCE, SOURCE6)))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return compile_plan(POLICY, AGENTS, datetime.now(UTC))


def block(frames: list[bytes], outgoing: bool = False) -> Block:
    """Frames as the ring hands them over, other frames' bytes between them."""
    room = max(map(len, frames)) + 16
    memory = np.full(len(frames) * room + 64, 0x5A, np.uint8)
    for row, frame in enumerate(frames):
        memory[row * room : row * room + len(frame)] = np.frombuffer(frame, np.uint8)
    count = len(frames)
    sizes = np.array([len(frame) for frame in frames], np.int64)
    return Block(
        memory, np.arange(count, dtype=np.int64) * room, sizes, sizes, np.full(count, time.time_ns()),
        np.full(count, outgoing), np.full(count, -1, np.int32), np.zeros(count, np.uint16),
    )  # fmt: skip


class Kit:
    """Makes frames of a plan's first sweep of a protocol and family."""

    def __init__(self, plan: Plan, protocol: str, family: int = 4) -> None:
        self.plan, self.protocol, self.family = plan, protocol, family
        self.index = next(
            number for number, sweep in enumerate(plan.sweeps) if (sweep.protocol, sweep.family) == (protocol, family)
        )
        self.sweep = plan.sweeps[self.index]
        self.other: list[bytes] = []
        self.sender = Ear(plan, EXT, self._other)
        self.listener = Ear(plan, INT, self._other)
        self.tokens = plan.tokens()
        self.grid = self.sender.grids[self.index]

    def _other(self, frame: bytes, outgoing: bool, at: int) -> None:
        del outgoing, at
        self.other.append(frame)

    def host(self, number: int) -> bytes:
        return self.grid.hosts_of(np.array([number]))[0].tobytes()

    def port(self, number: int) -> int:
        return int(self.grid.ports_of(np.array([number]))[0])

    def frame(
        self,
        number: int,
        kind: str,
        *,
        attempt: int = 0,
        tokens: Tokens | None = None,
        back: bool = False,
        **changes: Any,
    ) -> bytes:
        """A probe, or (`back`) an answer of the far agent."""
        source = headers.packed(SOURCE if self.family == 4 else SOURCE6)
        ends = (source, self.host(number))
        ports = self.sweep.sport, self.port(number)
        if back:
            ends, ports = ends[::-1], ports[::-1]
        case = self.sweep.start + number
        token = (tokens or self.tokens).make(changes.pop("token", Kind.PROBE), [case], [2 << 8 | attempt])[0]
        ends = (changes.pop("source", ends[0]), changes.pop("destination", ends[1]))
        form = self.plan.templates[f"{kind}/{self.family}"]
        packet = fill(form, {len(source): ends}, token, ports=changes.pop("ports", ports), isn=self.tokens.hint(case))
        return bytes(12) + (b"\x08\x00" if self.family == 4 else b"\x86\xdd") + packet

    def tcp_answer(self, number: int, flags: int) -> bytes:
        probe = bytearray(self.frame(number, "syn"))
        at = 14 + (20 if self.family == 4 else 40)
        size = 4 if self.family == 4 else 16
        first = at - 2 * size
        probe[first : first + 2 * size] = probe[first + size : first + 2 * size] + probe[first : first + size]
        probe[at : at + 4] = probe[at + 2 : at + 4] + probe[at : at + 2]
        probe[at + 13] = flags
        return bytes(probe)

    def error(self, number: int, kind: str, type_: int, code: int) -> bytes:
        """An ICMP error from a router, quoting a probe."""
        quoted = self.frame(number, kind)[14:][: 28 if self.family == 4 else 48]
        body = struct.pack(">BBHI", type_, code, 0, 0) + quoted
        if self.family == 4:
            head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0)
            head += headers.packed("10.9.9.9") + headers.packed(SOURCE)
            head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
            return bytes(12) + b"\x08\x00" + head + body
        head = struct.pack(">IHBB", 6 << 28, len(body), 58, 64) + headers.packed("fd00:9::9") + headers.packed(SOURCE6)
        return bytes(12) + b"\x86\xdd" + head + body


FAMILIES = [4, 6]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("protocol", "kind"), [("tcp", "syn-data"), ("udp", "udp"), ("icmp", "echo")])
def test_a_probe_leaves_and_arrives(plan: Plan, protocol: str, kind: str, family: int) -> None:
    kit = Kit(plan, protocol, family)
    numbers = list(range(kit.grid.size))
    frames = [kit.frame(number, kind, attempt=attempt) for attempt in (0, 2) for number in numbers]
    kit.sender.hear(block(frames, outgoing=True))
    assert kit.sender.left[kit.index].tolist() == [2] * len(numbers)
    kit.listener.hear(block(frames[::-1]))
    assert kit.listener.heard[kit.index].tolist() == [0b101] * len(numbers)
    assert kit.listener.repeated == 0
    assert kit.other == [], "the scalar sensor is not bothered"
    assert [case for case, *_ in kit.listener.kept.packets] == [
        kit.sweep.start + number for number in numbers[::-1][: len(kit.listener.kept.packets)]
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_syn_is_a_hint_and_no_more(plan: Plan, family: int) -> None:
    kit = Kit(plan, "tcp", family)
    wrong = bytearray(kit.frame(8, "syn"))
    wrong[14 + (20 if family == 4 else 40) + 4] ^= 1  # another sequence number
    kit.listener.hear(block([kit.frame(7, "syn"), bytes(wrong)]))
    assert np.flatnonzero(kit.listener.heard[kit.index]).tolist() == [7]
    assert kit.listener.heard[kit.index][7] == HINT
    kit.sender.hear(block([kit.frame(7, "syn")], outgoing=True))
    assert kit.sender.left[kit.index][7] == 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("flags", "word"), [(0x12, "syn-ack"), (0x14, "rst"), (0x04, "rst")])
def test_tcp_answers(plan: Plan, flags: int, word: str, family: int) -> None:
    kit = Kit(plan, "tcp", family)
    kit.sender.hear(block([kit.tcp_answer(number, flags) for number in (3, 5)]))
    assert kit.sender.answers[kit.index].nonzero()[0].tolist() == [3, 5]
    assert kit.sender.answers[kit.index][3] == ANSWERS[word]


ERRORS = [
    (4, 3, 3, "port-unreachable"), (4, 3, 13, "prohibited"), (4, 3, 1, "unreachable"), (4, 11, 0, "unreachable"),
    (6, 1, 4, "port-unreachable"), (6, 1, 1, "prohibited"), (6, 1, 0, "unreachable"), (6, 3, 0, "unreachable"),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "kind"), [("tcp", "syn"), ("udp", "udp"), ("icmp", "echo")])
@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_matched_by_what_they_quote(
    plan: Plan, protocol: str, kind: str, error: tuple[int, int, int, str]
) -> None:
    family, type_, code, word = error
    kit = Kit(plan, protocol, family)
    kit.sender.hear(block([kit.error(2, kind, type_, code)]))
    assert kit.sender.answers[kit.index].nonzero()[0].tolist() == [2]
    assert kit.sender.answers[kit.index][2] == ANSWERS[word]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_the_far_agent_and_of_a_device(plan: Plan, family: int) -> None:
    kit = Kit(plan, "udp", family)
    token = kit.frame(1, "udp", back=True, token=Kind.REPLY_CLOSED)
    plain = bytearray(kit.frame(2, "udp", back=True))
    plain[-28:] = b"SIP/2.0 200 OK".ljust(28)
    kit.sender.hear(block([token, bytes(plain), kit.frame(3, "udp", back=True, token=Kind.REPLY_OPEN)]))
    assert kit.sender.answers[kit.index][:4].tolist() == [
        0, ANSWERS["reply-closed"], ANSWERS["echo"], ANSWERS["reply-open"],
    ]  # fmt: skip


def test_other_addresses_are_told(plan: Plan) -> None:
    kit = Kit(plan, "tcp")
    frames = [
        kit.frame(1, "syn-data", source=headers.packed("10.1.0.1")),
        kit.frame(2, "syn-data", destination=headers.packed("10.1.0.2")),
        kit.frame(3, "syn-data", ports=(4444, kit.port(3))),
        kit.frame(4, "syn-data", ports=(kit.sweep.sport, 9999)),
    ]
    kit.listener.hear(block(frames))
    assert kit.listener.heard[kit.index][:5].tolist() == [0, CHANGED, CHANGED, CHANGED, CHANGED]


def test_what_came_already_is_counted(plan: Plan) -> None:
    kit = Kit(plan, "udp")
    frame = kit.frame(1, "udp")
    kit.listener.hear(block([frame, frame, kit.frame(1, "udp", attempt=1)]))
    kit.listener.hear(block([frame]))
    assert kit.listener.repeated == 2
    assert [(index, numbers.tolist(), attempt) for index, numbers, attempt in kit.listener.arrived] == [
        (kit.index, [1], 0), (kit.index, [1], 1),
    ], "answered once an attempt"  # fmt: skip


def test_forged_foreign_and_late_tokens_count_for_nothing(plan: Plan) -> None:
    kit = Kit(plan, "udp")
    foreign = Tokens(b"x" * 32, b"y" * 16)
    forged = bytearray(kit.frame(1, "udp"))
    forged[-1] ^= 1
    late = block([kit.frame(2, "udp")])
    late.time[:] = int((plan.not_after + timedelta(seconds=1)).timestamp() * 1e9)
    kit.listener.hear(block([bytes(forged), kit.frame(1, "udp", tokens=foreign)]))
    kit.listener.hear(late)
    assert kit.index not in kit.listener.heard
    assert len(kit.other) == 3, "the scalar sensor judges them"


def test_own_probes_and_strangers_are_not_arrivals(plan: Plan) -> None:
    kit = Kit(plan, "tcp")
    kit.sender.hear(block([kit.frame(1, "syn-data")]))
    assert kit.index not in kit.sender.heard
    assert kit.sender.answers[kit.index][1] == ANSWERS["echo"], "something sends it back"
    other = kit.tcp_answer(1, 0x12)
    other = other[:36] + struct.pack(">H", 1234) + other[38:]  # to a port that no sweep has
    kit.sender.hear(block([other]))
    assert kit.sender.answers[kit.index].tolist().count(ANSWERS["syn-ack"]) == 0


def test_fragments_and_cut_frames_are_left_alone(plan: Plan) -> None:
    kit = Kit(plan, "udp")
    whole = kit.frame(1, "udp")
    fragment = bytearray(whole)
    fragment[20] |= 0x20  # more fragments
    kit.listener.hear(block([bytes(fragment), *(whole[:size] for size in range(14, len(whole)))]))
    assert kit.index not in kit.listener.heard


@given(st.lists(st.binary(max_size=120), min_size=1, max_size=8), st.booleans())
def test_noise_harms_nothing(frames: list[bytes], outgoing: bool) -> None:
    kit = NOISE
    kit.sender.hear(block([frame or b"\0" for frame in frames], outgoing))
    kit.listener.hear(block([frame or b"\0" for frame in frames], outgoing))
    assert not kit.listener.heard
    assert not kit.sender.answers


@given(st.data())
def test_bent_frames_never_arrive_as_something_else(data: st.DataObject) -> None:
    kit = NOISE
    protocol, kind = data.draw(st.sampled_from([("tcp", "syn-data"), ("udp", "udp"), ("icmp", "echo"), ("tcp", "syn")]))
    made = Kit.__new__(Kit)
    made.__dict__.update(kit.__dict__)
    made.index = next(n for n, s in enumerate(kit.plan.sweeps) if (s.protocol, s.family) == (protocol, 4))
    made.sweep, made.grid = kit.plan.sweeps[made.index], kit.sender.grids[made.index]
    frame = bytearray(made.frame(3, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    ear = Ear(kit.plan, INT, lambda *_: None)
    ear.hear(block([bytes(frame)[: data.draw(st.integers(1, len(frame)))]]))
    for index, heard in ear.heard.items():
        assert (index, np.flatnonzero(heard).tolist()) == (made.index, [3])


NOISE = Kit(compile_plan(POLICY, AGENTS, datetime.now(UTC)), "tcp")
