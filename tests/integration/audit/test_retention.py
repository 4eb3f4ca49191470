"""Retention from the command line: what has expired is really gone, what is held is not, and proofs stay valid."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from secguard.cli.main import main
from secguard.ledger import Ledger
from secguard.ledger.bodies import prune_bodies


def written(path: Path, count: int, *, start: int = 0, days: int = 400, **more: object) -> Path:
    """Events of `days` ago: each has a person of its own, whose name can be looked for on the disk."""
    moment = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    with path.open("w") as file:
        for number in range(start, start + count):
            event = {
                "id": f"old-{number}",
                "kind": "video.viewed",
                "time": moment,
                "actor": {"name": f"PERSON{number:06d}X"},
                "subject": f"3201160000131{number:07d}",
                **more,
            }
            file.write(json.dumps(event) + "\n")
    return path


def on_disk(folder: Path, word: str) -> list[str]:
    found = (path for path in (folder / "state").rglob("*") if path.is_file())
    return sorted(str(path) for path in found if word.encode() in path.read_bytes())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with an authority."""
    from secguard.workspace.site import create_site

    folder = tmp_path_factory.mktemp("authority") / "site"
    create_site(folder, anchor=folder / "state" / "anchor")
    subprocess.run(
        [sys.executable, "-m", "secguard", "identity", "ca", "init", "--yes", "-w", folder], check=True, timeout=240
    )
    return folder


@pytest.fixture
def place(authority: Path, tmp_path: Path) -> Path:
    shutil.copytree(authority, tmp_path / "site")
    policy = tmp_path / "site" / "policies" / "retention.yaml"
    policy.write_text(
        policy.read_text().replace("from: recorded", "from: stated")
    )  # what is imported today has an age at once
    return tmp_path / "site"


def run(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["secguard", *map(str, args), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
    out, err = capsys.readouterr()
    assert int(ended.value.code or 0) == code, out + err
    return json.loads(out)


def test_hold_one_event_and_expire_its_neighbours(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*args: object, code: int = 0) -> dict:
        return run(capsys, *args, "-w", place, code=code)

    ask("audit", "import", written(tmp_path / "a.jsonl", 3))
    ask("ledger", "checkpoint")
    before = tmp_path / "before.json"
    ask("ledger", "prove", "old-0", "-o", before)
    held = ask("audit", "hold", "add", "--event", "old-1", "--case", "案2026-1", "--approver", "局长")["data"]["hold"]
    assert (held["case"], held["approver"], held["query"]) == ("案2026-1", "局长", 'id:"old-1"')

    planned = ask("audit", "prune", "--dry-run")["data"]
    assert (planned["expired"], planned["held"], planned["deleted"]) == (2, 1, 0)
    assert on_disk(place, "PERSON000000X"), "a dry run deletes nothing"
    done = ask("audit", "prune", "--reason", "留存到期")["data"]
    assert (done["deleted"], done["rows"], done["holds"]) == (2, 2, {held["id"]: 1})

    for gone in (0, 2):
        assert on_disk(place, f"PERSON{gone:06d}X") == [], "neither in bodies, nor in the journal, nor in the index"
    assert on_disk(place, "PERSON000001X")
    receipt = tmp_path / "receipt.json"
    ask("ledger", "prove", "old-1", "-o", receipt)
    root = place / "certs" / "root.pem"
    assert run(capsys, "ledger", "check-receipt", receipt, "--root", root)["data"]["event"]["id"] == "old-1"
    assert run(capsys, "ledger", "check-receipt", before, "--root", root)["outcome"] == "pass", "old receipts hold, too"
    assert ask("ledger", "prove", "old-0", "-o", receipt, code=2)["error"]["code"] == "ledger.event.unknown"
    index = json.loads(json.dumps(done["records"]))[0]
    verified = ask("ledger", "verify")
    (cited,) = verified["findings"]
    assert (cited["code"], cited["data"]["record"], cited["data"]["count"]) == ("ledger.body.pruned", index, 2)
    policy = (place / "policies" / "retention.yaml").read_bytes()
    assert cited["data"]["policy"] == "sha256:" + hashlib.sha256(policy).hexdigest()
    assert ask("audit", "reconcile")["outcome"] == "pass"
    assert ask("audit", "search", "id:old-0")["data"]["total"] == 0
    assert ask("audit", "search", "id:old-1")["data"]["total"] == 1
    again = ask("audit", "prune")["data"]
    assert (again["expired"], again["deleted"], again["gone"]) == (0, 0, 2), "nothing is done twice"

    ask("audit", "hold", "release", held["id"], "--reason", "结案")
    assert ask("audit", "hold", "list")["data"]["holds"] == []
    assert ask("audit", "hold", "list", "--all")["data"]["holds"][0]["released"]
    assert ask("audit", "prune")["data"]["deleted"] == 1
    assert on_disk(place, "PERSON000001X") == []

    # by hand, without a record
    with Ledger.open(place / "state" / "ledger") as log:
        bodies = [body for block in log.scan(0, 256) for body in block.bodies]
    slot = next(at for at, body in enumerate(bodies) if body is not None and b'"audit.held"' in body)
    prune_bodies(place / "state" / "ledger" / "bodies" / "000", {slot})
    broken = ask("ledger", "verify", code=1)
    assert [item["where"] for item in broken["findings"] if item["outcome"] == "fail"] == [f"bodies/000, entry {slot}"]
    for command in ("reconcile", "prune", "reindex"):
        named = [item for item in ask("audit", command, code=1)["findings"] if item["outcome"] == "fail"]
        assert [(item["code"], item["data"]["index"]) for item in named] == [("ledger.body.missing", slot)], command


def test_a_lost_file_of_bodies_is_named_and_holds_up_no_other_answer(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*args: object, code: int = 0) -> dict:
        return run(capsys, *args, "-w", place, code=code)

    ask("audit", "import", written(tmp_path / "a.jsonl", 600, case="案1", approver="局长"))
    ask("ledger", "checkpoint")
    with Ledger.open(place / "state" / "ledger") as log:
        assert not log.missing().entries
    lost = place / "state" / "ledger" / "bodies" / "001"
    kept = lost.read_bytes()
    for damage in (lambda: lost.write_bytes(kept[:-1]), lost.unlink):
        damage()
        done = ask("audit", "reconcile", code=1)
        assert [item["code"] for item in done["findings"]] == ["ledger.body.missing"]
        assert done["findings"][0]["where"] == "bodies/001, entries 256-511"
        assert (done["data"]["extra"], done["data"]["missing"]) == (0, 0), "the rows are what is left of them"
        found = ask("audit", "search", "kind:video.viewed", "--limit", "1000", "--wait", code=1)
        assert (found["data"]["total"], len(found["data"]["hits"])) == (600, 344)
        assert {item["code"] for item in found["findings"]} == {"ledger.body.missing"}
        assert ask("audit", "search", "id:old-0", "--wait")["data"]["total"] == 1, "elsewhere nothing is the matter"
        report = ask("audit", "report", "--of-case", "案1", code=1)
        assert report["data"]["total"] == 344
        assert [item["code"] for item in report["findings"]] == ["ledger.body.missing"]
        refused = ask("audit", "prune", code=1)
        assert (refused["data"]["deleted"], refused["findings"][0]["code"]) == (0, "ledger.body.missing")
        assert ask("audit", "hold", "list", code=1)["findings"]
    assert ask("audit", "reindex", code=1)["data"]["events"] > 600
    assert ask("audit", "report", "--of-case", "案1", code=1)["data"]["total"] == 344, "a new index hides nothing"
    lost.write_bytes(kept)
    assert ask("audit", "reconcile", code=1)["data"]["missing"] == 256
    ask("audit", "reindex")
    assert ask("audit", "reconcile")["outcome"] == "pass"


def test_holds_by_camera_period_and_case(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(*args: object, code: int = 0) -> dict:
        return run(capsys, *args, "-w", place, code=code)

    ask("audit", "import", written(tmp_path / "a.jsonl", 4, case='案"7"'), written(tmp_path / "b.jsonl", 4, start=4))
    camera = f"3201160000131{5:07d}"
    ask("audit", "hold", "add", "--camera", camera, "--case", "案1")
    year = (datetime.now(UTC) - timedelta(days=400)).strftime("%Y-%m")
    ask("audit", "hold", "add", "--query", "actor:*06X", "--period", year, "--case", "案2", "--zone", "+08:00")
    ask("audit", "hold", "add", "--case", '案"7"')
    assert ask("audit", "hold", "add", "--camera", camera, code=2)["error"]["code"] == "audit.hold.case"
    assert ask("audit", "hold", "add", "--query", "a:(", "--case", "x", code=2)["error"]["code"].startswith("audit.")
    assert ask("audit", "hold", "release", "nonsense", "--reason", "x", code=2)["error"]["code"] == "audit.hold.unknown"
    assert ask("audit", "hold", "release", "", "--reason", "x", code=2)["error"]["code"] == "audit.hold.unknown"
    done = ask("audit", "prune")["data"]
    assert (done["deleted"], done["held"], len(done["holds"])) == (2, 6, 3)
    assert on_disk(place, "PERSON000004X") == on_disk(place, "PERSON000007X") == []
    assert all(on_disk(place, f"PERSON{k:06d}X") for k in (0, 1, 2, 3, 5, 6))


def test_the_policy_counts_by_kind_and_its_errors_name_the_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*args: object, code: int = 0) -> dict:
        return run(capsys, *args, "-w", place, code=code)

    ask("audit", "import", written(tmp_path / "a.jsonl", 1), written(tmp_path / "b.jsonl", 1, start=1, days=150))
    ask("audit", "import", written(tmp_path / "c.jsonl", 1, start=2, kind="video.exported"))
    path = place / "policies" / "retention.yaml"
    assert yaml.safe_load(path.read_text())["days"] == 190
    assert ask("audit", "prune", "--dry-run")["data"]["kinds"] == {"video.viewed": 1}
    path.write_text("retention: 1\ndays: 100\nkinds:\n  - {kind: video.exported, days: 300}\n")
    assert ask("audit", "prune", "--dry-run")["data"]["kinds"] == {}, "days count from when they came in"
    path.write_text(path.read_text() + "from: stated\n")
    short = ask("audit", "prune", "--dry-run")
    assert short["data"]["kinds"] == {"video.viewed": 2, "video.exported": 1}
    assert [item["code"] for item in short["findings"]] == ["audit.retention.short"]
    for text, line in (
        ("retention: 1\ndays: 0\n", 2),
        ("retention: 1\nkinds:\n  - {kind: video.viewed, days: many}\n", 3),
        ("retention: 2\n", 1),
        ("retention: 1\ndayz: 3\n", 1),
    ):
        path.write_text(text)
        error = ask("audit", "prune", code=2)["error"]
        assert (error["code"], error["where"].rpartition(":")[2]) == ("audit.retention.value", str(line)), text
    path.unlink()
    assert ask("audit", "prune", code=2)["error"]["code"] == "audit.retention.missing"


def test_killed_in_the_middle_the_next_run_finishes(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed right after the deletion was recorded, and between two files of bodies."""

    def ask(*args: object, code: int = 0) -> dict:
        return run(capsys, *args, "-w", place, code=code)

    ask("audit", "import", written(tmp_path / "a.jsonl", 700))
    ask("ledger", "checkpoint")
    kill = (
        "import os, signal, sys\n"
        "import secguard.ledger.pruning as p\n"
        "real, count = p.prune_bodies, int(sys.argv.pop(1))\n"
        "def die(path, slots):\n"
        "    global count\n"
        "    count -= 1\n"
        "    if count < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(path, slots)\n"
        "p.prune_bodies = die\n"
        "from secguard.cli.main import main\n"
        "main()\n"
    )
    for files in (0, 1):
        command = [sys.executable, "-c", kill, str(files), "audit", "prune", "-w", str(place)]
        assert subprocess.run(command, capture_output=True, timeout=240).returncode == -signal.SIGKILL
        assert ask("ledger", "verify")["outcome"] == "pass" if files else True
    done = ask("audit", "prune")["data"]
    assert (done["expired"], done["unfinished"] > 0, done["unfinished"] + done["gone"]) == (0, True, 700)
    assert on_disk(place, "PERSON000699X") == on_disk(place, "PERSON000000X") == []
    assert ask("ledger", "checkpoint")["data"]["size"] >= 700
    assert ask("ledger", "verify")["outcome"] == "pass"
    assert ask("audit", "reconcile")["outcome"] == "pass"


def test_beside_a_running_service(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The service holds the journal: it turns to a new segment when it is asked to."""

    def ask(*args: object, code: int = 0) -> dict:
        return run(capsys, *args, "-w", place, code=code)

    ask("audit", "import", written(tmp_path / "a.jsonl", 3))
    with subprocess.Popen(
        [sys.executable, "-m", "secguard", "serve", "-w", place], stderr=subprocess.DEVNULL
    ) as service:
        try:
            deadline = time.monotonic() + 60
            while not (place / "state" / "ledger.sock").exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert ask("audit", "prune")["data"]["deleted"] == 3
            assert on_disk(place, "PERSON000001X") == []
            ask("audit", "import", written(tmp_path / "b.jsonl", 3, start=10, days=1))
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(60)
    ask("ledger", "checkpoint")
    assert ask("ledger", "verify")["outcome"] == "pass"
    assert os.listdir(place / "state" / "ledger" / "journal")


def test_a_clock_that_is_years_ahead_deletes_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "audit", "import", written(tmp_path / "a.jsonl", 3, days=1), "-w", place)
    later = datetime.now(UTC) + timedelta(days=900)
    monkeypatch.setattr("secguard.core.clock.SystemClock.now", lambda _: later)
    error = run(capsys, "audit", "prune", "-w", place, code=2)["error"]
    assert error["code"] == "audit.prune.clock"
