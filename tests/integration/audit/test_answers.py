"""Answers in files, as counts and as streams; and the index that follows the ledger in a process of its own."""

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from index_kit import copy

Events = Callable[..., bytes]
PROGRAM = [sys.executable, "-P", "-m", "secguard"]


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    limit = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < limit, "it takes too long"
        time.sleep(0.05)
    return found


def record(**values: Any) -> bytes:
    line = {"id": "h-1", "kind": "video.viewed", "time": "2026-10-01T00:00:00Z", "actor": {"name": "张三"}, **values}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


@pytest.fixture
def full(site: Any, events: Events, tmp_path: Path) -> Any:
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(150))
    site.run("import", file)
    return site


def test_counts_and_histograms(full: Any, tmp_path: Path) -> None:
    counts = full.ask("search", "kind:video.*", "--count-by", "actor", "--limit", 2)["data"]
    assert (counts["by"], counts["distinct"], counts["total"], len(counts["groups"])) == ("actor", 5, 113, 2)
    assert counts["groups"][0] == {"value": "张伟", "count": 23}
    assert (counts["position"], counts["size"], counts["checkpoint"]) == (152, 152, None)
    days = full.ask("search", "time:2026-10", "--histogram", "day", "--zone", "+08:00")["data"]
    assert sum(group["count"] for group in days["groups"]) == days["total"] == 150
    assert days["groups"][0] == {"value": "2026-10-01", "count": 6}
    asked = full.ask("search", "kind:audit.searched")["data"]["hits"]
    assert [hit["data"].get("by") for hit in reversed(asked)] == ["actor", "day"]
    full.run("search", "--count-by", "kind", "--report", tmp_path / "r.html")
    assert "video.viewed" in (tmp_path / "r.html").read_text()
    lines = full.run("search", "kind:video.*", "--count-by", "kind", "--jsonl")
    assert [json.loads(line)["value"] for line in lines.stdout.splitlines()] == [
        "video.played",
        "video.viewed",
        "video.downloaded",
    ]
    assert "index 1" in lines.stderr
    for options in (("--count-by", "nothing"), ("--all", "--histogram", "day"), ("--after", "1.1.1", "--all"),
                    ("-o", "x.txt"), ("--limit", "0"), ("--histogram", "day", "--zone", "Mars")):  # fmt: skip
        assert full.ask("search", "", *options, code=2)["error"]["hint"]


def test_all_events_as_lines_and_in_files(full: Any, tmp_path: Path) -> None:
    done = full.run("search", "kind:video.*", "--all", "--jsonl")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({one["id"] for one in found}) == len(found) == 113
    assert [one["time"] for one in found] == sorted((one["time"] for one in found), reverse=True)
    assert "113 events match, 113 shown; index 152 of 152 events, no checkpoint yet" in done.stderr
    assert len(full.ask("search", "kind:video.*", "--all")["data"]["hits"]) == 113
    file = tmp_path / "found.csv"
    file.write_text("old")
    data = full.ask("search", "kind:video.*", "-o", file, "--lang", "zh")["data"]
    assert (data["written"], data["total"]) == (113, 113)
    raw = file.read_bytes()
    assert raw.startswith("\ufeff账本序号,事件编号".encode())
    rows = list(csv.DictReader(raw.decode("utf-8-sig").splitlines()))
    assert [row["事件编号"] for row in rows] == [one["id"] for one in found]
    assert json.loads(rows[0]["其他"]) == found[0]["data"]
    full.run("search", "kind:video.*", "-o", tmp_path / "found.jsonl")
    assert [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()] == found
    assert full.run("search", "欧阳", "-o", "-").stdout.startswith("ledger_index,id,")
    full.run("search", "欧阳", "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()
    assert full.ask("search", "", "-o", tmp_path / "no" / "x.csv", code=2)["error"]["message"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("found")) == [
        "found.csv",
        "found.jsonl",
    ]


def test_no_cell_of_a_hostile_event_runs_in_a_spreadsheet(site: Any, tmp_path: Path) -> None:
    hostile = [
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "＝1",
        "\u3000=1",
        '"=1',
        "a\n=1",
        "\ufeff=1",
    ]
    (tmp_path / "h.jsonl").write_bytes(
        b"".join(
            record(
                id=f"{text}#{n}", actor={"name": text, "role": text, "org": text}, subject=text, case=text, reason=text
            )
            for n, text in enumerate(hostile)
        )
    )
    site.run("import", tmp_path / "h.jsonl")
    site.run("search", "kind:video.viewed", "-o", tmp_path / "h.csv")
    with (tmp_path / "h.csv").open(encoding="utf-8-sig", newline="") as table:
        rows = list(csv.reader(table))
    assert len(rows) == 1 + len(hostile)
    assert {len(row) for row in rows} == {15}
    for row in rows[1:]:
        for cell in row:
            assert not cell.lstrip(" \t\r\n\v\f\u00a0\u3000").startswith(tuple("=+-@|%＝＋－＠")), cell
    shown = {text.replace("\r", "<U+000D>").replace("\ufeff", "<U+FEFF>") for text in hostile}
    assert {row[4].removeprefix("'") for row in rows[1:]} == shown  # nothing was lost


def test_behind_is_said_by_counts_and_files_too(full: Any, events: Events, tmp_path: Path) -> None:
    from secguard.workspace import Workspace

    with Workspace.find(full.folder) as workspace:
        workspace.record("video.viewed", "32011600001310000001")
        assert workspace.index.position < workspace.ledger.size
    for options in (("--count-by", "kind"), ("--histogram", "day"), ("--all",), ("-o", tmp_path / "x.csv")):
        done = full.ask("search", "kind:video.viewed", *options, code=3)
        assert [item["code"] for item in done["findings"]] == ["audit.index.behind"]
    full.run("search", "kind:video.viewed", "--all", "--jsonl", code=3)
    full.ask("search", "kind:video.viewed", "--histogram", "day", "--wait")


def status(folder: Path) -> dict[str, Any]:
    done = subprocess.run([*PROGRAM, "status", "-w", folder, "--json"], capture_output=True, check=True)
    return dict(json.loads(done.stdout)["data"])


def test_the_service_indexes_in_a_process_that_may_die(full: Any, events: Events, tmp_path: Path) -> None:
    from secguard.workspace import Workspace

    folder = full.folder
    with Workspace.find(folder) as workspace:
        following = folder / "state" / "index" / "following.json"

        def position() -> int:
            return int(json.loads(following.read_text())["position"]) if following.exists() else 0

        service = subprocess.Popen([*PROGRAM, "serve", "-w", folder, "-q"], stderr=subprocess.DEVNULL)
        try:
            until(lambda: position() == workspace.ledger.size)
            workspace.record("video.viewed", "32011600001310000001")
            until(lambda: position() == workspace.ledger.size)
            children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
            (child,) = [
                pid for pid in children if b"secguard.service.indexing" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            assert full.ask("index", "--follow", code=2)["error"]["code"] == "audit.index.followed"
            os.kill(int(child), signal.SIGKILL)
            workspace.record("video.viewed", "32011600001310000002")
            until(lambda: position() == workspace.ledger.size)
            facts = status(folder)
            assert (facts["index"], facts["index behind"], facts["index health"]) == ("sqlite", 0, "ok")
            assert facts["index lag seconds"] == 0
        finally:
            service.terminate()
            assert service.wait(60) == 0
    assert full.ask("reconcile")["data"]["missing"] == 0


def test_the_status_of_a_damaged_index(full: Any) -> None:
    full.index.write_bytes(b"no database" * 1000)
    facts = status(full.folder)
    assert facts["index health"].startswith("down: ")
    assert facts["ledger size"] == 152


def test_the_status_of_an_index_that_is_not_ours(full: Any) -> None:
    for change, health in (
        ("position = position + 100", "degraded: it knows more events than the ledger: 252 of 152"),
        ("origin = 'example/other', position = 152", "down: the index belongs to the log example/other, not "),
    ):
        with closing(sqlite3.connect(full.index)) as db:
            db.execute(f"UPDATE meta SET {change}")
            db.commit()
        assert status(full.folder)["index health"].startswith(health)


def test_following_says_what_is_wrong_and_goes_on(full: Any, tmp_path: Path) -> None:
    from secguard.workspace import Workspace

    folder = full.folder
    following = folder / "state" / "index" / "following.json"
    with Workspace.find(folder) as workspace:
        workspace.catch_up()
        size = workspace.ledger.size
        copy(workspace.index._db, 1, size)  # type: ignore[attr-defined]
        workspace.record("video.viewed", "32011600001310000001")
    follower = subprocess.Popen(
        [*PROGRAM, "audit", "index", "--follow", "-w", folder], stderr=subprocess.PIPE, text=True
    )
    try:
        said = until(lambda: json.loads(following.read_text())["problem"] if following.exists() else "")
        assert "audit.index.conflict" in said
        facts = status(folder)
        assert facts["index behind"] == 1
        assert "audit.index.conflict" in facts["index problem"]
    finally:
        follower.send_signal(signal.SIGINT)
        assert follower.wait(60) == 0
    assert "rows stand in the index" in follower.communicate()[1]
    assert full.ask("index", code=2)["error"]["code"] == "audit.index.conflict"
    full.run("reindex")
    assert full.ask("index")["data"]["position"] == full.ask("reconcile")["data"]["position"]


def test_a_reconciliation_that_waits_is_conclusive(site: Any, events: Events, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(5))
    site.run("import", file)
    site.run("hold", "add", "--case", "案1")  # the index does not know of it yet
    assert [item["code"] for item in site.ask("reconcile", code=3)["findings"]] == ["audit.index.behind"]
    assert site.ask("reconcile", "--wait")["outcome"] == "pass"
