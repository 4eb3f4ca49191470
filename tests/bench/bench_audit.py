"""Audit: import into ledger and index, five questions of auditors, and index against ledger, on 100k or 1M events.

Ratios within one run: an import against reading the same lines and recording them without an index; a question against
SQLite's LIKE over the same stored events; a comparison against 50,000 events a second by the clock. Helpers use the
other processors: what the work costs on one is said in processor time, of this process and its helpers together.
"""

import argparse
import itertools
import json
import random
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from secguard.audit import SqliteIndex, catch_up, compare, import_file, parse, search
from secguard.core import Progress, SystemClock
from secguard.events import Actor, decode_stored, decode_untrusted
from secguard.ledger import Ledger

_KINDS = ["video.viewed"] * 5 + ["video.played"] * 3 + ["video.downloaded", "video.queried", "camera.controlled"]
_REASONS = [
    *("日常巡查重点区域", "核查案件线索", "配合刑侦支队调阅监控录像"),
    *("大型活动安保值守", "设备画面质量巡检", "走失人员查找"),
]
UNITS = ["刑侦支队", "交通管理支队", "治安支队", "科技信息化支队"]
_ACTOR = Actor(name="bench")


def lines(count: int) -> Iterator[bytes]:
    """Access events of one month: 400 people, 5,000 cameras, 2,000 cases."""
    rng = random.Random(20261001)
    names = itertools.product("赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许", "伟芳娜敏静强磊军洋勇艳杰娟涛明超秀霞平刚")
    people = [a + b for a, b in names]
    start = datetime(2026, 10, 1, tzinfo=UTC)
    for number in range(count):
        case = f"案2026-{rng.randrange(2000):04d}" if rng.random() < 0.6 else ""
        reason = rng.choice(_REASONS) + (f"，涉及第{rng.randrange(999)}号嫌疑人" if rng.random() < 0.2 else "")
        record = {
            "id": f"platform-{number:09d}",
            "kind": rng.choice(_KINDS),
            "time": (start + timedelta(seconds=number * 2_678_000 / count)).isoformat(),
            "actor": {
                "name": rng.choice(people),
                "role": "侦查员",
                "org": rng.choice(UNITS),
                "address": f"10.16.{rng.randrange(8)}.{rng.randrange(250)}",
            },
            "subject": f"3201160000131{rng.randrange(5000):07d}",
            "case": case,
            "reason": reason,
            "outcome": "denied" if rng.random() < 0.01 else "success",
            "data": {"session": rng.randbytes(8).hex(), "bytes": rng.randrange(1 << 30)},
        }
        yield json.dumps(record, ensure_ascii=False).encode() + b"\n"


def timed(act: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = act()
    return time.perf_counter() - began, result


class Spent:
    """What an act took: seconds by the clock, of processors (with helpers that ended), MiB at its peak (without)."""

    def __init__(self, act: Callable[[], Any]) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak (proc(5))
        processors = _processors()
        self.clock, self.result = timed(act)
        self.processors = _processors() - processors
        status = Path("/proc/self/status").read_text()
        self.peak = int(status.split("VmHWM:")[1].split()[0]) / 1024


def _processors() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def say(what: str) -> Progress:
    """Progress of long work with its rate, on standard error, every five seconds."""
    due = began = time.monotonic()
    first: int | None = None

    def show(done: int, total: int | None, unit: str) -> None:
        nonlocal due, first
        now = time.monotonic()
        first = done if first is None else first
        if now >= due + 5:
            due = now
            rate = (done - first) / (now - began)
            print(f"  {what}: {done:,} of {total or 0:,} {unit}, {rate:,.0f}/s", file=sys.stderr, flush=True)

    return show


def milliseconds(act: Callable[[str], Any], questions: list[str]) -> tuple[float, float]:
    spent = sorted(timed(partial(act, question))[0] * 1000 for question in questions)
    return statistics.median(spent), spent[int(len(spent) * 0.95)]


def questions(rng: random.Random) -> dict[str, list[str]]:
    """Five kinds of question, 20 of each."""
    days = [f"2026-10-{rng.randrange(1, 31):02d}" for _ in range(20)]
    cameras = [f"3201160000131{rng.randrange(5000):07d}" for _ in range(20)]
    return {
        "who watched this camera in October": [f"subject:{camera} time:2026-10" for camera in cameras],
        "what did this person do that day": [
            f"actor:{family}{given} time:{day}"
            for family, given, day in zip("赵钱孙李周吴郑王冯陈" * 2, "伟芳娜敏静" * 4, days, strict=True)
        ],
        "a phrase of six characters": ["调阅监控录像", "走失人员查找", "重点区域", "画面质量巡检"] * 5,
        "a word of two characters and a number": [f"嫌疑 第{rng.randrange(999)}号" for _ in range(20)],
        "downloads refused, without a case": [
            f"kind:video.downloaded outcome:denied NOT case:* time:{day}" for day in days
        ],
    }


def bench(count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def row(what: str, value: float, unit: str, ratio: float | None = None, goal: float | None = None) -> None:
        rows.append({"what": what, "value": f"{value:,.0f}" if value >= 100 else f"{value:.2f}", "unit": unit,
                     "ratio": ratio, "goal": goal})  # fmt: skip
        print(
            f"{what}: {rows[-1]['value']} {unit}" + (f", ratio {ratio:.2f}" if ratio else ""),
            file=sys.stderr,
            flush=True,
        )

    def memory(what: str, spent: Spent) -> None:
        row(f"{what}: peak memory of the process, {scale}", spent.peak, "MiB")

    def processors(what: str, spent: Spent, events: int) -> None:
        row(f"{what}, {scale}, a second of one processor's time", events / spent.processors, "events/s")

    scale = f"{count:,} events"
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        file = home / "events.jsonl"
        with file.open("wb") as out:
            out.writelines(lines(count))

        floor = Ledger.create(home / "floor", "bench/floor", anchor=home / "floor-anchor")
        with file.open("rb") as source, floor:
            batches = _batched(source)
            bare, _ = timed(lambda: [floor.record([decode_untrusted(raw) for raw in batch]) for batch in batches])

        clock = SystemClock()
        ledger = Ledger.create(home / "ledger", "bench/log", anchor=home / "anchor", clock=clock)
        index = SqliteIndex.open(home / "audit.db")
        row(f"read, check and record alone, {scale}", count / bare, "events/s")
        importing = Spent(lambda: import_file(file, ledger, clock, _ACTOR, progress=say("import")))
        imported = importing.clock
        row(f"import into the ledger, {scale}", count / imported, "events/s", bare / imported)
        processors("import into the ledger", importing, count)
        memory("import", importing)
        indexing = Spent(lambda: catch_up(index, ledger, say("index")))
        indexed = indexing.clock
        row(f"index, {scale}", count / indexed, "events/s")
        processors("index", indexing, count)
        memory("index", indexing)
        row(f"import with index, {scale}", count / (imported + indexed), "events/s", bare / (imported + indexed))
        row("size of the index a million events", (home / "audit.db").stat().st_size / count, "MB")

        plain = sqlite3.connect(home / "plain.db", isolation_level=None)
        plain.execute("CREATE TABLE plain (seq INTEGER PRIMARY KEY, body TEXT)")
        plain.execute("BEGIN")
        bodies = ((first + n, body.decode()) for first, batch in ledger.scan() for n, body in enumerate(batch) if body)
        plain.executemany("INSERT INTO plain VALUES (?, ?)", bodies)
        plain.execute("COMMIT")
        like = "SELECT seq FROM plain WHERE body LIKE '%调阅监控录像%' ORDER BY seq DESC"
        scanning = statistics.median(timed(lambda: plain.execute(like).fetchall())[0] * 1000 for _ in range(3))
        plain.close()
        row(f"LIKE over the events, {scale}", scanning, "ms")

        now = clock.now()
        for name, asked in questions(random.Random(7)).items():
            p50, p95 = milliseconds(lambda text: index.find(parse(text, now=now), limit=50), asked)
            row(f"{name}: index, p50 ({scale})", p50, "ms", scanning / p50, 1.0)
            row(f"{name}: index, p95 ({scale})", p95, "ms")
        asked = list(itertools.chain.from_iterable(questions(random.Random(8)).values()))
        searching = Spent(lambda: milliseconds(lambda text: search(text, index, ledger, clock, _ACTOR), asked))
        p50, p95 = searching.result
        row(f"whole answer, recorded first, p50 ({scale})", p50, "ms", scanning / p50)
        row(f"whole answer, recorded first, p95 ({scale})", p95, "ms")
        memory("search", searching)

        size = ledger.size
        reading, _ = timed(lambda: sum(decode_stored(body).v for _, batch in ledger.scan() for body in batch if body))
        comparing = Spent(lambda: compare(index, ledger, say("compare")))
        findings, *_ = comparing.result
        assert not findings
        row(f"read and decode every event, {scale}", size / reading, "events/s")
        rate = size / comparing.clock
        row(f"compare index with ledger, {scale}", rate, "events/s", rate / 50_000, 1.0)
        processors("compare index with ledger", comparing, size)
        memory("compare", comparing)
        index.close()
        ledger.close()
    return rows


def _batched(source: Iterator[bytes]) -> Iterator[list[bytes]]:
    while batch := list(itertools.islice(source, 512)):
        yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print rows {what, value, unit, ratio, goal}")
    parser.add_argument("--events", type=int, nargs="+", default=[100_000], help="how many, several for several sizes")
    parser.add_argument("--long", action="store_true", help="1,000,000 events: ten minutes")
    options = parser.parse_args()
    rows = [row for count in ([1_000_000] if options.long else options.events) for row in bench(count)]
    if options.json:
        print(json.dumps(rows, ensure_ascii=False))


if __name__ == "__main__":
    main()
