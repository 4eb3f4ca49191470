"""Audit beside Elasticsearch, in one run: ingest, index, the questions of auditors, rebuild, an outage, reconcile.

The server is real (tests/integration/audit_elastic/server.py: 9.2.0, TLS, 1 GB of heap, a collector of its choice) and
has the same events under the same mapping. It shares this machine's processors with what it is compared with, so that
each has them to itself while it is measured. Events are made a batch at a time: memory does not grow with their number.
"""

import argparse
import fcntl
import itertools
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from bench_audit import lines, milliseconds, questions, say, timed

from secguard.audit import ElasticIndex, ElasticServer, SqliteIndex, catch_up, compare, parse, reindex, row_of
from secguard.audit.index.elastic.delivery import name_of
from secguard.audit.index.elastic.documents import document_of
from secguard.core import SecguardError, SystemClock, SystemPartError
from secguard.events import Event, decode_untrusted, encode
from secguard.ledger import Ledger

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "integration" / "audit_elastic" / "server.py"
HEAP = 1024
"""Megabytes of Elasticsearch's heap."""
_BATCH = 1024
_BULK = 2500
_GROUP = 40_000  # events prepared at once, before they are sent


class Running:
    """A server, and how to reach it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        said = json.loads((folder / "ready.json").read_text())
        self.account = ElasticServer(said["url"], Path(said["ca"]), "admin", said["passwords"]["admin"])
        self.pid = int(said["pid"])

    def client(self) -> Any:
        from elasticsearch import Elasticsearch

        sign_in = (self.account.user, self.account.password)
        return Elasticsearch(self.account.url, basic_auth=sign_in, ca_certs=str(self.account.ca), request_timeout=120)

    def kill(self) -> None:
        (self.folder / "down").touch()
        os.kill(json.loads((self.folder / "ready.json").read_text())["pid"], signal.SIGKILL)
        wait(lambda: not (self.folder / "ready.json").exists(), 60, "kill Elasticsearch")

    def restart(self) -> None:
        (self.folder / "down").unlink()
        wait((self.folder / "ready.json").exists, 300, "restart Elasticsearch")

    def megabytes(self) -> float:
        pid = json.loads((self.folder / "ready.json").read_text())["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


def wait(true: Callable[[], bool], seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not true():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


@contextmanager
def elasticsearch() -> Generator[Running]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (folder / "users").open("a") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            environment = {**os.environ, "SECGUARD_TEST_ES_JAVA_OPTS": f"-Xms{HEAP}m -Xmx{HEAP}m"}
            with (folder / "log").open("wb") as log:
                server = subprocess.Popen([sys.executable, SERVER, folder], stdout=log, stderr=log, env=environment)
            try:
                wait(lambda: (folder / "ready.json").exists() or server.poll() is not None, 400, "start Elasticsearch")
                if not (folder / "ready.json").exists():
                    raise RuntimeError((folder / "log").read_text(errors="replace")[-2000:])
                running = Running(folder)
                template = json.loads((ROOT / "audit" / "elasticsearch" / "index-template.json").read_text())
                with running.client() as client:
                    client.indices.put_index_template(name="secguard-audit", **template)
                yield running
            finally:
                server.terminate()
                server.wait()


def batches(count: int, size: int) -> Iterator[list[Event]]:
    source = map(decode_untrusted, lines(count))
    while batch := list(itertools.islice(source, size)):
        yield batch


def bulk(running: Running, count: int, threads: int) -> float:
    """Seconds to store the documents of events: prepared before, no refresh, two connections, as fast as it goes."""
    index = "secguard-audit-bench-raw-0-000000"
    spent, done, show = 0.0, 0, say("Elasticsearch bulk")
    with running.client() as client, ThreadPoolExecutor(threads) as pool:
        client.indices.create(index=index)

        def send(operations: list[Any]) -> None:
            answer = client.bulk(index=index, operations=operations, filter_path="errors")
            assert not answer["errors"]

        for group in batches(count, _GROUP):
            prepared: list[list[Any]] = [[] for _ in range(0, len(group), _BULK)]
            for number, event in enumerate(group):
                row = row_of(done + number, encode(event), ecs=True)
                action = {"create": {"_id": name_of("raw", row.seq)}}
                prepared[number // _BULK] += (msgspec.json.encode(action), msgspec.json.encode(document_of(row)))
            spent += timed(lambda prepared=prepared: list(pool.map(send, prepared)))[0]
            done += len(group)
            show(done, count, "events")
        client.indices.delete(index=index)
    return spent


def record(ledger: Ledger, count: int) -> float:
    """Seconds to record events durably, decoded before."""
    spent, show = 0.0, say("ledger")
    for batch in batches(count, _BATCH):
        spent += timed(lambda batch=batch: ledger.record(batch))[0]
        show(ledger.size, count, "events")
    return spent


Row = Callable[..., None]


def ask(sqlite: SqliteIndex, elastic: ElasticIndex, scale: str, row: Row) -> None:
    """The questions of auditors, to both; each answer must be the same."""
    now = SystemClock().now()
    for what, asked in questions(random.Random(7)).items():
        times = {}
        for kind, index in (("SQLite", sqlite), ("Elasticsearch", elastic)):
            for text in asked[:3]:
                index.find(parse(text, now=now), limit=50)
            times[kind] = milliseconds(lambda text, index=index: index.find(parse(text, now=now), limit=50), asked)
        for text in asked:
            here, there = (index.find(parse(text, now=now), limit=50) for index in (sqlite, elastic))
            assert (here.total, list(here.seqs)) == (there.total, list(there.seqs)), text
        (p50, p95), (other50, other95) = times["SQLite"], times["Elasticsearch"]
        row(f"{what}: SQLite, p50 ({scale})", p50, "ms", other50 / p50, 1.0)
        row(f"{what}: SQLite, p95", p95, "ms")
        row(f"{what}: Elasticsearch, p50", other50, "ms")
        row(f"{what}: Elasticsearch, p95", other95, "ms")


def bench(count: int, outage: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    scale = f"{count:,} events"

    def row(what: str, value: float, unit: str, ratio: float | None = None, goal: float | None = None) -> None:
        shown = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
        rows.append({"what": what, "value": shown, "unit": unit, "ratio": ratio, "goal": goal})
        print(f"{what}: {shown} {unit}" + (f", ratio {ratio:.2f}" if ratio else ""), file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name, elasticsearch() as running:
        home = Path(name)
        bulk(running, min(count, 20_000), 2)  # warm
        stored = bulk(running, count, 2)
        row(f"Elasticsearch bulk, two connections, {scale}", count / stored, "events/s")

        ledger = Ledger.create(home / "ledger", "bench/log", anchor=home / "anchor", clock=SystemClock())
        recorded = record(ledger, count)
        row(f"ledger, durable, {scale}", count / recorded, "events/s", stored / recorded, 3.0)
        sqlite = SqliteIndex.open(home / "audit.db")
        indexed, _ = timed(lambda: catch_up(sqlite, ledger, say("index on SQLite")))
        both = recorded + indexed
        row(f"ledger and SQLite index, {scale}", count / both, "events/s", stored / both)

        elastic = ElasticIndex.open(home / "elastic.json", running.account, "bench/log")
        shipped, _ = timed(lambda: catch_up(elastic, ledger, say("index on Elasticsearch")))
        row(f"index on Elasticsearch, from the ledger, {scale}", count / shipped, "events/s")
        rebuilt, _ = timed(lambda: reindex(sqlite, ledger, say("rebuild")))
        row(f"rebuild the index on SQLite, {scale}", count / rebuilt, "events/s", shipped / rebuilt)
        ask(sqlite, elastic, scale, row)
        comparing, (findings, *_) = timed(lambda: compare(sqlite, ledger, say("reconcile with SQLite")))
        assert not findings
        row(f"reconcile with SQLite, {scale}", count / comparing, "events/s", count / comparing / 50_000, 1.0)
        _outage(running, elastic, ledger, outage, row)
        row("memory of the measuring process, at most", _megabytes(resource.RUSAGE_SELF), "MB")
        row("memory of its largest helper, at most", _megabytes(resource.RUSAGE_CHILDREN), "MB")
        row(f"memory of Elasticsearch, heap of {HEAP} MB, at most", running.megabytes(), "MB")
        sqlite.close()
        elastic.close()
        ledger.close()
    return rows


def _megabytes(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


class _Following(threading.Thread):
    """Indexes whatever is recorded, as the service does: waits while the server is away, ends at anything else."""

    def __init__(self, index: ElasticIndex, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self.failure: SecguardError | None = None
        self.stopping = threading.Event()
        self._index, self._ledger = index, ledger

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            try:
                catch_up(self._index, self._ledger)
            except SystemPartError:
                continue
            except SecguardError as error:
                self.failure = error
                return


def _outage(running: Running, index: ElasticIndex, ledger: Ledger, seconds: float, row: Row) -> None:
    """Kill the server under load, go on recording, restart it: all is there once, and how fast it catches up."""
    following = _Following(index, ledger)
    following.start()
    source = map(decode_untrusted, lines(1 << 40))
    fresh = (msgspec.structs.replace(event, id=f"again-{number}") for number, event in enumerate(source))
    waits: list[float] = []

    def load(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            batch = list(itertools.islice(fresh, 128))
            waits.append(timed(lambda batch=batch: ledger.record(batch))[0] * 1000)
            time.sleep(0.1)

    load(2)
    print(f"  Elasticsearch is killed, for {seconds:.0f} s", file=sys.stderr, flush=True)
    running.kill()
    waits.clear()
    load(seconds)
    row(f"record 128 events while Elasticsearch is killed for {seconds:.0f} s, p50", statistics.median(waits), "ms")
    running.restart()
    print("  Elasticsearch is back", file=sys.stderr, flush=True)
    began, start = time.monotonic(), index.position
    show, seen, due = say("catch up"), start, began + 300
    while index.position < ledger.size:
        if index.position > seen:
            seen, due = index.position, time.monotonic() + 300
        if following.failure is not None or time.monotonic() > due:
            raise RuntimeError(f"does not catch up: {following.failure or 'no progress for 300 s'}")
        show(seen, ledger.size, "events")
        time.sleep(0.02)
    row(f"catch up {ledger.size - start:,} events after it is back", (ledger.size - start) / (time.monotonic() - began),
        "events/s")  # fmt: skip
    following.stopping.set()
    following.join()
    spent, (findings, counts, *_) = timed(lambda: compare(index, ledger, say("reconcile with Elasticsearch")))
    found = index.find(parse("", now=SystemClock().now()), limit=1).total
    assert not findings
    assert found == ledger.size
    row("events lost by the outage", counts["missing"], "events")
    row("events doubled by it", counts["extra"], "events")
    row(f"reconcile with Elasticsearch, {ledger.size:,} events", ledger.size / spent, "events/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print rows {what, value, unit, ratio, goal}")
    parser.add_argument("--events", type=int, nargs="+", default=[100_000], help="how many; several for several sizes")
    parser.add_argument("--long", action="store_true", help="1,000,000 and 10,000,000 events, an outage of 60 seconds")
    parser.add_argument("--outage", type=float, default=10.0, help="seconds for which the server is killed")
    options = parser.parse_args()
    if shutil.which("mvn") is None and not list((Path.home() / ".cache" / "secguard" / "elasticsearch").glob("*.zip")):
        print("needs Elasticsearch: apt-get install maven (downloads it); nothing is measured", file=sys.stderr)
        print("[]")
        return
    sizes = [1_000_000, 10_000_000] if options.long else options.events
    found = [one for count in sizes for one in bench(count, 60.0 if options.long else options.outage)]
    if options.json:
        print(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    main()
