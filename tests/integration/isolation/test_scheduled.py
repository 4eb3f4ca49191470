"""`isolation run --if-due` and `isolation status` in a workspace, with real scans between two namespaces."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from secguard.cli.main import cli
from secguard.core import SecguardError
from secguard.isolation.schedule.book import Book
from secguard.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from agent_kit import POLICY, cable
from lab_kit import NEEDS_LAB

pytestmark = [
    NEEDS_LAB,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces that outlive one process"),
]

SETTINGS = """
[isolation]
policy = "policies/isolation/cable.yaml"
every = "24h"
agents = {a-left = "https://127.0.0.1:1", a-right = "https://127.0.0.1:1"}
cert = "none.pem"
cert_key = "none.key"
on_finding = "tee -a %s"
"""

Call = Callable[..., tuple[int, dict]]


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[int, int, int]]:
    with cable() as pids:
        yield pids


@pytest.fixture
def site(tmp_path: Path) -> Path:
    made = tmp_path / "site"
    done = subprocess.run([sys.executable, "-m", "secguard", "init", str(made), "--area", "320116"])
    assert done.returncode == 0
    (made / "policies" / "isolation" / "cable.yaml").write_text(POLICY)
    with (made / "secguard.toml").open("a") as file:
        file.write(SETTINGS % (tmp_path / "alerts"))
    return made


@pytest.fixture
def call(site: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, in this process."""

    def run(*words: object) -> tuple[int, dict]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, words), "-w", str(site), "--json"], standalone_mode=False)
        return int(ended.value.code or 0), json.loads(capsys.readouterr().out)

    return run


def test_a_row_of_scans(site: Path, call: Call, spaces: tuple[int, int, int], tmp_path: Path) -> None:
    def alerts() -> list[tuple[str, str]]:
        text = (tmp_path / "alerts").read_text()
        return [(item["reason"], item["outcome"]) for item in map(json.loads, text.replace("}{", "}\n{").splitlines())]

    # Nothing can be reached: no verdict, which is told, and the scan stays due.
    with pytest.raises(SecguardError):
        cli.main(["isolation", "run", "--if-due", "-w", str(site)], standalone_mode=False)
    assert alerts() == [("first", "error")]
    code, document = call("isolation", "status")
    assert code == 3
    assert [item["code"] for item in document["findings"]] == ["isolation.schedule.missed"]
    assert document["data"]["policies"][0]["error"]

    here = ["--in-namespaces", f"left={spaces[1]}", f"right={spaces[2]}"]
    policy = site / "policies" / "isolation" / "cable.yaml"
    code, document = call("isolation", "run", policy, *here, "--if-due")
    assert code == 1
    assert alerts()[1:] == [("outcome", "fail")]
    assert document["data"]["alerts"] == [{"hook": "command", "delivered": True, "text": "tee took it"}]
    codes = {item["code"] for item in document["findings"]}
    assert codes == {"isolation.leak.closed", "isolation.leak.icmp", "isolation.schedule.missed"}

    code, document = call("isolation", "run", policy, *here, "--if-due")
    assert (code, document["data"]["due"], document["data"]["last_outcome"]) == (0, False, "fail")
    code, document = call("isolation", "status")
    assert (code, document["findings"]) == (1, [])

    book = Book(site / "state" / "isolation" / "schedule")
    (entry,) = book.entries()
    assert entry.policy == "policies/isolation/cable.yaml"
    book.put(msgspec.structs.replace(entry, outcome="pass", started=datetime.now(UTC) - timedelta(days=3)))
    code, document = call("isolation", "status")
    assert code == 3
    assert document["findings"][0]["data"]["count"] == 3
    with Workspace.find(site) as workspace:
        assert "did not run" in workspace.status()["isolation scan"]
        kinds = [workspace.ledger.event(index).kind for index in range(workspace.ledger.size)]
    assert [kind for kind in kinds if kind.startswith("scan.")] == ["scan.started", "scan.finished"]
    # Its evidence is kept, a folder a run.
    kept = [path for path in (site / "state" / "isolation").iterdir() if (path / "plan.json").is_file()]
    assert len(kept) == 1


def test_a_schedule_wants_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY)
    for words, text in (
        (["run", "policy.yaml", "--if-due", "--every", "24h"], "there is no schedule"),
        (["run", "--if-due"], "by which policy"),
        (["run", "policy.yaml", "--every", "soon"], "not an interval"),
        (["run", "policy.yaml", "--webhook", "http://a/"], "is https"),
        (["status"], "no workspace"),
    ):
        with pytest.raises(SecguardError, match=text):
            cli.main(["isolation", *words], standalone_mode=False)
