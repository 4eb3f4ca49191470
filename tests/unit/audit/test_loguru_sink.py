"""The loguru sink: what a platform logs becomes events, in a file or over HTTP, and nothing is dropped in silence."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger as shared

from secguard.audit.sources.loguru import FileSink, HttpSink, event_of, sink
from secguard.core import FormatError, SystemPartError, UsageError
from secguard.events import decode_untrusted


@pytest.fixture
def logger() -> Generator[Any]:
    shared.remove()
    yield shared
    shared.remove()


def lines(path: Path) -> list[Any]:
    return [decode_untrusted(line) for line in path.read_bytes().splitlines()]


def test_bound_values_are_fields_and_the_rest_is_data(logger: Any, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    logger.add(sink(path), catch=False)
    logger.info("nothing of ours")
    bound = logger.bind(kind="video.play", actor="张三", org="分局", subject="32011600001310000001", case="案7")
    bound.bind(bytes=7, password="hunter2").info("核查 rtsp://u:p@h/ {}", "x")
    bound.bind(actor={"name": "李四", "address": "10.0.0.1"}, reason="另一", outcome="denied", id="own-1").info("text")
    try:
        raise ValueError("broken")
    except ValueError:
        bound.exception("it failed")
    first, second, third = lines(path)
    assert (first.kind, first.actor.name, first.actor.org, first.case) == ("video.played", "张三", "分局", "案7")
    assert first.reason == "核查 rtsp://[redacted]@h/ x"
    assert first.data == {"bytes": 7, "password": "[redacted]", "source_kind": "video.play"}
    assert (second.id, second.actor.name, second.reason, second.outcome.value) == ("own-1", "李四", "另一", "denied")
    assert third.data["exception"] == "broken"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_event_raises(logger: Any, tmp_path: Path) -> None:
    logger.add(sink(tmp_path / "a.jsonl"), catch=False)
    for values in ({"kind": "video.plaid"}, {"kind": "certificate.issued"}, {"kind": "video.viewed", "bytes": "x"}):
        with pytest.raises(FormatError):
            logger.bind(actor="a", **values).info("x")
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    with pytest.raises(SystemPartError):
        FileSink(tmp_path / "none" / "a.jsonl")
    for url in ("https://user:pass@h/", "https:///x"):
        with pytest.raises(UsageError):
            sink(url)


def test_rotation_and_many_threads(logger: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    logger.add(sink(path, durable=False), catch=False)

    def work(name: int) -> None:
        for n in range(100):
            logger.bind(kind="video.viewed", actor="a", id=f"{name}-{n}").info("x" * 500)
            if name == 0 and n == 50:
                path.rename(tmp_path / "a.jsonl.1")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    names = [event.id for file in (path, tmp_path / "a.jsonl.1") for event in lines(file)]
    assert sorted(names) == sorted(f"{name}-{n}" for name in range(4) for n in range(100))


class Source:
    """An HTTP source that refuses at first."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.refusals = 2
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait()

    def _run(self) -> None:
        from aiohttp import web

        async def post(request: web.Request) -> web.Response:
            if self.refusals:
                self.refusals -= 1
                return web.json_response({}, status=503)
            assert request.headers["Authorization"] == "Bearer sgt_x"
            self.events += [json.loads(line) for line in (await request.read()).splitlines()]
            return web.json_response({"rejected": 1})

        async def main() -> None:
            app = web.Application(client_max_size=1 << 20)
            app.router.add_post("/v1/events", post)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            self._stop = asyncio.Event()
            self._ready.set()
            await self._stop.wait()
            await runner.cleanup()

        self._loop.run_until_complete(main())
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def test_over_http_until_it_is_taken(logger: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sgt_x\n")
    source = Source()
    try:
        target = sink(f"http://127.0.0.1:{source.port}", token_file=tmp_path / "token")
        assert isinstance(target, HttpSink)
        number = logger.add(target, catch=False)
        for n in range(7):
            logger.bind(kind="video.viewed", actor="a", id=f"e-{n}").info("x")
        logger.remove(number)  # delivers what waits
    finally:
        source.close()
    assert [event["id"] for event in source.events] == [f"e-{n}" for n in range(7)]
    assert target.refused >= 1


PROGRAM = """
import multiprocessing, os, sys, threading
from loguru import logger
from secguard.audit.sources.loguru import sink

logger.remove()
logger.add(sink(sys.argv[1], token_file=sys.argv[2]), catch=False)

def work(name, long=""):
    for number in range(40):
        logger.bind(kind="video.viewed", actor="a", id=f"{name}-{number}", note=long).info("x")

threads = [threading.Thread(target=work, args=(f"thread{n}",)) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
child = os.fork()  # while the sink's own thread delivers
if child == 0:
    work("forked")
    sys.exit()
other = multiprocessing.get_context("fork").Process(target=work, args=("process", "y" * 50_000))
other.start()
other.join()
assert os.waitpid(child, 0)[1] == 0 and other.exitcode == 0
work("main")
"""


def test_a_program_with_threads_and_forks_that_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sgt_x\n")
    source = Source()
    try:
        url = f"http://127.0.0.1:{source.port}/v1/events"
        program = [sys.executable, "-c", PROGRAM, url, str(tmp_path / "token")]
        own = {name: value for name, value in os.environ.items() if not name.startswith("LOGURU_")}  # our CLI sets some
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, env=own)
    finally:
        source.close()
    assert (done.returncode, done.stderr) == (0, "")
    names = ("thread0", "thread1", "thread2", "thread3", "forked", "process", "main")
    assert sorted(event["id"] for event in source.events) == sorted(f"{name}-{n}" for name in names for n in range(40))


def test_half_a_line_of_a_full_disk_swallows_none(logger: Any, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_text('{"id":"half')
    logger.add(sink(file), catch=False)
    for n in range(2):
        logger.bind(kind="video.viewed", actor="a", id=f"e-{n}").info("x")
    half, *lines = file.read_text().splitlines()
    assert (half, [json.loads(line)["id"] for line in lines]) == ('{"id":"half', ["e-0", "e-1"])


def test_nobody_there_is_said(logger: Any) -> None:
    target = sink("http://127.0.0.1:9", waiting=2, patience=0.2)
    logger.add(target, catch=False)
    bound = logger.bind(kind="video.viewed", actor="a")
    bound.info("x")
    bound.info("x")
    with pytest.raises(SystemPartError) as caught:
        bound.info("x")
    assert caught.value.code == "audit.sink.full"
    with pytest.raises(SystemPartError) as ended:
        target.stop()
    assert ended.value.code == "audit.sink.undelivered"
    target._queue.clear()


def test_a_record_that_says_nothing_of_a_kind_is_none() -> None:
    assert event_of({"extra": {}, "message": "x"}) is None
