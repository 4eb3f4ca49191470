"""The fast wire on a pair of virtual interfaces: nothing is lost, nothing bursts, and whatever fails is said."""

import errno
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from secguard.core import SystemPartError
from secguard.isolation.agent.sensor import Sensor
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan
from secguard.isolation.plan.tokens import MAGIC, SIZE, Kind
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.probes.packets import fill
from secguard.isolation.probes.templates import template
from secguard.isolation.wire.bulk import Sender
from secguard.isolation.wire.namespaces import isolate
from secguard.isolation.wire.raw import libc
from secguard.isolation.wire.ring import Block, Ring
from secguard.isolation.wire.wire import Interface, Wire, tool

_OTHER = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01"
_TYPE = b"\x88\xb5"  # IEEE 802, local experimental: nobody else sends it


def _link(*arguments: str) -> None:
    subprocess.run([tool("ip", "iproute2"), "link", *arguments], check=True, timeout=20)


def _inside(body: Callable[[], None]) -> None:
    """Run `body` in a process and a network of its own, where `left` and `right` are the two ends of a cable."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            isolate()
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
            _link("add", "left", "type", "veth", "peer", "name", "right")
            _link("set", "left", "up")
            _link("set", "right", "up")
            body()
            status = 0
        except SystemPartError as error:
            status = 77 if error.code in {"isolation.lab.namespaces", "isolation.tool.missing"} else 1
            os.write(writer, str(error).encode())
        except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 77:
        pytest.skip(f"needs namespaces and ip: apt-get install iproute2: {said}")
    assert status == 0, said or f"ended by signal {-status}"


def _frames(count: int, size: int = 86) -> np.ndarray:
    """Numbered frames."""
    rows = np.zeros((count, size), np.uint8)
    rows[:, :14] = np.frombuffer(_OTHER + _TYPE, np.uint8)
    rows[:, 14:22] = np.arange(count, dtype=">u8").view(np.uint8).reshape(count, 8)
    return rows


def _numbers(block: Block) -> np.ndarray:
    return block.take(block.offset + 14, 8).copy().view(">u8").ravel().astype(np.int64)


def _drain(ring: Ring, wait: float = 0.3) -> tuple[list[bytes], list[int]]:
    """Every frame and its time, until none comes for a while."""
    frames, times = [], []
    while (block := ring.read(wait)) is not None:
        frames += [block.frame(row) for row in range(len(block))]
        times += block.time.tolist()
    return frames, times


def test_what_is_sent_is_heard_at_both_ends_byte_for_byte() -> None:
    def body() -> None:
        chance = random.Random(7)
        rows = _frames(5000, 1400)
        rows[:, 22:] = np.frombuffer(chance.randbytes(5000 * 1378), np.uint8).reshape(5000, 1378)
        lengths = np.array([chance.randrange(60, 1401) for _ in range(5000)])
        wanted = [rows[row, : lengths[row]].tobytes() for row in range(5000)]
        before = time.time_ns()
        with Ring("right") as far, Ring("left") as own, Ring("left", outgoing=False) as deaf, Sender("left") as sender:
            done = sender.send(rows, lengths=lengths)
            assert (done.sent, done.tried, done.refused) == (5000, 5000, {})
            assert sender.send(wanted).sent == 5000  # the same as a list
            for ring, outgoing in ((far, False), (own, True)):
                found: list[bytes] = []
                times: list[int] = []
                while (block := ring.read(0.3)) is not None:
                    assert (block.outgoing == outgoing).all()
                    assert (block.length == block.caplen).all()
                    assert (block.vlan == -1).all()
                    found += [block.frame(row) for row in range(len(block))]
                    times += block.time.tolist()
                assert found == wanted + wanted
                assert before <= times[0] <= times[-1] <= time.time_ns()
                assert (ring.statistics().packets, ring.statistics().drops) == (10_000, 0)
            assert deaf.read(0.05) is None
            assert sender.send([]).offered == sender.send(_frames(0)).offered == 0
            assert sender.send(_frames(10)[::2]).sent == 5  # a view
            assert sender.send(np.asfortranarray(_frames(3))).sent == 3
            numbers = [int(number) for block in iter(lambda: far.read(0.3), None) for number in _numbers(block)]
            assert numbers == [0, 2, 4, 6, 8, 0, 1, 2]

    _inside(body)


@pytest.mark.parametrize("lanes", [1, 2])
def test_nothing_is_lost_at_the_full_rate(lanes: int) -> None:
    def body() -> None:
        count = 100_000
        seen = np.zeros(count, np.int64)
        stop = threading.Event()

        def hear() -> None:
            while (block := ring.read(0.2)) is not None or not stop.is_set():
                if block is not None:
                    seen[:] += np.bincount(_numbers(block), minlength=count)

        with Ring("right") as ring, Sender("left", lanes=lanes) as sender:
            thread = threading.Thread(target=hear)
            thread.start()
            done = sender.send(_frames(count))
            stop.set()
            thread.join()
            assert done.sent == count
            assert (seen == 1).all()
            assert ring.statistics().drops == 0

    _inside(body)


def test_a_rate_is_kept_over_many_calls_and_never_bursts() -> None:
    def body() -> None:
        rate = 4000
        with Ring("right") as ring, Sender("left") as sender:
            idle = []
            began = time.monotonic()
            for _ in range(4):
                assert sender.send(_frames(500), rate, meanwhile=lambda: idle.append(1)).sent == 500
            took = time.monotonic() - began
            time.sleep(0.1)  # a pause saves up five milliseconds' worth, not more
            sender.send(_frames(200), rate)
            _, times = _drain(ring)
        assert took >= 2000 / rate - 0.01
        assert len(idle) >= 50
        at = np.array(times, np.int64)
        # Two allowances may meet where the thread is held up between taking the one and sending it.
        window = np.searchsorted(at, at + 5_000_000) - np.arange(len(at))
        assert window.max() <= 3 * rate * 0.005 + 1
        assert len(at) == 2200

    _inside(body)


@pytest.mark.parametrize(("rate", "lanes"), [(None, 1), (None, 2), (200.0, 1), (0.01, 1)])
def test_a_stop_ends_sending_at_once_and_what_was_tried_is_known(rate: float | None, lanes: int) -> None:
    def body() -> None:
        stop = threading.Event()
        with Ring("right") as ring, Sender("left", lanes=lanes) as sender:
            frames = np.concatenate([_frames(1_000_000, 60)] * 2)
            timers: list[threading.Timer] = []

            def underway() -> None:
                if not timers:
                    timers.append(threading.Timer(0.1, stop.set))
                    timers[0].start()

            done = sender.send(frames, rate, stop=stop, meanwhile=underway)
            late = time.monotonic()
            assert 0 < done.tried == done.sent < done.offered or rate == 0.01
            assert done.seconds < 5
            assert sender.send(_frames(5), stop=stop).tried == 0
            assert time.monotonic() - late < 1
            numbers = [int(number) for block in iter(lambda: ring.read(0.3), None) for number in _numbers(block)]
            if ring.statistics().drops == 0:
                assert sorted(numbers) == sorted(number % 1_000_000 for number in range(done.tried))

    _inside(body)


def test_a_callback_may_send_within_the_same_rate() -> None:
    def body() -> None:
        with Ring("right") as ring, Sender("left") as sender:
            left = [100]

            def answer() -> None:
                if left[0]:
                    left[0] -= 1
                    assert sender.send([_OTHER + b"\x88\xb6" + b"answer" * 9], 2000).sent == 1

            began = time.monotonic()
            sender.send(_frames(300), 2000, meanwhile=answer)
            assert time.monotonic() - began >= (400 - left[0]) / 2000 - 0.02 - left[0] / 2000
            frames, _ = _drain(ring)
            assert len(frames) == 400 - left[0]
            assert left[0] < 100

    _inside(body)


def test_refusals_are_counted_by_their_reason() -> None:
    def body() -> None:
        rows = np.zeros((4, 3000), np.uint8)
        rows[:, :14] = np.frombuffer(_OTHER + _TYPE, np.uint8)
        with Sender("left") as sender:
            done = sender.send(rows, lengths=np.array([100, 3000, 5, 100]))
            assert (done.sent, done.refused) == (2, {errno.EMSGSIZE: 1, errno.EINVAL: 1})
            _link("set", "left", "down")
            done = sender.send(_frames(2000))
            assert (done.sent, done.refused) == (0, {errno.ENETDOWN: 2000})
            _link("set", "left", "up")
            assert sender.send(_frames(20)).sent == 20
            _link("del", "left")
            done = sender.send(_frames(20))
            assert done.sent == 0
            assert set(done.refused) <= {errno.ENXIO, errno.ENODEV, errno.ENETDOWN}
            for wrong in (np.zeros(5, np.uint8), np.zeros((2, 60), np.int16)):
                with pytest.raises(ValueError, match="matrix"):
                    sender.send(wrong)
            for lengths in (np.array([60]), np.array([60, 61]), np.array([-1, 60])):
                with pytest.raises(ValueError, match="length"):
                    sender.send(np.zeros((2, 60), np.uint8), lengths=lengths)
            with pytest.raises(ValueError, match="rate"):
                sender.send(_frames(1), 0)

    _inside(body)


def test_what_finds_no_room_is_counted_as_dropped() -> None:
    def body() -> None:
        with Ring("right", megabytes=0, block=1 << 16) as ring, Sender("left") as sender:
            sender.send(_frames(5000))
            frames, _ = _drain(ring, 0.1)
            lost = ring.statistics()
            assert 0 < len(frames) < 5000
            assert (lost.packets, lost.packets - lost.drops) == (5000, len(frames))
            assert lost.freezes >= 1
            # It hears again as soon as there is room.
            assert sender.send(_frames(50)).sent == 50
            assert len(_drain(ring, 0.1)[0]) == 50
            assert ring.statistics().drops == lost.drops
        assert ring.statistics().drops == lost.drops

    _inside(body)


def test_a_link_that_goes_down_is_told_and_heard_again() -> None:
    def body() -> None:
        heard: list[bytes] = []
        wire = Wire(Interface("right", b"\0" * 6, ()), lambda frame, outgoing, at: heard.append(frame))
        wire.start()
        with Ring("right") as ring, Sender("left") as sender:
            _link("set", "right", "down")
            assert ring.read(0.05) is None
            assert ring.error == os.strerror(errno.ENETDOWN)
            _link("set", "right", "up")
            end = time.monotonic() + 10
            while not heard and time.monotonic() < end:  # the carrier takes its time to come back
                sender.send(_frames(1), 100)
            assert ring.read(1) is not None
        assert wire.send([_frames(1).tobytes()], 100) == 0
        assert wire.stop() == 0
        assert wire.error == os.strerror(errno.ENETDOWN)
        assert heard.count(heard[0]) >= 2

    _inside(body)


def test_a_wire_hears_what_came_before_its_stop() -> None:
    def body() -> None:
        heard: list[tuple[bytes, bool]] = []
        wire = Wire(Interface("left", b"\0" * 6, ()), lambda frame, outgoing, at: heard.append((frame, outgoing)))
        wire.start()
        with Sender("right") as sender:
            frames = [row.tobytes() for row in _frames(3000)]
            sender.send(frames)
            assert wire.send(frames[:100], 50_000) == 0
            assert wire.stop() == 0
        assert [frame for frame, outgoing in heard if not outgoing] == frames
        assert [frame for frame, outgoing in heard if outgoing] == frames[:100]

    _inside(body)


def test_a_stop_waits_for_no_clock_but_for_what_the_kernel_has_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secguard.isolation.wire.wire._LOOK", 0.0)  # reads come back empty long before a block does

    def body() -> None:
        heard: list[bytes] = []
        wire = Wire(Interface("right", b"\0" * 6, ()), lambda frame, outgoing, at: heard.append(frame))
        wire.start()
        frames = [row.tobytes() for row in _frames(3)]
        with Sender("left") as sender:
            sender.send(frames)
            assert wire.stop() == 0
            assert heard == frames
            sender.send(frames)
        wire.close()
        assert heard == frames, "what comes after the stop is not heard"
        assert wire.stop() == 0

    _inside(body)


def test_a_read_can_be_woken() -> None:
    def body() -> None:
        with Ring("right") as ring:
            ring.wake()
            assert ring.read(600) is None
            waker = threading.Timer(0.05, ring.wake)
            waker.start()
            assert ring.read(600) is None
            waker.join()

    _inside(body)


def test_tags_are_told_wherever_they_stand() -> None:
    def body() -> None:
        tag = struct.pack(">HH", 0x8100, 0x6123)
        plain = _OTHER + b"\x08\0" + b"E" * 50
        frames = [
            plain,
            _OTHER + tag + plain[12:],
            _OTHER + struct.pack(">HH", 0x88A8, 7) + tag + plain[12:],
            _OTHER + tag * 9 + plain[12:],
        ]
        with Ring("right") as ring, Sender("left") as sender:
            sender.send(frames)
            time.sleep(0.05)  # all of them into what is read at once
            block = ring.read(2)
            assert block is not None
            assert block.vlan.tolist() == [-1, 0x6123, 7, 0x6123]
            assert block.tpid.tolist() == [0, 0x8100, 0x88A8, 0x8100]
            kind, start = block.network()
            assert kind.tolist() == [0x0800, 0x0800, 0x0800, 0x8100]
            for row in range(3):
                assert block.memory[start[row] :][:50].tobytes() == b"E" * 50

    _inside(body)


def test_a_filter_keeps_what_it_says_and_cuts() -> None:
    def body() -> None:
        # ldh [12]; jeq 0x88b5 -> ret 100, else ret 0
        program = [(0x28, 0, 0, 12), (0x15, 0, 1, 0x88B5), (6, 0, 0, 100), (6, 0, 0, 0)]
        with Ring("right", program=program) as ring, Sender("left") as sender:
            sender.send([_OTHER + b"\x88\xb6" + b"x" * 300, _OTHER + _TYPE + b"y" * 300])
            block = ring.read(2)
            assert block is not None
            assert (block.caplen.tolist(), block.length.tolist()) == ([100], [314])
            assert block.frame(0) == _OTHER + _TYPE + b"y" * 86
        with pytest.raises(ValueError, match="filter"):
            Ring("right", program=[(0xFFFF, 0, 0, 0)])
        with pytest.raises(ValueError, match="power of two"):
            Ring("right", block=5000)
        with pytest.raises(SystemPartError) as error:
            Ring("nowhere")
        assert (error.value.code, error.value.where) == ("isolation.interface.missing", "nowhere")
        with pytest.raises(SystemPartError):
            Sender("nowhere")

    _inside(body)


def _capabilities(mask: int) -> None:
    """Keep only these capabilities (capset(2), version 3)."""
    header = struct.pack("Ii", 0x20080522, 0)
    assert libc.capset(header, struct.pack("6I", mask, mask, 0, 0, 0, 0)) == 0


def test_cap_net_raw_is_all_it_needs() -> None:
    def body() -> None:
        _capabilities(1 << 13)
        with Ring("right", promiscuous=True) as ring, Sender("left") as sender:
            assert sender.send(_frames(20_000)).sent == 20_000
            assert len(_drain(ring)[0]) == 20_000
        _capabilities(0)
        for opened in (Ring, Sender):
            with pytest.raises(SystemPartError) as error:
                opened("left")
            assert error.value.code == "isolation.raw.permission"
            assert "CAP_NET_RAW" in error.value.hint

    _inside(body)


def test_it_works_in_a_user_namespace() -> None:
    unshare = tool("unshare", "util-linux")
    if subprocess.run([unshare, "-Urn", "true"], capture_output=True, timeout=20).returncode:
        pytest.skip("needs user namespaces: apt-get install util-linux, sysctl user.max_user_namespaces")
    text = (
        "import subprocess\n"
        "from secguard.isolation.wire.bulk import Sender\n"
        "from secguard.isolation.wire.ring import Ring\n"
        f"subprocess.run([{tool('ip', 'iproute2')!r}, 'link', 'set', 'lo', 'up'], check=True)\n"
        "with Ring('lo', outgoing=False) as ring, Sender('lo') as sender:\n"
        "    assert sender.send([bytes(12) + b'\\x88\\xb5' + bytes(50)] * 3000).sent == 3000\n"
        "    assert sum(len(block) for block in iter(lambda: ring.read(0.3), None)) == 3000\n"
    )
    done = subprocess.run([unshare, "-Urn", sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_giant_segments_of_a_real_connection_are_heard_whole() -> None:
    def body() -> None:
        _link("set", "lo", "up")
        with Ring("lo", outgoing=False) as ring:
            server = socket.create_server(("127.0.0.1", 0))
            client = socket.create_connection(server.getsockname())
            peer = server.accept()[0]
            peer.settimeout(10)
            text = os.urandom(1 << 20)
            sender = threading.Thread(target=client.sendall, args=(text,))
            sender.start()
            got = 0
            while got < len(text):
                got += len(peer.recv(1 << 20))
            sender.join()
            frames, _ = _drain(ring)
            for item in (client, peer, server):
                item.close()
        assert max(map(len, frames)) > 1500
        assert sum(len(frame) - 66 for frame in frames if len(frame) > 100) >= len(text)

    _inside(body)


def _hostile(chance: random.Random, count: int) -> list[bytes]:
    """Frames that nobody should send: cut off, giant, tagged many times, random, and nearly right."""
    good = _plan().tokens().make(Kind.PROBE, list(range(50)), [0x200] * 50)
    ends = {
        4: (b"\x0a\2\0\2", b"\x0a\1\0\2"),
        16: (b"\xfd\0\0\2" + bytes(11) + b"\2", b"\xfd\0\0\1" + bytes(11) + b"\2"),
    }
    right = {
        family: [
            fill(template(shape, family), ends, token, ports=(53, 1024))
            for shape in ("udp", "syn", "syn-data", "echo", "fragment-1", "fragment-2", "gre")
            for token in good[:8]
        ]
        for family in (4, 6)
    }
    kinds = [b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x81\0", b"\x88\xa8", b"\x88\xb5", b"\0\x04"]
    frames = []
    for number in range(count):
        family = chance.choice((4, 6))
        head = _OTHER + kinds[family == 6]
        body = bytearray(chance.choice(right[family]))
        way = number % 8
        if way == 0:
            body = bytearray(chance.randbytes(chance.randrange(200)))
        elif way == 1:
            del body[chance.randrange(len(body)) :]
        elif way == 2:
            tags = b"".join(chance.choice(kinds[3:5]) + chance.randbytes(2) for _ in range(chance.randrange(1, 14)))
            head = _OTHER + tags + kinds[family == 6]
        elif way == 3 and number % 800 == 3:
            body += chance.randbytes(4000) + MAGIC * 3000 + chance.randbytes(30_000)
        elif way == 4:
            body = bytearray(MAGIC * chance.randrange(60))
        elif way == 5:
            head = _OTHER + chance.choice(kinds)
        elif way == 6:  # an ICMP error that quotes it, perhaps in part
            outer = bytearray(b"\x45\0\0\0\0\0\0\0\x40\1\0\0\x0a\2\0\2\x0a\1\0\2") + chance.randbytes(2) + bytes(6)
            body = outer + body[: chance.randrange(len(body) + 1)]
            head = _OTHER + kinds[0]
        for _ in range(chance.randrange(4)):
            if body:
                body[chance.randrange(len(body))] = chance.randrange(256)
        frames.append(head + bytes(body))
    return frames


@cache
def test_probes_under_stacked_tags_are_heard_frame_by_frame_and_in_blocks() -> None:
    plan = _plan()
    mine = [case for case in range(len(plan.cases)) if plan.cases.dst[case] == 0 and plan.cases.family[case] == 4][:6]
    ends = {4: (b"\x0a\2\0\2", b"\x0a\1\0\2")}
    tokens = plan.tokens().make(Kind.PROBE, mine, [0x200] * len(mine))
    q, ad, old = (struct.pack(">HH", kind, 0x2007) for kind in (0x8100, 0x88A8, 0x9100))
    # The kernel takes the first tag off; four more are looked past, and no fifth.
    stacks = [b"", q, ad + q, old + old + q, ad + q * 4, q * 6]
    frames = [
        _OTHER + tags + b"\x08\0" + fill(template("udp", 4), ends, token, ports=(53, 1024))
        for tags, token in zip(stacks, tokens, strict=True)
    ]

    def body() -> None:
        sensor = Sensor(plan, 0)
        wire = Wire(Interface("right", b"\0" * 6, ()), sensor.hear)
        wire.start()
        with Ring("right") as ring, Sender("left") as sender:
            sender.send(frames)
            starts: list[bytes] = []
            while len(starts) < len(frames) and (block := ring.read(2)) is not None:
                kind, start = block.network()
                starts += [
                    block.memory[at : at + 1].tobytes() if k == 0x0800 else b""
                    for k, at in zip(kind, start, strict=True)
                ]
        assert wire.stop() == 0
        assert starts == [b"\x45"] * 5 + [b""]
        assert sorted(sensor.arrivals().case) == mine[:5]

    _inside(body)


def _plan() -> Plan:
    policy = load_policy(
        b"apiVersion: secguard/v1alpha1\nkind: IsolationPolicy\nzones:\n"
        b"  a: {ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: 'fd00:1::/64'}], agents: [x]}\n"
        b"  b: {ipBlocks: [{cidr: 10.2.0.0/16}, {cidr: 'fd00:2::/64'}], agents: [y]}\n"
        b"probes: {tcp: [22], udp: [53]}\n"
    )
    agents = (AgentInfo("x", "a", ("10.1.0.2", "fd00:1::2")), AgentInfo("y", "b", ("10.2.0.2", "fd00:2::2")))
    return compile_plan(policy, agents, datetime.now(UTC))


def test_hostile_frames_pass_the_ring_and_the_sensor_without_a_trace() -> None:
    count = 200_000 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 20_000
    frames = _hostile(random.Random(28181), count)

    def body() -> None:
        for end in ("left", "right"):
            _link("set", end, "mtu", "65535")
        sensor = Sensor(_plan(), 0)
        wire = Wire(Interface("right", b"\0" * 6, ()), sensor.hear)
        wire.start()
        tokens = _plan().tokens()
        seen = 0
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Ring("right") as ring, Sender("left") as sender:
            for start in range(0, count, 5000):
                part = frames[start : start + 5000]
                done = sender.send(part)
                # The kernel itself refuses what is shorter than a header.
                assert done.tried == len(part)
                assert set(done.refused) <= {errno.EINVAL}
                heard: list[bytes] = []
                while len(heard) < done.sent and (block := ring.read(2)) is not None:
                    block.network()
                    marks = block.find(MAGIC, SIZE)
                    status = tokens.open_columns(block.take(marks.offset, SIZE)).status
                    found = dict.fromkeys(range(len(block)), ())
                    for row, value in zip(marks.row.tolist(), status.tolist(), strict=True):
                        found[row] += (value,)
                    for row, values in found.items():
                        frame = block.frame(row)
                        assert values == tuple(token.status for token in tokens.find(frame))
                        heard.append(frame)
                seen += len(heard)
                assert len(heard) == done.sent
            assert ring.statistics().drops == 0
        assert wire.stop() == 0
        assert wire.error == ""
        assert seen > count * 0.9
        assert len(sensor.strange().status) <= 1000
        assert sensor.strange_total > 100
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10

    _inside(body)
