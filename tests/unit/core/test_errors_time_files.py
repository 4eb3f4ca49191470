"""Errors travel whole, times carry an offset, files are replaced in one step."""

import os
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import (
    FixedClock,
    FormatError,
    SystemClock,
    SystemPartError,
    Throttle,
    UsageError,
    parse_time,
    rfc3339,
)
from secguard.core.files import atomic_write
from secguard.core.limits import read_bounded


def test_an_error_survives_a_process_border():
    error = pickle.loads(pickle.dumps(FormatError("a.b", "wrong", hint="do", where="file:3")))
    assert (type(error), error.code, error.hint, str(error)) == (FormatError, "a.b", "do", "file:3: wrong")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-06-01T00:00:00Z", datetime(2025, 6, 1, tzinfo=UTC)),
        ("2025-06-01 08:00:00+08:00", datetime(2025, 6, 1, tzinfo=UTC)),
    ],
)
def test_times(text, expected):
    assert parse_time(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2025-06-01T00:00:00", "2025-06-01", "0001-01-01T00:00:00+23:59"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError):
        parse_time(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_rfc3339_round_trip(value):
    assert parse_time(rfc3339(value)) == value


def test_clocks_are_utc():
    assert SystemClock().now().utcoffset() == timedelta(0)
    assert FixedClock(parse_time("2026-01-01T08:00:00+08:00")).now() == datetime(2026, 1, 1, tzinfo=UTC)


def test_throttle_passes_the_first_and_the_last_call():
    calls = []
    throttle = Throttle(lambda done, total, unit: calls.append(done), interval=60)
    for i in range(1, 101):
        throttle(i, 100, "events")
    assert calls == [1, 100]


def test_atomic_write_replaces_and_sets_the_mode(tmp_path):
    path = tmp_path / "f"
    atomic_write(path, b"old")
    atomic_write(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "f"
    atomic_write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemPartError) as caught:
        atomic_write(path, b"new")
    assert "No space left" in str(caught.value)
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_read_bounded(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 11)
    assert len(read_bounded(path, 11)) == 11
    with pytest.raises(FormatError):
        read_bounded(path, 10)
    with pytest.raises(UsageError):
        read_bounded(tmp_path / "none")


def test_what_is_no_file_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        atomic_write(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    atomic_write(link, b"away")
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()
