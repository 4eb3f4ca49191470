import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.audit import import_file
from secguard.audit.sources.importer import Imported
from secguard.core import Clock, FormatError, RefusedError, UsageError
from secguard.events import MAX_EVENT, Actor, Assurance, Event, Receipt, Result, decode_untrusted, encode


def line(number: int = 0, **values: Any) -> bytes:
    record = {
        "id": f"p-{number}",
        "kind": "video.view",
        "time": "2026-10-01T08:00:00+08:00",
        "actor": {"name": "张三"},
        "subject": "32011600001310000001",
        "case": "案2026-7",
        "reason": "核查",
        "outcome": "success",
        "data": {"seconds": 60},
        **values,
    }
    return json.dumps(record, ensure_ascii=False).encode()


@pytest.fixture
def run(tmp_path: Path, log: Any, clock: Clock, auditor: Actor) -> Any:
    def go(*lines: bytes, name: str = "events.jsonl", **options: Any) -> Imported:
        path = tmp_path / name
        path.write_bytes(b"\n".join(lines) + b"\n")
        return import_file(path, log, clock, auditor, **options)

    return go


def kinds(log: Any) -> list[str]:
    return [log.event(seq).kind for seq in range(log.size)]


def test_events_are_recorded_between_the_ends_of_the_act(run: Any, log: Any) -> None:
    done = run(line(0), b"", line(1, kind="video.downloaded"), case="案1", reason="月度")
    assert (done.lines, done.recorded, done.duplicates, done.rejected) == (2, 2, 0, 0)
    assert kinds(log) == ["import.started", "video.viewed", "video.downloaded", "import.finished"]
    started, viewed, _, finished = (log.event(seq) for seq in range(4))
    assert (started.case, started.reason, started.subject) == ("案1", "月度", "events.jsonl")
    assert started.data["sha256"] == finished.data["sha256"] == done.sha256
    assert finished.data["act"] == started.id
    assert finished.data["recorded"] == 2
    assert viewed.actor == Actor(name="张三")
    assert viewed.data == {"seconds": 60, "source_kind": "video.view"}


def test_the_same_file_again_adds_nothing(run: Any, log: Any) -> None:
    bad = b"not json"
    run(line(0), bad, line(1))
    before = kinds(log)
    again = run(line(0), bad, line(1))
    assert (again.recorded, again.duplicates, again.rejected) == (0, 2, 1)
    assert kinds(log) == [*before, "import.started", "import.finished"]


def test_what_the_service_adds_makes_no_other_event(run: Any, log: Any) -> None:
    """Imported through the service, which stamps who asked, then without it, and with keys in any order."""
    run(line(0, data={"z": 1, "a": {"y": 2, "b": 3.0}}), line(1))
    for place in (1, 2):
        event = log.event(place)
        stamped = msgspec.structs.replace(event, data={**event.data, "peer_uid": 1000})
        log.bodies[place] = msgspec.json.encode(stamped)
    again = run(line(0, data={"a": {"b": 3.0, "y": 2}, "z": 1}), line(1))
    assert (again.recorded, again.duplicates, again.rejected) == (0, 2, 0)
    assert run(line(1, data={"seconds": 61})).rejected == 1


def test_todays_rules_for_secrets_make_no_other_event(run: Any, log: Any) -> None:
    """Recorded by a version that knew fewer secrets: the same line is the same event, a changed one is not."""
    lines = [line(n, reason="sshpass -p hunter2 x", data={"community_string": "geheim"}) for n in range(2)]
    for number, raw in enumerate(lines):
        old = msgspec.json.decode(raw)
        run(line(number))
        place = log.places[f"p-{number}"]
        event = log.event(place)
        data = {"community_string": "geheim", "source_kind": "video.view", "peer_uid": 1}
        log.bodies[place] = encode(msgspec.structs.replace(event, reason=old["reason"], data=data))
    again = run(*lines)
    assert (again.recorded, again.duplicates, again.rejected) == (0, 2, 0)
    assert run(line(0, reason="sshpass -p hunter2 y", data={"community_string": "geheim"})).rejected == 1


def test_a_file_cannot_say_who_handed_it_in(run: Any, log: Any) -> None:
    done = run(line(0, data={"peer_uid": 0}))
    assert (done.recorded, run(line(0, data={"peer_uid": 0})).duplicates) == (1, 1)
    assert log.event(1).data == {"source_peer_uid": 0, "source_kind": "video.view"}


@pytest.mark.parametrize("name", ["secguard:end:x", "secguard:rejected:x", "\\u0073ecguard:end:x"])
def test_a_file_cannot_use_the_names_that_secguard_derives(run: Any, log: Any, name: str) -> None:
    done = run(line(0).replace(b"p-0", name.encode()))
    assert [item.code for item in done.listed] == ["audit.record.reserved-id"]
    assert "secguard:end:x" not in log.places


def test_a_line_fits_whether_the_service_runs_or_not(run: Any, log: Any) -> None:
    from secguard.audit.sources.reading import ROOM as _ROOM

    empty = len(encode(decode_untrusted(line(0, data={"n": ""}))))
    most = MAX_EVENT - _ROOM - empty
    done = run(line(0, data={"n": "x" * most}), line(1, data={"n": "x" * (most + 1)}))
    assert (done.recorded, [item.code for item in done.listed]) == (1, ["events.size"])
    event = log.event(1)
    encode(msgspec.structs.replace(event, data={**event.data, "peer_uid": 2**32 - 1}))


def test_an_id_that_says_something_else_is_no_duplicate(run: Any, log: Any) -> None:
    done = run(line(0), line(0, reason="别的事"))
    assert (done.recorded, done.duplicates, done.rejected) == (1, 0, 1)
    assert done.listed[0].code == "audit.record.conflict"
    assert done.listed[0].line == 2
    rejected = log.event(kinds(log).index("record.rejected"))
    assert rejected.data["raw_sha256"] == hashlib.sha256(line(0, reason="别的事")).hexdigest()
    run(line(0), line(0, reason="别的事"))
    assert kinds(log).count("record.rejected") == 1


_DEEP = b'{"id":"x","data":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"
BAD = {
    "not json": (b"hello", "events.json"),
    "not an object": (b"[1]", "events.field"),
    "duplicate key": (line()[:-1] + b',"id":"q"}', "events.key.duplicate"),
    "duplicate key inside": (line().replace(b'"seconds": 60', b'"a":1,"a":2'), "events.key.duplicate"),
    "NaN": (line().replace(b"60", b"NaN"), "events.number.not-finite"),
    "overflow": (line().replace(b"60", b"1e999"), "events.number.not-finite"),
    "huge integer": (line().replace(b"60", b"9" * 30), "events.number.range"),
    "longer integer": (line().replace(b"60", b"9" * 5000), "events.depth"),
    "lone surrogate": (line().replace("核查".encode(), b"\\ud800"), "events.text.surrogate"),
    "lone surrogate as key": (line().replace(b"seconds", b"\\udc00"), "events.text.surrogate"),
    "not UTF-8": (line().replace("核查".encode(), "核查".encode("gb18030")), "events.encoding"),
    "deep": (_DEEP, "events.depth"),
    "33 levels": (line(data=json.loads('{"a":' * 33 + "1" + "}" * 33)), "events.depth"),
    "65536 bytes": (line(reason="x" * (65_536 - len(line(reason="")))), "events.size"),
    "unknown field": (line(user="x"), "events.field"),
    "unknown field of 50 kB": (line(**{"x" * 50_000: "x"}), "events.field"),
    "unknown kind": (line(kind="video.looked"), "events.kind.unknown"),
    "no time zone": (line(time="2026-10-01T08:00:00"), "events.time.naive"),
    "no such day": (line(time="2026-02-30T08:00:00Z"), "events.field"),
    "empty actor": (line(actor={"name": ""}), "events.field"),
    "empty ID": (line(id=""), "events.field"),
    "other version": (line(v=2), "events.version"),
    "an act of secguard": (line(kind="certificate.issued"), "audit.record.own-kind"),
    "a reserved ID": (line(id="secguard:rejected:0"), "audit.record.reserved-id"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_put_aside_and_the_rest_goes_in(run: Any, log: Any, name: str) -> None:
    raw, code = BAD[name]
    done = run(line(1), raw, line(2))
    assert (done.lines, done.recorded, done.rejected) == (3, 2, 1)
    (item,) = done.listed
    assert (item.line, item.code, item.sha256) == (2, code, hashlib.sha256(raw).hexdigest())
    assert kinds(log) == ["import.started", "video.viewed", "record.rejected", "video.viewed", "import.finished"]
    event = log.event(2)
    assert event.outcome is Result.FAILURE
    assert event.reason == item.reason
    assert event.data["line"] == 2
    assert event.data["raw_sha256"] == item.sha256
    assert event.data["bytes"] == len(raw)
    (found,) = done.findings()
    assert found.code == "audit.record.rejected"
    assert found.where == "events.jsonl, line 2"


def test_a_65536_byte_line_is_the_length_it_says() -> None:
    assert len(BAD["65536 bytes"][0]) == 65_536


def test_lines_around_the_limit(run: Any) -> None:
    def sized(number: int, size: int) -> bytes:
        data = {"a": "x" * 0}
        missing = size - len(line(number, kind="video.viewed", data=data))
        return line(number, kind="video.viewed", data={"a": "x" * missing})

    done = run(sized(1, MAX_EVENT), sized(2, MAX_EVENT + 1), sized(3, MAX_EVENT + 2), sized(4, MAX_EVENT + 3), line(5))
    assert [item.line for item in done.listed] == [2, 3, 4]
    assert (done.lines, done.recorded) == (5, 2)


def test_more_rejections_than_are_listed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secguard.audit.sources.importer.MAX_LISTED", 2)
    done = run(line(0), *[b"bad"] * 5)
    assert done.rejected == 5
    assert [item.code for item in done.findings()][-1] == "audit.record.rejected-more"
    assert done.findings()[-1].data == {"count": 3}


def test_the_wrong_file_is_refused_as_a_whole(run: Any, log: Any) -> None:
    with pytest.raises(FormatError, match="no line of the first 512 is an event") as caught:
        run(*[line(number).decode().encode("gb18030") for number in range(600)])
    assert "--encoding gb18030" in caught.value.hint
    assert kinds(log) == ["import.started", "import.failed"]


def test_gb18030_and_byte_order_marks(run: Any, log: Any) -> None:
    text = line(1, reason="调阅录像€").decode()
    assert run(text.encode("gb18030"), encoding="gb18030").recorded == 1
    assert log.event(1).reason == "调阅录像€"
    assert run(b"\xef\xbb\xbf" + line(2), line(3) + b"\r").recorded == 2
    assert run(b"\xff\xff", text.encode("gb18030"), encoding="gb18030").listed[0].code == "events.encoding"
    with pytest.raises(UsageError, match="unknown encoding"):
        run(line(), encoding="utf-16")


def test_secrets_are_taken_out(run: Any, log: Any) -> None:
    url = "rtsp://admin:hunter2@10.0.0.1/live?token=abcdef"
    run(
        line(
            1, reason=f"open {url}", subject=url, data={"url": url, "password": "hunter2", "nested": [{"token": "abc"}]}
        )
    )
    event = log.event(1)
    stored = msgspec.json.encode(event)
    assert b"hunter2" not in stored
    assert b"abcdef" not in stored
    assert event.data["password"] == "[redacted]"
    assert event.data["nested"] == [{"token": "[redacted]"}]


def test_a_file_cannot_vouch_for_its_actor(run: Any, log: Any) -> None:
    run(line(1, actor={"name": "root", "assurance": "certificate"}))
    event = log.event(1)
    assert event.actor.assurance is Assurance.CLAIMED
    assert event.data["source_assurance"] == "certificate"


def test_what_is_no_file(tmp_path: Path, log: Any, clock: Clock, auditor: Actor) -> None:
    for path, problem in ((tmp_path / "none", "no such file"), (tmp_path, "not a regular file")):
        with pytest.raises(UsageError, match=problem):
            import_file(path, log, clock, auditor)
    assert log.size == 0


def test_a_file_that_grows_meanwhile(tmp_path: Path, log: Any, clock: Clock, auditor: Actor) -> None:
    path = tmp_path / "growing.jsonl"
    path.write_bytes(line(0) + b"\n")
    record = log.record

    def grow(events: Sequence[Event]) -> Sequence[Receipt]:
        with path.open("ab") as file:
            file.write(line(1) + b"\n")
        result: Sequence[Receipt] = record(events)
        return result

    log.record = grow
    with pytest.raises(RefusedError, match="changed while"):
        import_file(path, log, clock, auditor)
    assert kinds(log)[-1] == "import.failed"


def test_a_refusing_ledger_ends_the_import(run: Any, log: Any) -> None:
    record = log.record
    calls = 0

    def fail(events: Sequence[Event]) -> Sequence[Receipt]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RefusedError("ledger.full", "the disk is full")
        result: Sequence[Receipt] = record(events)
        return result

    log.record = fail
    with pytest.raises(RefusedError, match="disk is full"):
        run(line(0))
    assert kinds(log) == ["import.started", "import.failed"]


def test_progress_and_empty_files(run: Any) -> None:
    calls: list[tuple[int, int | None, str]] = []
    run(*[line(number) for number in range(3)], progress=lambda *call: calls.append(call))
    assert calls[-1] == (3, 3, "lines")
    assert run(b"").lines == 0


@given(st.lists(st.binary(max_size=60).filter(lambda raw: b"\n" not in raw), max_size=20))
def test_any_bytes_are_recorded_or_put_aside(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    _check(tmp_path_factory, lines)


_mutations = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4)


@given(st.lists(_mutations, min_size=1, max_size=10))
def test_mutated_events_are_recorded_or_put_aside(
    tmp_path_factory: pytest.TempPathFactory, mutations: list[list[tuple[int, int]]]
) -> None:
    lines = []
    for number, changes in enumerate(mutations):
        raw = bytearray(line(number))
        for place, value in changes:
            raw[place % len(raw)] = value
        lines.append(bytes(raw).replace(b"\n", b" "))
    _check(tmp_path_factory, lines)


def _check(factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    from datetime import UTC, datetime

    from secguard.core import FixedClock

    memory = _new_log()
    path = factory.mktemp("fuzz") / "f.jsonl"
    path.write_bytes(b"\n".join(lines))
    done = import_file(path, memory, FixedClock(datetime(2026, 1, 1, tzinfo=UTC)), Actor(name="a"))
    assert done.recorded + done.duplicates + done.rejected == done.lines
    assert done.lines == sum(bool(raw.strip()) for raw in lines)
    assert memory.size == 2 + done.recorded + kinds(memory).count("record.rejected")


def _new_log() -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("_audit_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MemoryLog()
