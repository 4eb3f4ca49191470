"""The questions of auditors on SQLite and on Elasticsearch, beside each other, and what building each index cost.

Elasticsearch is loaded with the documents, under the names, that `ElasticIndex` writes, but as fast as the machine
goes: without a search in between, documents computed by a process beside the server. Ledger, index and data may be
kept; a run goes on where another ended.
"""

import fcntl
import multiprocessing
import random
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
from bench_audit import UNITS, Spent, lines, questions, say, timed
from elastic_server import TEMPLATE, Running, elasticsearch
from msgspec.structs import replace

from secguard.audit import ElasticIndex, SqliteIndex, catch_up, parse, rows_of
from secguard.audit.index.elastic import EPOCH
from secguard.audit.index.elastic.client import BUSY
from secguard.audit.index.elastic.delivery import name_of
from secguard.audit.index.elastic.documents import document_of
from secguard.audit.index.following import batches
from secguard.audit.index.index import Index
from secguard.core import Progress, SystemClock
from secguard.core.files import atomic_write
from secguard.events import Event, decode_untrusted
from secguard.ledger import Ledger

ORIGIN = "bench/log"
_BATCH = 1024
_CONNECTIONS = 2
_WARMING = 60
"""Seconds for which other questions are asked before."""
_STEP = 1 << 18
"""Events between two points from which a load goes on."""
_LOADING: dict[str, Any] = {
    "refresh_interval": -1,
    "translog": {"durability": "async", "flush_threshold_size": "2gb", "flush_threshold_age": "1h"},
}
_BUFFER = {"indices.memory.index_buffer_size": "35%"}  # fewer, larger segments: less to merge
_LOADED = {
    "refresh_interval": TEMPLATE["template"]["settings"]["index"]["refresh_interval"],
    "translog": dict.fromkeys(_LOADING["translog"]),
}

Row = Callable[..., None]


class _Cost(msgspec.Struct):
    """What building an index took, over all runs: seconds by the clock and of processors, megabytes at its peak."""

    clock: float = 0.0
    processors: float = 0.0
    memory: float = 0.0

    def add(self, clock: float, processors: float, memory: float) -> None:
        self.clock += clock
        self.processors += processors
        self.memory = max(self.memory, memory)


class _Costs(msgspec.Struct):
    sqlite: _Cost
    elastic: _Cost


class _Folder:
    """Where ledger, indices and what they cost lie; one process at a time uses it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._costs = home / "costs.json"
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o755)
        read = self._costs.read_bytes() if self._costs.exists() else b'{"sqlite": {}, "elastic": {}}'
        self.costs = msgspec.json.decode(read, type=_Costs)

    def save(self) -> None:
        atomic_write(self._costs, msgspec.json.encode(self.costs))

    @contextmanager
    def alone(self) -> Generator[None]:
        with (self.home / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SystemExit(f"{self.home}: another run uses it") from None
            yield


def source(count: int, done: int = 0) -> Iterator[Event]:
    """The events of a run, from one on."""
    return map(decode_untrusted, islice(lines(count), done, None))


def record(ledger: Ledger, count: int) -> float:
    """Seconds to record the events that the ledger lacks durably, decoded before."""
    spent, done, show = 0.0, ledger.size, say("ledger")
    events = source(count, done) if done < count else iter(())  # passing over them takes minutes
    while batch := list(islice(events, _BATCH)):
        spent += timed(lambda batch=batch: ledger.record(batch))[0]
        done += len(batch)
        show(done, count, "events")
    return spent


def _open_ledger(home: Path, count: int) -> Ledger:
    place, clock = home / "ledger", SystemClock()
    if place.exists():
        ledger = Ledger.open(place, clock=clock)
    else:
        ledger = Ledger.create(place, ORIGIN, anchor=home / "anchor", clock=clock)
    record(ledger, count)
    if ledger.size != count:
        raise SystemExit(f"{place}: holds {ledger.size:,} events, not {count:,}")
    return ledger


def _index(folder: _Folder, ledger: Ledger) -> SqliteIndex:
    """The index on SQLite, up to date; built anew if another version made it."""
    index = SqliteIndex.open(folder.home / "audit.db", rebuild=True)
    cost = folder.costs.sqlite = folder.costs.sqlite if index.position else _Cost()
    if index.position < ledger.size:
        spent = Spent(lambda: catch_up(index, ledger, say("index on SQLite")))
        cost.add(spent.clock, spent.processors, spent.peak)
        folder.save()
    return index


# Loading Elasticsearch


def _compute(pipe: Connection, root: Path, start: int, stop: int) -> None:
    """Hand over bulk requests of the documents of [start, stop), until the reader is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Ledger.open(root) as ledger, suppress(BrokenPipeError):
        for first, bodies in batches(ledger, start, stop):
            request = bytearray()
            for row in rows_of(first, bodies, ecs=True):
                request += msgspec.json.encode({"create": {"_id": name_of(ledger.origin, row.seq)}})
                request += b"\n" + msgspec.json.encode(document_of(row)) + b"\n"
            pipe.send((len(bodies), bytes(request), time.process_time()))


def _requests(root: Path, start: int, stop: int) -> Generator[tuple[int, bytes, float]]:
    """Bulk requests, computed ahead by another process: events in it, the request, the process's time so far."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    helper = context.Process(target=_compute, args=(there, root, start, stop), daemon=True)
    helper.start()
    there.close()
    try:
        while start < stop:
            count, request, computed = here.recv()
            start += count
            yield count, request, computed
    finally:
        here.close()
        helper.kill()
        helper.join()


def _send(client: Any, name: str, request: bytes) -> None:
    """Deliver one request; a document that an earlier run delivered is there already."""
    while True:
        answer = client.bulk(index=name, operations=request, filter_path="items.*.status,items.*.error")
        found = {item["create"]["status"]: item["create"].get("error") for item in answer["items"]}
        for status in found.keys() - {201, 409} - BUSY:
            raise RuntimeError(f"{name}: {status}, {found[status]}")
        if not found.keys() & BUSY:
            return
        time.sleep(1)


class _Meter:
    """Adds what the server, this process and its helper take from now on to the cost of the index."""

    def __init__(self, running: Running, folder: _Folder) -> None:
        self._running, self._folder = running, folder
        self._clock, self._used = time.perf_counter(), running.processors() + time.process_time()

    def note(self, computed: float) -> None:
        """Save it; the helper took `computed` seconds so far."""
        clock, used = time.perf_counter(), self._running.processors() + time.process_time() + computed
        self._folder.costs.elastic.add(clock - self._clock, used - self._used, self._running.megabytes())
        self._folder.save()
        self._clock, self._used = clock, used


def _load(running: Running, elastic: ElasticIndex, ledger: Ledger, folder: _Folder) -> None:
    """Bring all events in, make them searchable, and wait until the server has merged what it wants to."""
    show = say("load Elasticsearch")
    with running.client() as client:
        if not all(client.indices.exists(index=name) for name in elastic._file.read().indices):  # the data were removed
            elastic.clear()
        if not elastic.position:
            folder.costs.elastic = _Cost()
        complete = elastic.position == ledger.size
        while elastic.position < ledger.size:
            _fill(client, elastic, ledger, _Meter(running, folder), show)
        meter = _Meter(running, folder)
        client.indices.put_settings(index="secguard-audit-*", settings={"index": _LOADED})
        running.settle()
        if not complete:
            meter.note(0.0)


def _fill(client: Any, elastic: ElasticIndex, ledger: Ledger, meter: _Meter, show: Progress) -> None:
    """Fill one index on the server; the position follows when the events before it are on the server's disk."""
    with elastic._file.alone() as before:
        done = reached = before.position
        stop = min((done // EPOCH + 1) * EPOCH, ledger.size)
        name = elastic._name(before, done)
        state = elastic._ensure(before, name)
        client.indices.put_settings(index=name, settings={"index": _LOADING})

        def flush(position: int, computed: float) -> None:
            client.indices.flush(index=name, wait_if_ongoing=True)
            meter.note(computed)
            elastic._file.write(replace(state, position=position))

        senders, flusher = ThreadPoolExecutor(_CONNECTIONS), ThreadPoolExecutor(1)
        sent, flushing = deque[Future[None]](), deque[Future[None]]()
        try:
            with closing(_requests(ledger.root, done, stop)) as requests:
                for count, request, computed in requests:
                    if len(sent) >= _CONNECTIONS:
                        sent.popleft().result()
                    sent.append(senders.submit(_send, client, name, request))
                    done += count
                    show(done, ledger.size, "events")
                    if done >= reached + _STEP or done == stop:
                        for earlier in (*sent, *flushing):
                            earlier.result()
                        flushing = deque([flusher.submit(flush, done, computed)])
                        reached = done
            for last in flushing:
                last.result()
        finally:
            senders.shutdown(wait=False, cancel_futures=True)
            flusher.shutdown(wait=False, cancel_futures=True)


def _check(elastic: ElasticIndex, ledger: Ledger) -> None:
    """As many documents as events, and some of them, from all over the log, just as `ElasticIndex` writes them."""
    found = elastic.find(parse("", now=SystemClock().now()), limit=1).total
    if found != ledger.size:
        raise RuntimeError(f"Elasticsearch holds {found:,} documents of {ledger.size:,} events")
    for start in range(0, ledger.size, max(ledger.size // 16, 1)):
        stop = min(start + 64, ledger.size)
        expected = [row for first, bodies in batches(ledger, start, stop) for row in rows_of(first, bodies, ecs=True)]
        if elastic.rows(start, stop) != expected:
            raise SystemExit("another version made the documents: remove the kept folder `elasticsearch`")


# Asking


def asked(seed: int) -> dict[str, list[str]]:
    """Seven kinds of question, 20 of each."""
    rng = random.Random(seed)
    return questions(rng) | {
        "a word of the organisation": [rng.choice(UNITS) for _ in range(20)],
        "an address": [f"address:10.16.{rng.randrange(8)}.{rng.randrange(250)}" for _ in range(20)],
    }


def _read(paths: Iterable[Path]) -> None:
    """Have the system keep files in memory, as far as it has any."""
    for path in paths:
        with suppress(OSError), path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def ask(sqlite: SqliteIndex, elastic: ElasticIndex, running: Running, scale: str, row: Row) -> None:
    """The questions of auditors, to both in turn; each answer must be the same.

    No merge runs, files are in memory, and both have answered other questions of each kind before, for a while: a
    server on Java translates what it does often.
    """
    now = SystemClock().now()
    running.settle()
    assert sqlite.file is not None
    _read([*sqlite.file.parent.glob(f"{sqlite.file.name}*"), *filter(Path.is_file, running.data.rglob("*"))])
    both: tuple[tuple[str, Index], ...] = (("SQLite", sqlite), ("Elasticsearch", elastic))
    due, others = time.monotonic() + _WARMING, [text for texts in asked(5).values() for text in texts]
    while time.monotonic() < due:
        for text in others:
            for _, index in both:
                index.find(parse(text, now=now), limit=50)
    first, second = asked(7), asked(9)
    for what in first:
        times: dict[str, list[float]] = {kind: [] for kind, _ in both}
        for text in first[what] + second[what]:
            answers = []
            for kind, index in both:
                spent, found = timed(lambda text=text, index=index: index.find(parse(text, now=now), limit=50))
                times[kind].append(spent * 1000)
                answers.append((found.total, list(found.seqs)))
            assert answers[0] == answers[1], text
            both = both[::-1]  # each is the first of two as often
        (p50, p95), (other50, other95) = _percentiles(times["SQLite"]), _percentiles(times["Elasticsearch"])
        row(f"{what}: SQLite, p50 ({scale})", p50, "ms", other50 / p50, 1.0)
        row(f"{what}: SQLite, p95", p95, "ms")
        row(f"{what}: Elasticsearch, p50", other50, "ms")
        row(f"{what}: Elasticsearch, p95", other95, "ms")


def _percentiles(spent: list[float]) -> tuple[float, float]:
    return statistics.median(spent), sorted(spent)[int(len(spent) * 0.95)]


def _report(what: str, cost: _Cost, count: int, disk: float, row: Row) -> None:
    scale = f"{count:,} events"
    row(f"build the index on {what}, {scale}", count / cost.clock, "events/s")
    row(f"build the index on {what}, {scale}, a second of one processor's time", count / cost.processors, "events/s")
    row(f"memory while building it on {what}, at most", cost.memory, "MB")
    row(f"size of the index on {what}, {scale}", disk / 1e6, "MB")


def measure(home: Path, count: int, heap: int, row: Row, *, load: bool) -> None:
    """Bring ledger and indices up to date, ask, and say what it cost; with `load`, only ledger and Elasticsearch."""
    folder = _Folder(home)
    with folder.alone(), _open_ledger(home, count) as ledger:
        sqlite = None if load else _index(folder, ledger)
        with elasticsearch(home / "elasticsearch", heap, **_BUFFER) as running:
            elastic = ElasticIndex.open(home / "elastic.json", running.account, ORIGIN)
            _load(running, elastic, ledger, folder)
            _check(elastic, ledger)
            with running.client() as client:
                there = client.indices.stats(index="secguard-audit-*", metric="store,segments")["_all"]["total"]
            _report("Elasticsearch", folder.costs.elastic, count, there["store"]["size_in_bytes"], row)
            if sqlite is not None:
                here = sum(path.stat().st_size for path in home.glob("audit.db*"))
                _report("SQLite", folder.costs.sqlite, count, here, row)
                spent = Spent(lambda: ask(sqlite, elastic, running, f"{count:,} events", row))
                row(f"memory of the asking process with SQLite, {count:,} events, at most", spent.peak, "MB")
                row(f"memory of Elasticsearch, heap of {heap} MB, after it", running.megabytes(), "MB")
                sqlite.close()
            elastic.close()
