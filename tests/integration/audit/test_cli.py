import contextlib
import csv
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secguard.audit import SqliteIndex

Events = Callable[..., bytes]


def codes(document: dict[str, Any]) -> list[str]:
    return [item["code"] for item in document["findings"]]


def test_import_search_reconcile(site: Any, events: Events, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(200))
    done = site.ask("import", file, "--case", "案1", "--reason", "月度导入")
    assert (done["outcome"], done["data"]["recorded"], done["data"]["rejected"]) == ("pass", 200, 0)
    assert done["data"]["position"] == done["data"]["size"] == 202

    found = site.ask("search", "欧阳 AND kind:video.downloaded AND NOT case:*", "--wait")
    assert found["data"]["total"] == len(found["data"]["hits"]) > 0
    for hit in found["data"]["hits"]:
        assert hit["actor"]["name"] == "欧阳修文"
        assert hit["kind"] == "video.downloaded"
        assert "case" not in hit
        assert hit["data"]["seconds"] == int(hit["id"].removeprefix("platform-"))
        assert hit["ledger_index"] == hit["data"]["seconds"] + 1
    assert (found["data"]["position"], found["data"]["size"]) == (202, 202)
    assert found["data"]["checkpoint"] is None

    # Without --wait: a search leaves the index up to date, so the next one is no less conclusive.
    assert site.ask("search", "修")["data"]["total"] == 40
    asked = site.ask("search", "kind:audit.searched")["data"]
    assert [hit["data"]["query"] for hit in reversed(asked["hits"])] == [
        "欧阳 AND kind:video.downloaded AND NOT case:*",
        "修",
    ]
    assert site.ask("reconcile")["data"]["altered"] == 0

    again = site.ask("import", file)
    assert (again["data"]["recorded"], again["data"]["duplicates"]) == (0, 200)
    assert "nothing was added" in site.run("import", file).stderr


def test_forms_of_an_answer(site: Any, events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "events.jsonl"
    evil = {
        "id": "evil",
        "kind": "video.exported",
        "time": "2026-10-30T00:00:00Z",
        "actor": {"name": '=HYPERLINK("http://x","y")'},
        "subject": "@cam",
        "reason": "=cmd|' /C calc'!A0",
    }
    file.write_bytes(events(10) + json.dumps(evil).encode())
    site.run("import", file)
    records = [json.loads(text) for text in site.run("search", "kind:video.*", "--jsonl").stdout.splitlines()]
    assert len(records) == 8 + 1
    assert records[0]["id"] == "evil"
    table = site.run("search", "核查案件", "--lang", "zh")
    assert table.stdout == ""
    assert "核查案件线索" in table.stderr
    assert "时间" in table.stderr
    assert "匹配 3 条事件" in table.stderr
    assert "3 events match, 2 shown" in site.run("search", "核查案件", "--limit", "2").stderr
    for suffix in (".html", ".xml"):
        report = tmp_path / f"answer{suffix}"
        site.run("search", "欧阳修文", "--report", report, "--lang", "zh")
        assert report.stat().st_size > 200
    sheet = tmp_path / "answer.csv"
    site.run("search", "id:evil", "--report", sheet)
    cells = [cell for row in csv.reader(sheet.read_text(encoding="utf-8-sig").splitlines()) for cell in row]
    assert any("cmd|" in cell for cell in cells)
    assert not [cell for cell in cells if cell[:1] in {"=", "@", "+", "-"}]
    for command in ("reconcile", "import"):
        report = tmp_path / f"{command}.html"
        site.run(command, *([file] if command == "import" else []), "--report", report)
        assert "<html" in report.read_text(encoding="utf-8")


def test_rejected_lines_are_named_and_the_rest_is_found(site: Any, events: Events, tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(events(3) + b'{"id":"x","id":"y"}\n' + events(1, start=3) + b"x" * 65_536 + b"\n")
    done = site.ask("import", file, code=1)
    assert done["data"]["recorded"] == 4
    assert [(item["line"], item["code"]) for item in done["data"]["files"][0]["listed"]] == [
        (4, "events.key.duplicate"),
        (6, "events.size"),
    ]
    assert codes(done) == ["audit.record.rejected"] * 2
    rejected = site.ask("search", "kind:record.rejected AND subject:mixed.jsonl")
    assert [hit["data"]["line"] for hit in rejected["data"]["hits"]] == [6, 4]
    table = site.run("import", file, code=1)
    assert "mixed.jsonl, line 4" in table.stderr
    assert site.ask("search", "kind:record.rejected")["data"]["total"] == 2
    kept = site.ask("rejected")["data"]["records"]  # once, though the file was imported twice
    assert [item["size"] for item in kept] == [65_536, 19]
    assert site.run("rejected", "--raw", kept[1]["sha256"]).stdout == '{"id":"x","id":"y"}'


def test_gb18030(site: Any, tmp_path: Path) -> None:
    file = tmp_path / "gb.jsonl"
    record = {
        "id": "1",
        "kind": "user.login",
        "time": "2026-10-01T00:00:00Z",
        "actor": {"name": "赵磊"},
        "reason": "值班",
    }
    file.write_bytes(json.dumps(record, ensure_ascii=False).encode("gb18030"))
    site.ask("import", file, code=1)
    site.ask("import", file, "--encoding", "gb18030")
    assert [hit["id"] for hit in site.ask("search", "磊")["data"]["hits"]] == ["1"]


def test_behind_is_exit_3_until_one_waits(site: Any, events: Events, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(20))
    site.run("import", file)
    with contextlib.closing(SqliteIndex.open(site.index)) as index:
        index.forget(range(10, 30))
    with sqlite3.connect(site.index) as database:
        database.execute("UPDATE meta SET position = 10")
    database.close()
    found = site.ask("search", "刑侦", code=3)
    assert codes(found) == ["audit.index.behind"]
    assert (found["data"]["position"], found["data"]["size"], found["data"]["total"]) == (10, 22, 9)
    assert site.ask("reconcile", code=3)["axes"] == {"integrity": "pass", "completeness": "unknown"}
    assert site.ask("search", "刑侦", "--wait")["data"]["total"] == 20


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("DELETE FROM event WHERE seq = 5", "audit.index.missing"),
        ("DELETE FROM event WHERE seq = 5; DELETE FROM words WHERE rowid = 5", "audit.index.missing"),
        ("UPDATE event SET actor = 99 WHERE seq = 5", "audit.index.altered"),
        ("UPDATE event SET reason = (SELECT reason FROM event WHERE seq = 6) WHERE seq = 5", "audit.index.altered"),
        ("INSERT INTO words (rowid, text) VALUES (900, 'x')", "audit.index.extra"),
    ],
)
def test_a_changed_index_is_told_and_rebuilt(site: Any, events: Events, tmp_path: Path, change: str, code: str) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(20))
    site.run("import", file)
    database = sqlite3.connect(site.index)
    database.executescript(change)
    database.close()
    done = site.ask("reconcile", code=1)
    assert codes(done) == [code]
    told = done["findings"][0]["data"]
    assert (told["index"], told["id"]) == ((900, "") if "900" in change else (5, "platform-4"))
    rebuilt = site.ask("reindex")
    assert rebuilt["data"]["position"] == rebuilt["data"]["size"]
    site.ask("reconcile")


def test_a_broken_index_file_is_one_clear_line(site: Any, events: Events, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(events(20))
    site.run("import", file)
    for suffix in ("-wal", "-shm"):
        site.index.with_name(site.index.name + suffix).unlink(missing_ok=True)
    site.index.write_bytes(b"no database" * 1000)
    failed = site.run("search", "刑侦", code=2)
    assert failed.stderr.count("\n") == 1
    assert site.ask("reindex")["data"]["events"] == 22
    assert site.ask("search", "刑侦")["data"]["total"] == 20


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("search", "(a"), "query, character 1: this parenthesis is not closed"),
        (("search", "a", "--zone", "Peking"), "not a zone"),
        (("search", "a", "--limit", "0"), "a page of 0 events"),
        (("search", "a", "--after", "zz"), "not a cursor"),
        (("import", "none.jsonl"), "no such file"),
    ],
)
def test_errors_are_one_line_with_a_place(site: Any, args: tuple[str, ...], message: str) -> None:
    failed = site.run(*args, code=2)
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert failed.stdout == ""


def test_dates_count_from_the_asked_zone(site: Any, tmp_path: Path) -> None:
    file = tmp_path / "zone.jsonl"
    record = {"id": "1", "kind": "user.login", "time": "2026-10-01T00:30:00+08:00", "actor": {"name": "a"}}
    file.write_bytes(json.dumps(record).encode())
    site.run("import", file)
    assert site.ask("search", "id:1 time:2026-10-01", "--zone", "+08:00")["data"]["total"] == 1
    assert site.ask("search", "id:1 time:2026-10-01")["data"]["total"] == 0
    assert site.ask("search", "id:1 time:2026-09-30", "--zone", "-00:30")["data"]["total"] == 1
