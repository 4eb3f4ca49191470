"""The wire of isolation: how fast probes leave and are heard, over a virtual cable made for the moment.

The limits are the kernel's own, in the same run. A BPF program that clones one packet to the cable, over and over, goes
the way that a socket's frames go (socket buffer, queueing discipline, taps, cable, receive path) and leaves out only
what user space costs: the system call, the buffer and the copy. XDP live frames leave out the socket buffer too: no
packet that a sensor of the same host can see is as fast. All counts are those of the far end's interface.
Many short rounds take turns, all with real-time priority where that is allowed, and the best of each contestant counts:
the machine is seldom ours alone.
"""

import argparse
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from secguard.isolation.plan.tokens import MAGIC, SIZE, Kind, Status, Tokens
from secguard.isolation.probes.columns import fill_columns
from secguard.isolation.probes.templates import template
from secguard.isolation.wire.bulk import Sender
from secguard.isolation.wire.namespaces import Namespaces, isolate
from secguard.isolation.wire.raw import libc
from secguard.isolation.wire.ring import Ring
from secguard.isolation.wire.wire import tool

_LINK = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01" + b"\x08\0"
_TOKENS = Tokens(b"s" * 32, b"r" * 16)
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_TYPE_CLS, _TYPE_XDP = 3, 6


class Cable:
    """Two namespaces, `left` in the one and `right` in the other; this process stays in the left one."""

    def __init__(self) -> None:
        isolate()
        self.spaces = Namespaces()
        for name in ("left", "right"):
            self.spaces.add(name)
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
        self._ip("link", "add", "right", "type", "veth", "peer", "name", "left", "netns", self.spaces.path("left"))
        self._ip("link", "set", "right", "up")
        # An open file stays in the namespace that it was opened in.
        self._counters = Path("/proc/thread-self/net/dev").open(encoding="ascii")  # noqa: SIM115 - open as long as we are
        self.spaces.enter("left")
        self._ip("link", "set", "left", "up")
        self.index = socket.if_nametoindex("left")

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run([tool("ip", "iproute2"), *arguments], check=True)

    def arrived(self) -> int:
        """Packets that the far end has counted."""
        self._counters.seek(0)
        line = next(line for line in self._counters if line.lstrip().startswith("right:"))
        return int(line.split(":")[1].split()[1])

    def gro(self, on: bool) -> None:
        """Have the far end poll (NAPI), which live frames need."""
        self.spaces.enter("right")
        try:
            value = ctypes.create_string_buffer(struct.pack("II", 0x2C, on), 8)  # ETHTOOL_SGRO
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
                request = struct.pack("16sP", b"right", ctypes.addressof(value)).ljust(40, b"\0")
                fcntl.ioctl(handle, 0x8946, request)  # SIOCETHTOOL
        finally:
            self.spaces.enter("left")


def _bpf(command: int, attributes: bytes) -> int:
    held = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    done = int(libc.syscall(_SYS_BPF[os.uname().machine], command, held, 128))
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return done


def _load(kind: int, program: list[tuple[int, int, int, int]]) -> int:
    code = b"".join(struct.pack("<BBhi", op, register, 0, value) for op, register, value, _ in program)
    held, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    head = struct.pack("IIQQ", kind, len(program), ctypes.addressof(held), ctypes.addressof(licence))
    return _bpf(5, head)  # BPF_PROG_LOAD


def _test_run(program: int, frame: bytes, count: int, context: bytes = b"", flags: int = 0) -> float:
    data, held = ctypes.create_string_buffer(frame, len(frame)), ctypes.create_string_buffer(context, len(context) + 1)
    attributes = struct.pack(
        "IIIIQQIIIIQQIII", program, 0, len(frame), 0, ctypes.addressof(data), 0, count, 0, len(context), 0,
        ctypes.addressof(held) if context else 0, 0, flags, 0, 256 if flags else 0,
    )  # fmt: skip
    began = time.perf_counter()
    _bpf(10, attributes)  # BPF_PROG_TEST_RUN
    return time.perf_counter() - began


def clones(cable: Cable, frame: bytes, count: int) -> float:
    """Frames a second that the kernel itself sends to the cable."""
    index = cable.index
    # Registers 2 and 3 take the index and no flags; bpf_clone_redirect; return 0.
    steps = [(0xB7, 2, index, 0), (0xB7, 3, 0, 0), (0x85, 0, 13, 0), (0xB7, 0, 0, 0), (0x95, 0, 0, 0)]
    program = _load(_TYPE_CLS, steps)
    try:
        before = cable.arrived()
        seconds = _test_run(program, frame, count)
        return (cable.arrived() - before) / seconds
    finally:
        os.close(program)


def live_frames(cable: Cable, frame: bytes, count: int) -> float:
    """XDP frames a second that the kernel itself redirects to the cable."""
    # Registers 1 and 2 take the index and no flags; return what bpf_redirect says.
    program = _load(_TYPE_XDP, [(0xB7, 1, cable.index, 0), (0xB7, 2, 0, 0), (0x85, 0, 23, 0), (0x95, 0, 0, 0)])
    try:
        cable.gro(True)
        context = struct.pack("6I", 0, len(frame), 0, cable.index, 0, 0)  # struct xdp_md
        before = cable.arrived()
        seconds = _test_run(program, frame, count, context, flags=2)  # BPF_F_TEST_XDP_LIVE_FRAMES
        return (cable.arrived() - before) / seconds
    finally:
        cable.gro(False)
        os.close(program)


def frames(count: int, start: int = 0) -> np.ndarray:
    """Finished SYN probes with tokens and checksums."""
    cases = np.arange(start, start + count)
    hosts = np.zeros((count, 4), np.uint8)
    hosts[:] = (10, 40, 0, 0)
    hosts[:, 2:] = cases.astype(">u4").view(np.uint8).reshape(count, 4)[:, 2:]
    return fill_columns(
        template("syn-data", 4), count, {4: (b"\x0a\x0a\0\x02", hosts)}, _TOKENS.make_columns(Kind.PROBE, cases, 0x200),
        sport=40000 + (cases >> 16), dport=554, isn=_TOKENS.hint_columns(cases), ident=cases & 0xFFFF, link=_LINK,
    )  # fmt: skip


def send(cable: Cable, rows: np.ndarray, lanes: int) -> float:
    """Frames a second that leave from a matrix; each of them must arrive."""
    with Sender("left", lanes=lanes) as sender:
        before = cable.arrived()
        done = sender.send(rows)
        assert done.sent == len(rows), done
    assert cable.arrived() - before == len(rows)
    return done.sent / done.seconds


def masscan(cable: Cable, count: int) -> float:
    """Frames a second from masscan's first to its last."""
    prefix = 32 - max(1, count - 1).bit_length()
    command = [
        shutil.which("masscan") or "masscan", f"10.0.0.0/{prefix}", "-p554", "--rate", "10000000", "--wait", "0",
        "-i", "left", "--adapter-ip", "100.64.0.1", "--adapter-mac", "02:00:00:00:00:01",
        "--router-mac", "02:00:00:00:00:02",
    ]  # fmt: skip
    before = cable.arrived()
    first = last = (0.0, before)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.perf_counter() + 20
    # It does not always end by itself: it has when nothing came for a while.
    while process.poll() is None and time.perf_counter() < end:
        time.sleep(0.005)
        now = (time.perf_counter(), cable.arrived())
        if now[1] != last[1]:
            last = now
        elif now[1] == before:
            first = now
        elif now[0] - last[0] > 0.5:
            break
    process.kill()
    process.wait()
    return (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else 0.0


def heard(cable: Cable, rows: np.ndarray) -> dict[str, float]:
    """Send at the full rate to a process that opens every token: what it heard, lost and cost."""
    ready, go = os.pipe()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            cable.spaces.enter("right")
            good, first, last = 0, 0, 0
            with Ring("right", outgoing=False) as ring:
                cpu = time.process_time()
                os.write(go, b"1")
                while (block := ring.read(1.0 if good else 60.0)) is not None:
                    first, last = first or int(block.time[0]), int(block.time[-1])
                    opened = _TOKENS.open_columns(block.take(block.find(MAGIC, SIZE).offset, SIZE))
                    good += int((opened.status == Status.GOOD).sum())
                cpu = time.process_time() - cpu
                lost = ring.statistics().drops
            told = {"good": good, "lost": lost, "cpu": cpu, "seconds": (last - first) / 1e9}
            os.write(writer, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.read(ready, 1)
    with Sender("left") as sender:
        sent = sender.send(rows).sent
    os.close(writer)
    found: dict[str, float] = json.loads(os.read(reader, 4096))
    os.waitpid(child, 0)
    for descriptor in (ready, go, reader):
        os.close(descriptor)
    return {**found, "sent": sent}


def steady(cable: Cable, rate: int) -> tuple[float, float]:
    """Of a rate asked for: what was kept, and the most that left within five milliseconds, in terms of an even pace."""
    with Sender("left") as sender, Ring("left", outgoing=True) as ring:
        times: list[np.ndarray] = []
        done = threading.Event()

        def hear() -> None:
            while (block := ring.read(0.1)) is not None or not done.is_set():
                if block is not None:
                    times.append(block.time)

        thread = threading.Thread(target=hear)
        thread.start()
        sent = sender.send(frames(rate), rate)
        done.set()
        thread.join()
    at = np.concatenate(times)
    window = np.searchsorted(at, at + 5_000_000) - np.arange(len(at))
    return sent.sent / sent.seconds / rate, float(window.max()) / (rate * 0.005)


def rows(count: int, rounds: int, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Every measurement."""

    def row(what: str, value: float, unit: str, ratio: float | None = None, goal: float | str = "") -> dict[str, Any]:
        return {"what": what, "value": round(value, 3), "unit": unit, "ratio": ratio and round(ratio, 2), "goal": goal}

    cable = Cable()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    made = frames(count)
    one = made[0].tobytes()
    contestants: dict[str, Callable[[], float]] = {
        "clones": lambda: clones(cable, one, count),
        "live": lambda: live_frames(cable, one, count),
        "one": lambda: send(cable, made, 1),
        "two": lambda: send(cable, made, 2),
    }
    if shutil.which("masscan"):
        contestants["masscan"] = lambda: masscan(cable, count)
    best = dict.fromkeys(contestants, 0.0)
    for number in range(rounds):
        say(f"send, round {number + 1} of {rounds}")
        for name, measure in contestants.items():
            try:
                best[name] = max(best[name], measure())
            except (OSError, KeyError) as error:
                if name not in {"clones", "live"} or getattr(error, "errno", 0) not in {0, errno.EPERM, errno.EINVAL}:
                    raise
    clone, live = best["clones"], best["live"]
    what = f"{made.shape[1]}-byte SYN probes"
    if live:
        yield row("veth limit: the kernel alone, without socket buffers (XDP live frames)", live, "frames/s")
    if clone:
        yield row("veth limit with socket buffers: the kernel clones one packet (BPF)", clone, "frames/s")
    limit = live or clone
    yield row(f"send {what}, two lanes", best["two"], "frames/s", best["two"] / limit if limit else None, 0.6)
    one_ratio = best["one"] / clone if clone else None
    yield row(f"send {what} from one core, against the limit with socket buffers", best["one"], "frames/s", one_ratio)
    if best.get("masscan"):
        yield row("masscan --rate 10000000", best["masscan"], "frames/s")
        yield row(
            f"send {what} from one core, against masscan", best["one"], "frames/s", best["one"] / best["masscan"], 1.3
        )
    say("fill")
    fill = max(_rate(lambda: frames(16_384), 16_384) for _ in range(rounds))
    yield row("fill in probes with tokens and checksums", fill, "frames/s", fill / best["one"])
    say("hear")
    tries = [heard(cable, made) for _ in range(rounds)]
    lost = sum(item["sent"] - item["good"] for item in tries)
    total = sum(item["sent"] for item in tries)
    fastest = max(item["good"] / item["seconds"] for item in tries)
    what = f"hear and open all tokens at the sender's full rate: {int(lost)} of {int(total)} lost"
    yield row(what, fastest, "frames/s", (total - lost) / total, 1.0)
    yield row("dropped by the kernel", sum(item["lost"] for item in tries), "frames", None, "0")
    cost = min(item["cpu"] / item["good"] for item in tries)
    yield row("hear and open tokens", 1 / cost, "frames a CPU-second")
    yield row("share of a core that hearing takes at the sender's full rate", cost * best["one"], "cores", None, "< 1")
    say("pace")
    kept, burst = steady(cable, 20_000)
    yield row("20,000 frames/s asked for: kept", kept * 20_000, "frames/s", kept)
    yield row(
        "the most of it that left within 5 ms, against an even pace",
        burst,
        "times",
        None,
        "<= 2, but for a busy machine",
    )


def _rate(work: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(f"... {text}", file=sys.stderr, flush=True)

    found = list(rows(options.frames, options.rounds, say))
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for item in found:
        ratio = f"{item['ratio']:.2f}" if item["ratio"] is not None else ""
        print(f"{item['what']:<82}{item['value']:>14,.3f} {item['unit']:<20}{ratio:>6}  {item['goal']}")


if __name__ == "__main__":
    main()
