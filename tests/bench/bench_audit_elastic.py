"""Audit beside Elasticsearch, in one run: ingest, index, the questions of auditors, rebuild, reconcile, an outage.

The server is real (tests/integration/audit_elastic/server.py: 9.2.0, TLS, 1 GB of heap, a collector of its choice) and
has the same events under the same mapping. It shares this machine's processors with what it is compared with, so that
each has them to itself while it is measured.
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
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from bench_audit import lines, milliseconds, questions, timed

from secguard.audit import ElasticIndex, ElasticServer, SqliteIndex, catch_up, compare, parse, reindex, row_of
from secguard.audit.index.elastic.delivery import name_of
from secguard.audit.index.elastic.documents import document_of
from secguard.core import SystemClock, SystemPartError
from secguard.events import Event, decode_untrusted, encode
from secguard.ledger import Ledger

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "integration" / "audit_elastic" / "server.py"
_BATCH = 1024
_BULK = 2500


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
        wait(lambda: not (self.folder / "ready.json").exists(), 60)

    def restart(self) -> None:
        (self.folder / "down").unlink()
        wait((self.folder / "ready.json").exists, 300)

    def megabytes(self) -> float:
        pid = json.loads((self.folder / "ready.json").read_text())["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


def wait(true: Any, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not true():
        if time.monotonic() > limit:
            raise TimeoutError
        time.sleep(0.1)


@contextmanager
def elasticsearch() -> Generator[Running]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (folder / "users").open("a") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            environment = {**os.environ, "SECGUARD_TEST_ES_JAVA_OPTS": "-Xms1g -Xmx1g"}
            with (folder / "log").open("wb") as log:
                server = subprocess.Popen([sys.executable, SERVER, folder], stdout=log, stderr=log, env=environment)
            try:
                wait(lambda: (folder / "ready.json").exists() or server.poll() is not None, 400)
                running = Running(folder)
                template = json.loads((ROOT / "audit" / "elasticsearch" / "index-template.json").read_text())
                with running.client() as client:
                    client.indices.put_index_template(name="secguard-audit", **template)
                yield running
            finally:
                server.terminate()
                server.wait()


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    source = iter(items)
    while chunk := list(itertools.islice(source, size)):
        yield chunk


def bulk(running: Running, events: list[Event], threads: int) -> float:
    """Seconds to store the documents of events: prepared before, no refresh, two connections, as fast as it goes."""
    index = "secguard-audit-bench-raw-0-000000"
    rows = (row_of(number, encode(event), ecs=True) for number, event in enumerate(events))
    prepared = []
    for chunk in chunks(list(rows), _BULK):
        operations: list[Any] = []
        for row in chunk:
            action = {"create": {"_id": name_of("raw", row.seq)}}
            operations += (msgspec.json.encode(action), msgspec.json.encode(document_of(row)))
        prepared.append(operations)
    with running.client() as client, ThreadPoolExecutor(threads) as pool:
        client.indices.create(index=index)

        def send(operations: list[Any]) -> None:
            answer = client.bulk(index=index, operations=operations, filter_path="errors")
            assert not answer["errors"]

        send_all, _ = timed(lambda: list(pool.map(send, prepared)))
        client.indices.delete(index=index)
    return send_all


def bench(count: int, outage: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    scale = f"{count:,} events"

    def row(what: str, value: float, unit: str, ratio: float | None = None, goal: float | None = None) -> None:
        rows.append({"what": what, "value": f"{value:,.0f}" if value >= 100 else f"{value:.2f}", "unit": unit,
                     "ratio": ratio, "goal": goal})  # fmt: skip
        print(f"{what}: {rows[-1]['value']} {unit}" + (f", ratio {ratio:.2f}" if ratio else ""), file=sys.stderr)

    events = [decode_untrusted(line) for line in lines(count)]
    with tempfile.TemporaryDirectory() as name, elasticsearch() as running:
        home = Path(name)
        bulk(running, events[: min(count, 20_000)], 2)  # warm
        stored = bulk(running, events, 2)
        row(f"Elasticsearch bulk, two connections, {scale}", count / stored, "events/s")

        ledger = Ledger.create(home / "ledger", "bench/log", anchor=home / "anchor", clock=SystemClock())
        recorded, _ = timed(lambda: [ledger.record(batch) for batch in chunks(events, _BATCH)])
        row(f"ledger, durable, {scale}", count / recorded, "events/s", stored / recorded, 3.0)
        sqlite = SqliteIndex.open(home / "audit.db")
        indexed, _ = timed(lambda: catch_up(sqlite, ledger))
        both = recorded + indexed
        row(f"ledger and SQLite index, {scale}", count / both, "events/s", stored / both)

        elastic = ElasticIndex.open(home / "elastic.json", running.account, "bench/log")
        shipped, _ = timed(lambda: catch_up(elastic, ledger))
        row(f"index on Elasticsearch, from the ledger, {scale}", count / shipped, "events/s")
        rebuilt, _ = timed(lambda: reindex(sqlite, ledger))
        row(f"rebuild the index on SQLite, {scale}", count / rebuilt, "events/s", shipped / rebuilt)

        now = SystemClock().now()
        for what, asked in questions(random.Random(7)).items():
            times = {}
            for kind, index in (("SQLite", sqlite), ("Elasticsearch", elastic)):
                for text in asked[:3]:
                    index.find(parse(text, now=now), limit=50)
                times[kind] = milliseconds(lambda text, index=index: index.find(parse(text, now=now), limit=50), asked)
                assert [index.find(parse(text, now=now), limit=1).total for text in asked[:3]] == [
                    sqlite.find(parse(text, now=now), limit=1).total for text in asked[:3]
                ]
            (p50, p95), (other50, other95) = times["SQLite"], times["Elasticsearch"]
            row(f"{what}: SQLite, p50 ({scale})", p50, "ms", other50 / p50, 1.0)
            row(f"{what}: SQLite, p95", p95, "ms")
            row(f"{what}: Elasticsearch, p50", other50, "ms")
            row(f"{what}: Elasticsearch, p95", other95, "ms")

        for kind, index in (("SQLite", sqlite), ("Elasticsearch", elastic)):
            comparing, (findings, *_) = timed(lambda index=index: compare(index, ledger))
            assert not findings
            goal = (count / comparing / 50_000, 1.0) if kind == "SQLite" else (None, None)
            row(f"reconcile with {kind}, {scale}", count / comparing, "events/s", *goal)
        _outage(running, elastic, ledger, events, outage, row)
        row("memory of the measuring process, at most", _megabytes(resource.RUSAGE_SELF), "MB")
        row("memory of its largest helper, at most", _megabytes(resource.RUSAGE_CHILDREN), "MB")
        row("memory of Elasticsearch, at most", running.megabytes(), "MB")
        sqlite.close()
        elastic.close()
        ledger.close()
    return rows


def _megabytes(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def _outage(  # noqa: PLR0917 - what one run has
    running: Running, index: ElasticIndex, ledger: Ledger, events: list[Event], seconds: float, row: Any
) -> None:
    """Kill the server under load, go on recording, restart it: all is there once, and how fast it catches up."""
    stopping = threading.Event()

    def follow() -> None:
        while not stopping.wait(0.05):
            try:
                catch_up(index, ledger)
            except SystemPartError:
                continue

    fresh = (msgspec.structs.replace(event, id=f"again-{number}") for number, event in enumerate(events))
    following = threading.Thread(target=follow)
    following.start()
    waits = []
    began = time.monotonic()
    killed = False
    while time.monotonic() < began + 2 + seconds:
        if not killed and time.monotonic() > began + 2:
            running.kill()
            killed = True
        batch = list(itertools.islice(fresh, 128))
        if batch:
            waits.append(timed(lambda batch=batch: ledger.record(batch))[0] * 1000)
        time.sleep(0.1)
    running.restart()
    behind = ledger.size - index.position
    again, _ = timed(lambda: wait(lambda: index.position >= ledger.size, 600))
    stopping.set()
    following.join()
    found = index.find(parse("", now=SystemClock().now()), limit=1).total
    assert found == ledger.size
    assert compare(index, ledger)[0] == []
    row(f"record 128 events while Elasticsearch is killed for {seconds:.0f} s, p50", statistics.median(waits), "ms")
    row(f"catch up {behind:,} events after it is back; all there, once", behind / again, "events/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print rows {what, value, unit, ratio, goal}")
    parser.add_argument("--events", type=int, nargs="+", default=[100_000], help="how many; several for several sizes")
    parser.add_argument("--long", action="store_true", help="1,000,000 and 10,000,000 events, an outage of 60 seconds")
    parser.add_argument("--outage", type=float, default=5.0, help="seconds for which the server is killed")
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
