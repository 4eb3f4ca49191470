"""The ledger against the machine's own limits, in one run: `python tests/bench/bench_ledger.py [--events N] [--json]`.

Each ratio compares with a bare loop that does only the unavoidable: the same bytes written and fdatasync'ed in the same
batches; the same SHA-256 calls over the same bytes. Ingest and bare journal take turns, so that a busy machine slows
both; hashing is measured in processor time.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from secguard.events import Actor, Event, new_event_id
from secguard.keys import Algorithm, generate
from secguard.ledger import Ledger, NoteKey, verify_log
from secguard.ledger.integrate import catch_up
from secguard.ledger.journal import Journal

BATCH = 128
ORIGIN = "bench.example/1"
START = datetime(2026, 10, 1, tzinfo=UTC)


def events(first: int, count: int) -> list[Event]:
    """Access events with Chinese text, about 550 bytes each when encoded."""
    made = []
    for k in range(first, first + count):
        data = {"source": "wvp", "position": k, "protocol": "GB28181", "channel": f"3402000000132000{k % 9999:04d}",
                "from": "2026-10-01T08:00:00Z", "to": "2026-10-01T09:00:00Z", "bytes": 123_456_789}  # fmt: skip
        actor = Actor(name="王芳", role="operator", org="江宁分局视频侦查大队", address=f"10.20.3.{k % 250}")
        made.append(
            Event(
                id=new_event_id(),
                kind="video.viewed",
                time=START + timedelta(milliseconds=k),
                actor=actor,
                subject=f"32011500001320{k % 999999:06d}",
                case=f"A320115{k:09d}",
                reason="案件侦查调取监控录像，核对嫌疑车辆轨迹",
                data=data,
            )
        )
    return made


class Bare:
    """Write and fdatasync, nothing else."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT)

    def run(self, parts: list[bytes]) -> float:
        began = time.perf_counter()
        for part in parts:
            os.write(self._file, part)
            os.fdatasync(self._file)
        return time.perf_counter() - began


def frames(root: Path, first: int) -> list[bytes]:
    """The journal's own bytes of the entries from `first` on, frame by frame."""
    journal = Journal(root / "journal")
    journal.load(first // 256 * 256)
    parts = []
    for frame in journal.frames:
        if frame.first >= first:
            with journal.path(frame.segment).open("rb") as file:
                file.seek(frame.offset)
                parts.append(file.read(frame.length))
    journal.close()
    return parts


def ingest(root: Path, total: int, chunk: int) -> dict[str, float]:
    """Ingest in batches of 128 through `Ledger.ingest`, each chunk followed by its bare twin."""
    times = {"ingest": 0.0, "one by one": 0.0, "bare": 0.0, "bare one by one": 0.0, "tiles": 0.0}
    bare = Bare(root.parent / "bare")
    with Ledger.open(root) as log:
        done = 0
        while done < total:
            count = min(chunk, total - done)
            made = events(done, count)
            batches = [made[k : k + BATCH] for k in range(0, count, BATCH)]
            began = time.perf_counter()
            if done // chunk % 4 == 3:  # every fourth chunk through record(): one caller that waits for each batch
                for batch in batches:
                    log.record(batch)
                kind = "one by one"
            else:
                for _ in log.ingest(batches):
                    pass
                kind = "ingest"
            times[kind] += time.perf_counter() - began
            twin = frames(root, done)
            assert sum(map(len, twin)) > 100 * count
            times["bare one by one" if kind == "one by one" else "bare"] += bare.run(twin)
            began = time.perf_counter()
            catch_up(root)
            times["tiles"] += time.perf_counter() - began
            done += count
        assert log.size == total
    return times


def hash_floor(root: Path, total: int) -> tuple[float, float]:
    """Seconds for bare SHA-256 over the same bytes: the four calls an entry needs, and one call over each event."""
    sha = hashlib.sha256
    four = one = 0.0
    pad = bytes(64)
    with Ledger.open(root) as log:
        for block in log.scan(0, total):
            bodies = [body for body in block.bodies if body is not None]
            padded = [pad + body for body in bodies]
            outer, leaf, node = bytes(96), bytes(33), bytes(65)
            began = time.process_time()
            for body in padded:
                sha(body).digest()
                sha(outer).digest()
                sha(leaf).digest()
                sha(node).digest()
            four += time.process_time() - began
            began = time.process_time()
            for body in bodies:
                sha(body).digest()
            one += time.process_time() - began
    return four, one


def restart(root: Path, events_left: int) -> tuple[float, float]:
    """Kill a writer with -9 and time the next one: open to first acknowledged event; and with a long tail."""
    code = (
        "import sys,os,signal;sys.path.insert(0,sys.argv[2]);from bench_ledger import *\n"
        "import secguard.ledger.writer as w; w.KICK=1<<30\n"
        "log=Ledger.open(Path(sys.argv[1]))\n"
        "for k in range(0,int(sys.argv[3]),128): log.record(events(k,128))\n"
        "print('ready',flush=True);os.kill(os.getpid(),signal.SIGKILL)"
    )
    found = []
    for count in (128, events_left):
        child = subprocess.run(
            [sys.executable, "-c", code, str(root), str(Path(__file__).parent), str(count)], stdout=subprocess.PIPE
        )
        assert child.returncode == -signal.SIGKILL
        began = time.perf_counter()
        with Ledger.open(root) as log:
            log.record(events(0, 1))
            found.append(time.perf_counter() - began)
        catch_up(root)
    return found[0], found[1]


def socket_rate(root: Path, count: int) -> float:
    """Acknowledged events a second of four processes that each record one at a time through the service."""
    serve = (
        "import sys,threading;from pathlib import Path;from secguard.ledger import *\n"
        "log=Ledger.open(Path(sys.argv[1]));stop=threading.Event();ready=threading.Event()\n"
        "t=threading.Thread(target=serve,args=(log,stop),kwargs={'ready':ready});t.start();ready.wait()\n"
        "print('ready',flush=True);sys.stdin.read();stop.set();t.join()"
    )
    write = (
        "import sys;sys.path.insert(0,sys.argv[2]);from bench_ledger import *\n"
        "log=Ledger.open(Path(sys.argv[1]));made=events(0,int(sys.argv[3]));print('ready',flush=True);sys.stdin.readline()\n"
        "for e in made: log.record([e])\n"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    service = subprocess.Popen([sys.executable, "-c", serve, str(root)], **pipes)
    assert service.stdout is not None
    service.stdout.readline()
    arguments = [str(root), str(Path(__file__).parent), str(count)]
    writers = [subprocess.Popen([sys.executable, "-c", write, *arguments], **pipes) for _ in range(4)]
    for child in writers:
        assert child.stdout is not None
        child.stdout.readline()
    began = time.perf_counter()
    for child in writers:
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
    for child in writers:
        child.wait()
    seconds = time.perf_counter() - began
    service.communicate(b"")
    return 4 * count / seconds


def rows(total: int, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Run everything and yield one row a measurement."""

    def row(what: str, value: float, unit: str, ratio: float | None = None, goal: float | str = "") -> dict[str, Any]:
        return {"what": what, "value": round(value, 3), "unit": unit, "ratio": ratio and round(ratio, 2), "goal": goal}

    folder = Path(tempfile.mkdtemp(prefix="bench-ledger-"))
    try:
        root = folder / "log"
        Ledger.create(root, ORIGIN, anchor=folder / "anchor").close()
        signer = generate(Algorithm.ED25519)
        chunk = min(32_000, max(BATCH, total // 8))
        say("ingest")
        shares = [min(chunk, total - at) for at in range(0, total, chunk)]
        single = sum(share for number, share in enumerate(shares) if number % 4 == 3)
        piped = total - single
        times = ingest(root, total, chunk)
        yield row("bare journal, batches of 128", piped / times["bare"], "events/s")
        yield row(
            "durable ingest, batches of 128", piped / times["ingest"], "events/s", times["bare"] / times["ingest"],
            0.6,
        )  # fmt: skip
        if single:
            yield row(
                "durable ingest, one caller waiting for each batch of 128", single / times["one by one"], "events/s",
                times["bare one by one"] / times["one by one"],
            )  # fmt: skip
        yield row("tiles, bundles, bodies and IDs from the journal", total / times["tiles"], "entries/s")
        say("publish")
        with Ledger.open(root) as log:
            began = time.perf_counter()
            log.publish(signer)
            yield row("checkpoint of everything", (time.perf_counter() - began) * 1000, "ms")
            began = time.perf_counter()
            for index in range(0, total, max(1, total // 200)):
                log.receipt(index)
            yield row("offline receipt", (time.perf_counter() - began) * 1000 / 200, "ms")
        say("verify")
        began = time.process_time()
        key = NoteKey(ORIGIN, signer.public_key())  # type: ignore[arg-type]
        verdict = verify_log(root, [key], at=START)
        seconds = time.process_time() - began
        assert verdict.outcome.value == "pass", verdict.findings[:3]
        four, one = hash_floor(root, total)
        yield row("bare SHA-256 of the same entries (4 calls each)", total / four, "entries/s")
        yield row("full verify, one core", total / seconds, "entries/s", four / seconds, 0.5)
        yield row("full verify against one SHA-256 call an event", total / one, "entries/s", one / seconds)
        say("service")
        yield row("four writers, one event at a time, through the service", socket_rate(root, 500), "events/s")
        say("restart")
        short, long = restart(root, min(65_536, total))
        yield row(
            f"restart after kill -9 with {total:,} entries, to the first acknowledged event", short, "s", None, "< 1 s"
        )
        yield row("the same, with 65,536 entries still in the journal", long, "s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(f"... {text}", file=sys.stderr, flush=True)

    found = list(rows(options.events, say))
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    for item in found:
        ratio = f"{item['ratio']:.2f}" if item["ratio"] is not None else ""
        print(f"{item['what']:<82}{item['value']:>14,.3f} {item['unit']:<10}{ratio:>6}  {item['goal']}")


if __name__ == "__main__":
    main()
