"""The collector with real sockets and files, and a log in memory that can fail."""

import asyncio
import contextlib
import gzip
import io
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from secguard.audit.sources import sockets
from secguard.audit.sources.collector import Collector, Status, judge_status, read_status
from secguard.audit.sources.letters import DeadLetters, Letter
from secguard.audit.sources.meter import Meter, findings_of
from secguard.audit.sources.settings import load_sources
from secguard.audit.sources.tokens import Tokens
from secguard.core import Clock, FormatError, RefusedError, SystemClock, SystemPartError, UsageError
from secguard.events import Actor, Event, Receipt
from secguard.service.gate import Gate

ME = Actor(name="collector")


class Log:
    """The log of conftest, which can be slow, full, and asked by several threads."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.open = threading.Event()
        self.open.set()
        self.problem: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def record(self, events: Sequence[Event]) -> Sequence[Receipt]:
        assert self.open.wait(30)
        if self.problem is not None:
            raise self.problem
        return self.inner.record(events)  # type: ignore[no-any-return]

    def events(self, kind: str = "") -> list[Event]:
        return [event for event in map(self.inner.event, range(self.inner.size)) if kind in event.kind]


class Running:
    def __init__(self, state: Path, places: dict[str, list[str]]) -> None:
        self.state, self.places = state, places
        self.result: Status | None = None

    def port(self, name: str, kind: str = "") -> int:
        place = next(item for item in self.places[name] if kind in item)
        return int(place.rpartition(":")[2].partition("/")[0])

    def health(self, name: str) -> Any:
        status = read_status(self.state)
        assert status is not None
        return next(item for item in status.sources if item.name == name)


@contextlib.asynccontextmanager
async def collecting(root: Path, log: Any, clock: Clock | None = None, **tables: Any) -> AsyncIterator[Running]:
    stop = asyncio.Event()
    ready: asyncio.Future[dict[str, list[str]]] = asyncio.get_running_loop().create_future()
    collector = Collector(
        load_sources(tables),
        root=root,
        state=root / "state",
        log=log,
        clock=clock or SystemClock(),
        actor=ME,
        contexts=lambda *_: None,
        opener=lambda app, context, most, refused: Gate(app, context, connections=most, refused=refused),
    )
    task = asyncio.create_task(collector.run(stop, ready.set_result))
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    running = Running(root / "state", ready.result())
    try:
        yield running
    finally:
        stop.set()
        running.result = await task


async def until(condition: Callable[[], Any]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it did not come to pass"
        await asyncio.sleep(0.01)


def line(number: object, **values: Any) -> bytes:
    record = {
        "id": f"p-{number}",
        "kind": "video.viewed",
        "time": datetime.now(UTC).isoformat(),
        "actor": {"name": "张三"},
        **values,
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


@pytest.fixture
def flaky(log: Any) -> Log:
    return Log(log)


HTTP = {"kind": "http", "listen": "127.0.0.1:0", "plain": True}
SYSLOG = {"kind": "syslog", "udp": "127.0.0.1:0", "tcp": "127.0.0.1:0"}
FILE = {"kind": "file", "paths": ["a.jsonl"]}


def token(root: Path, log: Any, name: str = "vms") -> dict[str, str]:
    tokens = Tokens(root / "state" / "tokens.json")
    tokens.allow(name, "api", root / f"token-{name}", recorder=log, clock=SystemClock(), actor=ME)
    return {"Authorization": f"Bearer {(root / f'token-{name}').read_text().strip()}"}


def send(place: tuple[str, int], *data: bytes, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    with socket.socket(socket.AF_INET, kind) as one:
        one.connect(place)
        for item in data:
            one.sendall(item)


def test_all_sources_at_once_and_again_after_a_restart(tmp_path: Path, flaky: Log) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(line(0) + b"no event\n" + line(1))
    headers = token(tmp_path, flaky)

    async def first() -> None:
        async with collecting(tmp_path, flaky, files=FILE, net=SYSLOG, api=HTTP) as run:
            send(("127.0.0.1", run.port("net", "udp")), b"<13>by datagram", kind=socket.SOCK_DGRAM)
            send(("127.0.0.1", run.port("net", "tcp")), b"<13>by li", b"ne\n13 <13>by count.<13>and last")
            async with aiohttp.ClientSession() as client:
                url = run.places["api"][0]
                answer = await client.post(url, data=line(1) + b"\r\n\n" + line("http"), headers=headers)
                assert answer.status == 200
                said = await answer.json()
            with file.open("ab") as out:
                out.write(line(2))
            await until(lambda: len(flaky.events("video.")) == 4 and len(flaky.events("log.")) == 4)
            await until(lambda: run.health("files").rejected)
            found = judge_status(run.state, ["files", "net", "api"], datetime.now(UTC))
            assert "audit.source.rejected" in [item.code for item in found]
        assert said["received"] == said["recorded"] + said["duplicates"] + said["rejected"] == 2
        assert run.result is not None
        assert {item.name: item.waiting for item in run.result.sources} == {"files": 0, "net": 0, "api": 0}

    asyncio.run(first())
    # p-1 came by two ways at different times: it is a conflict for whichever came second.
    assert len(flaky.events("record.rejected")) == 2
    (rejected,) = [event for event in flaky.events("record.rejected") if "offset" in event.data]
    letters = list(DeadLetters(tmp_path / "state" / "dead").read())
    assert b"no event" in [item["raw"] for item in letters]
    assert rejected.data["raw_sha256"] in [item["sha256"] for item in letters]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "state" / "dead").iterdir())
    messages = sorted(event.data["message"] for event in flaky.events("log."))
    assert messages == ["and last", "by count.", "by datagram", "by line"]
    assert [event.kind for event in flaky.events("collect.")] == ["collect.started", "collect.finished"]
    before = len(flaky.events())

    async def second() -> None:
        with file.open("ab") as out:
            out.write(line(3))
        async with collecting(tmp_path, flaky, files=FILE) as run:
            await until(lambda: flaky.inner.places.get("p-3"))
        assert run.result is not None
        assert (run.result.sources[0].received, run.result.sources[0].recorded) == (1, 1)

    asyncio.run(second())
    assert len(flaky.events()) == before + 3
    down = judge_status(tmp_path / "state", ["files"], datetime.now(UTC))
    assert [item.code for item in down] == ["audit.collect.down"]
    assert not judge_status(tmp_path / "state", [], datetime.now(UTC))


def test_http_refuses_whom_it_should_and_says_why(tmp_path: Path, flaky: Log) -> None:
    headers = token(tmp_path, flaky)

    async def run() -> None:
        async with collecting(tmp_path, flaky, api={**HTTP, "body_mb": 1}) as run, aiohttp.ClientSession() as client:
            url = run.places["api"][0]

            async def status(**options: Any) -> tuple[int, dict[str, Any]]:
                answer = await client.post(url, **options)
                return answer.status, await answer.json()

            assert (await status(data=line(0)))[0] == 401
            assert (await status(data=line(0), headers={"Authorization": "Bearer sgt_wrong"}))[0] == 401
            assert (await status(data=io.BytesIO(b"x" * ((1 << 20) + 1)), headers=headers))[0] == 413

            async def endless() -> AsyncIterator[bytes]:
                for _ in range(40):
                    yield b"y" * (1 << 15)

            assert (await status(data=endless(), headers=headers))[0] == 413
            assert (await status(data=line(0), headers={**headers, "Secguard-Position": "a b"}))[0] == 400
            packed = {**headers, "Content-Encoding": "gzip"}
            assert (await status(data=b"\x1f\x8bno gzip", headers=packed))[1]["code"] == "audit.http.body"
            assert (await status(data=gzip.compress(b"\n" * (8 << 20)), headers=packed))[0] == 413
            for other in ("rot13", "gzip, gzip"):
                packed = {**headers, "Content-Encoding": other}
                assert (await status(data=line(0), headers=packed))[0] == 415
            code, said = await status(data=b"{}\nnot json\n", headers=headers)
            assert (code, said["rejected"], [item["line"] for item in said["problems"]]) == (422, 2, [1, 2])
            assert (await client.get(url.replace("/v1/events", "/healthz"))).status == 200
            Tokens(tmp_path / "state" / "tokens.json").withdraw("vms", recorder=flaky, clock=SystemClock(), actor=ME)
            assert (await status(data=line(0), headers=headers))[0] == 401

    asyncio.run(run())
    assert not flaky.events("video.")
    kinds = [event.kind for event in flaky.events("source.")]
    assert (sorted(kinds), kinds[0]) == (["source.allowed", "source.lost", "source.withdrawn"], "source.allowed")
    clients = next(event.data["clients"] for event in flaky.events("source.lost"))
    assert list(clients) == ["127.0.0.1: no token or certificate that is allowed"]
    kept = (tmp_path / "state" / "tokens.json").read_text() + str(flaky.events())
    assert (tmp_path / "token-vms").read_text().strip() not in kept


def test_http_sent_again_adds_nothing(tmp_path: Path, flaky: Log) -> None:
    """By the event's ID, by the position that the sender names, or by the bytes of the request."""
    headers = token(tmp_path, flaky)
    table = {**HTTP, "map": {"kind": "op", "actor.name": "who"}}
    record = b'{"op":"video.viewed","who":"a"}\n'

    async def run() -> None:
        async with collecting(tmp_path, flaky, api=table) as run, aiohttp.ClientSession() as client:

            async def post(data: bytes, **more: str) -> tuple[int, int]:
                answer = await client.post(run.places["api"][0], data=data, headers={**headers, **more})
                said = await answer.json()
                return said["recorded"], said["duplicates"]

            assert await post(record * 2) == (2, 0)
            assert await post(record * 2) == (0, 2)
            assert await post(record) == (1, 0)
            position = {"Secguard-Position": "log-7:1000"}
            assert await post(record, **position) == (1, 0)
            assert await post(record, **position) == (0, 1)

    asyncio.run(run())
    assert len(flaky.events("video.")) == 4


def test_a_ledger_that_cannot_record_loses_nothing(tmp_path: Path, flaky: Log) -> None:
    """A full disk: events wait, HTTP is told to come again, the status says it; then everything is recorded."""
    headers = token(tmp_path, flaky)
    (tmp_path / "a.jsonl").write_bytes(b"".join(line(n) for n in range(20)))

    async def run() -> None:
        async with collecting(tmp_path, flaky, files=FILE, net=SYSLOG, api=HTTP) as run:
            await until(lambda: len(flaky.events("video.")) == 20)
            flaky.problem = SystemPartError("core.write.failed", "cannot write: No space left on device")
            with (tmp_path / "a.jsonl").open("ab") as out:
                out.write(line(20))
            send(("127.0.0.1", run.port("net", "tcp")), b"<13>while full\n")

            def stalled() -> bool:
                found = judge_status(run.state, ["files", "net", "api"], datetime.now(UTC))
                return "audit.collect.stalled" in [item.code for item in found]

            await until(stalled)
            async with aiohttp.ClientSession() as client:
                answer = await client.post(run.places["api"][0], data=line(21), headers=headers)
                assert (answer.status, "Retry-After" in answer.headers) == (503, True)
                assert (await client.get(run.places["api"][0].replace("/v1/events", "/healthz"))).status == 503
                flaky.problem = None
                await until(lambda: len(flaky.events("log.")) == 1 and len(flaky.events("video.")) == 21)
                await until(lambda: not stalled())
                assert (await client.post(run.places["api"][0], data=line(21), headers=headers)).status == 200

    asyncio.run(run())
    assert len(flaky.events("video.")) == 22


def test_a_slow_ledger_stops_the_senders_and_memory_stays_bounded(tmp_path: Path, flaky: Log) -> None:
    headers = token(tmp_path, flaky)
    count, size = 3000, 4000
    tables = {"net": {**SYSLOG, "queue_mb": 1}, "api": {**HTTP, "queue_mb": 2}}

    async def run() -> None:
        async with collecting(tmp_path, flaky, **tables) as run, aiohttp.ClientSession() as client:
            flaky.open.clear()
            data = b"".join(b"<13>%d %s\n" % (n, b"x" * size) for n in range(count))
            sender = threading.Thread(target=send, args=(("127.0.0.1", run.port("net", "tcp")), data))
            sender.start()
            bodies = [b"".join(line(f"{k}-{n}", reason="r" * 1000) for n in range(400)) for k in range(3)]
            url = run.places["api"][0]
            posts = [asyncio.create_task(client.post(url, data=body, headers=headers)) for body in bodies[:2]]
            await until(lambda: run.health("net").waiting > 100 and run.health("api").waiting == 800)
            busy = await client.post(url, data=bodies[2], headers=headers)
            assert (busy.status, busy.headers["Retry-After"]) == (429, "1")
            waiting = run.health("net").waiting
            await asyncio.sleep(0.3)
            assert run.health("net").waiting == waiting < count / 2
            flaky.open.set()
            await until(lambda: len(flaky.events("log.")) == count)
            sender.join()
            assert [(await post).status for post in posts] == [200, 200]
            assert len(flaky.events("video.")) == 800

    asyncio.run(run())
    numbers = [int(event.data["message"].split()[0]) for event in flaky.events("log.")]
    assert numbers == list(range(count))


def test_what_the_kernel_drops_is_counted_and_recorded(tmp_path: Path, flaky: Log) -> None:
    count = 4000

    async def run() -> None:
        async with collecting(tmp_path, flaky, net={**SYSLOG, "buffer_mb": 0}) as run:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.connect(("127.0.0.1", run.port("net", "udp")))
                for n in range(count):  # nothing is read meanwhile: this is the loop's thread
                    one.send(b"<13>%d" % n + b"x" * 500)
            await until(lambda: run.health("net").received + run.health("net").lost == count)
            assert run.health("net").lost > 0

    asyncio.run(run())
    lost = flaky.events("source.lost")
    assert len(flaky.events("log.")) + sum(event.data["count"] for event in lost) == count
    assert all(event.reason == "the kernel dropped datagrams" for event in lost)


def test_what_is_not_read_before_the_end_is_counted_too(
    tmp_path: Path, flaky: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_DRAIN", 0.0)
    count = 1500

    async def run() -> None:
        async with collecting(tmp_path, flaky, net=SYSLOG) as run:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.connect(("127.0.0.1", run.port("net", "udp")))
                for n in range(count):  # nothing is read meanwhile: this is the loop's thread
                    one.send(b"<13>%d" % n)

    asyncio.run(run())
    (lost,) = flaky.events("source.lost")
    assert lost.reason == "not read before the end"
    assert len(flaky.events("log.")) + lost.data["count"] == count


def test_numbers_of_the_sender_show_losses_and_repetitions(tmp_path: Path, flaky: Log) -> None:
    def message(number: int, text: str = "x") -> bytes:
        return b'<13>1 2026-11-01T08:00:00Z h a - - [meta sequenceId="%d"] %s\n' % (number, text.encode())

    async def run() -> None:
        table = {**SYSLOG, "sequence": "sd.meta.sequenceId"}
        async with collecting(tmp_path, flaky, net=table) as run:
            place = ("127.0.0.1", run.port("net", "tcp"))
            send(place, message(1), message(2), message(5))
            await until(lambda: run.health("net").received == 3)
            send(place, message(5), message(6), message(1, "began anew"), message(2, "anew"))
            await until(lambda: run.health("net").received == 7)
        assert run.result is not None
        (health,) = run.result.sources
        assert (health.recorded, health.duplicates, health.lost) == (6, 1, 2)
        assert "audit.source.lost" in [item.code for item in findings_of(health)]

    asyncio.run(run())
    (lost,) = flaky.events("source.lost")
    assert (lost.data["count"], lost.data["first"], lost.data["last"]) == (2, 3, 4)


def test_streams_that_are_nonsense_are_put_aside_and_the_next_line_is_read(tmp_path: Path, flaky: Log) -> None:
    async def run() -> None:
        async with collecting(
            tmp_path, flaky, net={**SYSLOG, "other": "reject"}, far={**SYSLOG, "peers": ["10.0.0.0/8"]}
        ) as run:
            place = ("127.0.0.1", run.port("net", "tcp"))
            own = line(1).strip()
            send(
                place,
                b"\xff\xfe\n",
                b"400000 ",
                b"z" * 400_000,
                b"<13>Oct  1 08:00:00 h a: " + own + b"\n",
                b"<13>text\n500 <13>cut",
            )
            send(("127.0.0.1", run.port("far", "udp")), b"<13>x", kind=socket.SOCK_DGRAM)
            send(("127.0.0.1", run.port("far", "tcp")), b"<13>x")
            await until(lambda: run.health("net").received == 5 and run.health("far").refused == 2)

    asyncio.run(run())
    assert [event.id for event in flaky.events("video.")] == ["p-1"]
    codes = [event.data["code"] for event in flaky.events("record.rejected")]
    assert sorted(codes) == ["audit.map.kind", "audit.syslog.framing", "audit.syslog.framing", "events.encoding"]
    assert max(event.data["bytes"] for event in flaky.events("record.rejected")) == 400_000


def test_who_is_turned_away_is_recorded_at_once_and_then_once_an_hour() -> None:
    meter = Meter("net", "syslog", 0, 0, 0.0)
    for number in range(40):
        meter.turn_away(f"10.0.0.{number}", "no TLS")
    first = meter.turned_away(5.0)
    assert (first["10.0.0.0: no TLS"], first["others"], len(first)) == (1, 20, 21)
    assert [item.code for item in findings_of(meter.health)] == ["audit.source.refused"]
    meter.turn_away("10.0.0.1", "no TLS")
    assert not meter.turned_away(3000.0)
    assert meter.turned_away(3700.0) == {"10.0.0.1: no TLS": 1}
    assert meter.health.refused == 41
    meter.look(time.monotonic() + 3601)
    assert not findings_of(meter.health)


class Settable:
    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset


def test_silence_and_clocks_are_recorded_and_shown(tmp_path: Path, flaky: Log) -> None:
    clock = Settable()

    async def run() -> None:
        (tmp_path / "a.jsonl").write_bytes(b"")
        (tmp_path / "state" / "dead").mkdir(parents=True)
        with (tmp_path / "state" / "dead" / "000001.jsonl").open("wb") as file:
            file.truncate(256 << 20)
        async with collecting(tmp_path, flaky, clock, files={**FILE, "silent_after": 0.5}) as run:
            await until(lambda: flaky.events("source.lost"))
            found = judge_status(run.state, ["files", "new"], datetime.now(UTC))
            codes = sorted(item.code for item in found)
            assert codes == ["audit.letters.full", "audit.source.failed", "audit.source.silent"]
            late = (datetime.now(UTC) + timedelta(hours=8)).isoformat()
            (tmp_path / "a.jsonl").write_bytes(line(0, time=late))
            await until(lambda: flaky.events("source.drifted") and flaky.events("source.returned"))
            found = judge_status(run.state, ["files"], datetime.now(UTC))
            assert "audit.source.clock" in [item.code for item in found]
            clock.offset = timedelta(hours=-1)
            await until(lambda: flaky.events("clock.jumped"))

    asyncio.run(run())
    assert -28_801 < flaky.events("source.drifted")[0].data["seconds"] < -28_790
    assert -3605 < flaky.events("clock.jumped")[0].data["seconds"] < -3595
    clock.offset = timedelta(hours=-3)

    async def again() -> None:
        async with collecting(tmp_path, flaky, clock, files=FILE):
            await until(lambda: len(flaky.events("clock.jumped")) == 2)

    asyncio.run(again())


def test_the_least_delay_tells_the_clock() -> None:
    meter = Meter("a", "syslog", 0, 5, 0.0)
    now = datetime(2026, 11, 1, tzinfo=UTC)
    for second, delay in enumerate((90, 30, 7, 60)):
        meter.timed(now - timedelta(seconds=delay), now, float(second), live=True)
    assert meter.look(4.0) == ["drifted"]
    assert meter.health.offset == 7
    meter.timed(now - timedelta(seconds=1), now, 5.0, live=True)
    assert meter.look(6.0) == ["agreed"]
    meter.timed(now - timedelta(days=3), now, 70.0, live=False)
    assert (meter.look(71.0), meter.health.offset) == ([], 0)


def test_one_source_that_cannot_start_keeps_no_other_from_it(tmp_path: Path, flaky: Log) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = {"kind": "syslog", "tcp": f"127.0.0.1:{taken.getsockname()[1]}"}

        async def run() -> None:
            async with collecting(tmp_path, flaky, files=FILE, net=busy) as run:
                found = judge_status(run.state, ["files", "net"], datetime.now(UTC))
                assert [(item.code, item.where) for item in found] == [("audit.source.failed", "net")]
                with pytest.raises(RefusedError) as caught:
                    async with collecting(tmp_path, flaky, files=FILE):
                        pass
                assert caught.value.code == "audit.collect.running"

        asyncio.run(run())

        async def alone() -> None:
            async with collecting(tmp_path, flaky, net=busy):
                pass

        with pytest.raises(SystemPartError) as caught:
            asyncio.run(alone())
        assert caught.value.code == "service.listen"

    async def none() -> None:
        async with collecting(tmp_path, flaky):
            pass

    with pytest.raises(UsageError) as usage:
        asyncio.run(none())
    assert usage.value.code == "audit.collect.none"


def test_dead_letters_are_bounded_and_said(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead", limit=300_000)
    now = datetime(2026, 11, 1, tzinfo=UTC)
    kept = letters.keep([Letter("ab" * 32, "net", b"\xff" * 100_000, 100_000) for _ in range(9)], now)
    assert kept == 3
    assert letters.keep([Letter("cd" * 32, "net", b"x", 1)], now) == 1
    assert [len(item["raw"]) for item in letters.read()] == [64 << 10] * 3 + [1]
    with (tmp_path / "dead" / "000001.jsonl").open("ab") as file:
        file.write(b'{"torn')
    letters.keep([Letter("ef" * 32, "net", b"y", 1)], now)
    assert [item["raw"] for item in letters.read()][-1] == b"y"
    status = Status(pid=1, started="", written="", letters_full=True)
    assert status.letters_full


def test_tokens_cannot_be_made_twice_or_over_a_file(tmp_path: Path, log: Any) -> None:
    tokens = Tokens(tmp_path / "tokens.json")
    options: dict[str, Any] = {"recorder": log, "clock": SystemClock(), "actor": ME}
    tokens.allow("a", "api", tmp_path / "out", **options)
    assert (tmp_path / "out").stat().st_mode & 0o777 == (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    for name, out, code in [("a", "x", "exists"), ("b", "out", "out"), ("", "y", "name"), ("a b", "z", "name")]:
        with pytest.raises((RefusedError, UsageError)) as caught:
            tokens.allow(name, "api", tmp_path / out, **options)
        assert caught.value.code == f"audit.token.{code}"
    secret = (tmp_path / "out").read_text().strip()
    assert (tokens.holder(secret, "api"), tokens.holder(secret, "other"), tokens.holder("x", "api")) == (
        "a",
        None,
        None,
    )
    (tmp_path / "tokens.json").write_text("[")
    with pytest.raises(FormatError):
        tokens.all()
