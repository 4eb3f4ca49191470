"""How fast each source takes events in, durably, beside the ledger's own durable ingest in the same run."""

import argparse
import asyncio
import json
import resource
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from bench_audit import lines

from secguard.audit import import_file
from secguard.audit.sources.collector import Collector
from secguard.audit.sources.settings import load_sources
from secguard.audit.sources.tokens import Tokens
from secguard.core import SystemClock
from secguard.events import Actor, decode_untrusted
from secguard.ledger import Ledger
from secguard.service.gate import Gate

_ME = Actor(name="bench")
_TABLES: dict[str, dict[str, Any]] = {
    "file": {"kind": "file", "paths": ["events.jsonl"]},
    "syslog over TCP": {"kind": "syslog", "tcp": "127.0.0.1:0"},
    "syslog over UDP": {"kind": "syslog", "udp": "127.0.0.1:0", "buffer_mb": 64},
    "HTTP": {"kind": "http", "listen": "127.0.0.1:0", "plain": True},
}


def feed(name: str, place: str, bodies: list[bytes], headers: dict[str, str]) -> None:
    """Send from a thread, as a platform would."""
    if "UDP" in name or "TCP" in name:
        port = int(place.rpartition(":")[2])
        kind = socket.SOCK_DGRAM if "UDP" in name else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as one:
            one.connect(("127.0.0.1", port))
            for at, body in enumerate(bodies):
                message = b"<13>Oct  1 08:00:00 vms audit: " + body
                one.sendall(message if "UDP" in name else message + b"\n")
                if "UDP" in name and at % 20 == 0:
                    time.sleep(0.0005)  # about 20,000 a second: what is measured is what arrives
    elif name == "HTTP":

        async def post() -> None:
            async with aiohttp.ClientSession() as client:
                for at in range(0, len(bodies), 1000):
                    while True:
                        data = b"\n".join(bodies[at : at + 1000])
                        async with client.post(place, data=data, headers=headers) as answer:
                            if answer.status == 200:
                                break
                        await asyncio.sleep(0.05)

        asyncio.run(post())


async def run(name: str, home: Path, bodies: list[bytes]) -> tuple[float, int]:
    """Seconds until every event that arrived is durable, and how many arrived."""
    ledger = Ledger.create(home / "ledger", "bench/log", anchor=home / "anchor")
    tokens = Tokens(home / "state" / "tokens.json")
    tokens.allow("bench", "one", home / "token", recorder=ledger, clock=SystemClock(), actor=_ME)
    headers = {"Authorization": f"Bearer {(home / 'token').read_text().strip()}"}
    (home / "events.jsonl").write_bytes(b"".join(body + b"\n" for body in bodies) if name == "file" else b"")
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    collector = Collector(
        load_sources({"one": _TABLES[name]}),
        root=home,
        state=home / "state",
        log=ledger,
        clock=SystemClock(),
        actor=_ME,
        contexts=lambda *_: None,
        opener=lambda app, context, most, refused: Gate(app, context, connections=most, refused=refused),
    )
    begun = time.perf_counter()
    task = asyncio.create_task(collector.run(stop, ready.set_result))
    places = (await ready)["one"]
    if name != "file":
        begun = time.perf_counter()
    sender = threading.Thread(target=feed, args=(name, places[0], bodies, headers))
    sender.start()
    done, moved = ledger.size, time.perf_counter()
    while True:
        await asyncio.sleep(0.02)
        size = ledger.size
        idle = not sender.is_alive() and size == done
        if size >= len(bodies) + 2 or (idle and "UDP" in name and time.perf_counter() - moved > 1.0):
            break
        if size != done:
            moved = time.perf_counter()
        done = size
    taken = (moved if idle else time.perf_counter()) - begun
    await asyncio.to_thread(sender.join)  # its last answer comes from this loop
    stop.set()
    status = await task
    ledger.close()
    return taken, status.sources[0].recorded


def measure(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    value = call()
    return time.perf_counter() - begun, value


def bench(count: int) -> Iterator[dict[str, Any]]:
    bodies = [line.rstrip(b"\n") for line in lines(count)]
    scale = f"{count:,} events"

    def row(
        what: str, value: float, unit: str, ratio: float | None = None, goal: float | None = None
    ) -> dict[str, Any]:
        print(f"{what}: {value:,.0f} {unit}" + (f", ratio {ratio:.2f}" if ratio else ""), file=sys.stderr)
        return {"what": what, "value": f"{value:,.0f}", "unit": unit, "ratio": ratio, "goal": None}

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with Ledger.create(home / "floor", "bench/floor", anchor=home / "floor-anchor") as floor:
            groups = [[decode_untrusted(body) for body in bodies[at : at + 1000]] for at in range(0, count, 1000)]
            bare, _ = measure(lambda: [floor.record(group) for group in groups])
        yield row(f"the ledger alone, events ready, groups of 1000, {scale}", count / bare, "events/s")
        path = home / "all.jsonl"
        path.write_bytes(b"\n".join(bodies) + b"\n")
        with Ledger.create(home / "imported", "bench/log", anchor=home / "import-anchor") as ledger:
            taken, _ = measure(lambda: import_file(path, ledger, SystemClock(), _ME))
        yield row(f"audit import, of the ledger alone, {scale}", count / taken, "events/s", bare / taken)
        for name in _TABLES:
            place = home / name.replace(" ", "-")
            place.mkdir()
            taken, recorded = asyncio.run(run(name, place, bodies))
            yield row(
                f"{name}, of the ledger alone, {scale}", recorded / taken, "events/s", recorded / taken * bare / count
            )
            if "UDP" in name:
                yield row("datagrams that the kernel dropped and secguard counted", count - recorded, "datagrams")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield row("peak memory, sender and events in it", peak, "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print rows {what, value, unit, ratio, goal}")
    parser.add_argument("--events", type=int, default=50_000)
    options = parser.parse_args()
    rows = list(bench(options.events))
    if options.json:
        print(json.dumps(rows, ensure_ascii=False))


if __name__ == "__main__":
    main()
