"""Audit beside Elasticsearch, in one run: ingest, index, the questions of auditors, rebuild, an outage, reconcile.

The server is real (tests/integration/audit_elastic/server.py: 9.2.0, TLS, 1 GB of heap, a collector of its choice) and
has the same events under the same mapping. It shares this machine's processors with what it is compared with, so that
each has them to itself while it is measured. Events are made a batch at a time: memory does not grow with their number.

For many events, `--questions` measures only the questions, and what building each index cost: Elasticsearch is then
loaded in one go, several times as fast as by indexing. `--keep FOLDER` keeps ledger and indices in FOLDER/EVENTS; a run
on the same folder goes on where the last one was ended, and asks at once if all is there. `--load` only prepares that:

    python bench_audit_elastic.py --events 10000000 --keep FOLDER --load --heap 3072
    python bench_audit_elastic.py --events 10000000 --keep FOLDER --questions --json
"""

import argparse
import itertools
import json
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
from bench_audit import say, timed
from elastic_questions import ORIGIN, Row, ask, measure, record, source
from elastic_server import HEAP, Running, elasticsearch

from secguard.audit import ElasticIndex, SqliteIndex, catch_up, compare, parse, reindex, row_of
from secguard.audit.index.elastic.delivery import name_of
from secguard.audit.index.elastic.documents import document_of
from secguard.core import SecguardError, SystemClock, SystemPartError
from secguard.events import Event, encode
from secguard.ledger import Ledger

_BULK = 2500
_GROUP = 40_000  # events prepared at once, before they are sent


def batches(count: int, size: int) -> Iterator[list[Event]]:
    events = source(count)
    while batch := list(itertools.islice(events, size)):
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


def bench(count: int, outage: float, heap: int, row: Row) -> None:
    """Everything."""
    scale = f"{count:,} events"
    with tempfile.TemporaryDirectory() as name, elasticsearch(heap=heap) as running:
        home = Path(name)
        bulk(running, min(count, 20_000), 2)  # warm
        stored = bulk(running, count, 2)
        row(f"Elasticsearch bulk, two connections, {scale}", count / stored, "events/s")

        ledger = Ledger.create(home / "ledger", ORIGIN, anchor=home / "anchor", clock=SystemClock())
        recorded = record(ledger, count)
        row(f"ledger, durable, {scale}", count / recorded, "events/s", stored / recorded, 3.0)
        sqlite = SqliteIndex.open(home / "audit.db")
        indexed, _ = timed(lambda: catch_up(sqlite, ledger, say("index on SQLite")))
        both = recorded + indexed
        row(f"ledger and SQLite index, {scale}", count / both, "events/s", stored / both)

        elastic = ElasticIndex.open(home / "elastic.json", running.account, ORIGIN)
        shipped, _ = timed(lambda: catch_up(elastic, ledger, say("index on Elasticsearch")))
        row(f"index on Elasticsearch, from the ledger, {scale}", count / shipped, "events/s")
        rebuilt, _ = timed(lambda: reindex(sqlite, ledger, say("rebuild")))
        row(f"rebuild the index on SQLite, {scale}", count / rebuilt, "events/s", shipped / rebuilt)
        ask(sqlite, elastic, running, scale, row)
        comparing, (findings, *_) = timed(lambda: compare(sqlite, ledger, say("reconcile with SQLite")))
        assert not findings
        row(f"reconcile with SQLite, {scale}", count / comparing, "events/s", count / comparing / 50_000, 1.0)
        _outage(running, elastic, ledger, outage, row)
        row("memory of the measuring process, at most", _megabytes(resource.RUSAGE_SELF), "MB")
        row("memory of its largest helper, at most", _megabytes(resource.RUSAGE_CHILDREN), "MB")
        row(f"memory of Elasticsearch, heap of {heap} MB, at the end", running.megabytes(), "MB")
        sqlite.close()
        elastic.close()
        ledger.close()


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
    fresh = (msgspec.structs.replace(event, id=f"again-{number}") for number, event in enumerate(source(1 << 40)))
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


def _rows() -> tuple[list[dict[str, Any]], Row]:
    rows: list[dict[str, Any]] = []

    def row(what: str, value: float, unit: str, ratio: float | None = None, goal: float | None = None) -> None:
        shown = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
        rows.append({"what": what, "value": shown, "unit": unit, "ratio": ratio, "goal": goal})
        print(f"{what}: {shown} {unit}" + (f", ratio {ratio:.2f}" if ratio else ""), file=sys.stderr, flush=True)

    return rows, row


def _stop(number: int, _: object) -> None:
    """End as if by Ctrl-C, once: also where the caller had SIGINT ignored, as shells do for what runs beside them."""
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print rows {what, value, unit, ratio, goal}")
    parser.add_argument("--events", type=int, nargs="+", default=[100_000], help="how many; several for several sizes")
    parser.add_argument("--outage", type=float, default=10.0, help="seconds for which the server is killed")
    parser.add_argument("--questions", action="store_true", help="only the questions, and what the indices cost")
    parser.add_argument(
        "--keep", type=Path, help="folder for ledger and indices of --questions, of this and later runs"
    )
    parser.add_argument("--load", action="store_true", help="with --keep: only load ledger and Elasticsearch")
    parser.add_argument("--heap", type=int, default=HEAP, help="megabytes of Elasticsearch's heap")
    parser.add_argument(
        "--long",
        action="store_true",
        help="200,000 events with an outage of 60 seconds, then the questions on 1,000,000 and 10,000,000",
    )
    options = parser.parse_args()
    if options.load and not options.keep:
        parser.error("--load needs --keep FOLDER")
    if shutil.which("mvn") is None and not list((Path.home() / ".cache" / "secguard" / "elasticsearch").glob("*.zip")):
        print("needs Elasticsearch: apt-get install maven (downloads it); nothing is measured", file=sys.stderr)
        print("[]")
        return
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _stop)
    only = options.questions or options.keep or options.load
    whole, asked = ([], options.events) if only else (options.events, [])
    if options.long:
        whole, asked, options.outage = [] if only else [200_000], [1_000_000, 10_000_000], 60.0
    rows, row = _rows()
    try:
        for count in whole:
            bench(count, options.outage, options.heap, row)
        for count in asked:
            with tempfile.TemporaryDirectory() as name:
                Path(name).chmod(0o755)  # the server's account goes through it
                home = (options.keep or Path(name)) / str(count)
                measure(home.resolve(), count, options.heap, row, load=options.load)
    except KeyboardInterrupt as error:
        raise SystemExit(128 + error.args[0] if error.args else 130) from None
    if options.json:
        print(json.dumps(rows, ensure_ascii=False))


if __name__ == "__main__":
    main()
