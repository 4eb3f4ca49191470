"""The commands, as processes: from a workspace to a machine that has the root certificate and nothing else."""

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import evidence_kit as kit
import isolation_kit
import msgspec
import pytest

from secguard.cli.documents import Document

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def workspace(tmp_path: Path, secguard: Run, site: kit.Site) -> Path:
    folder = tmp_path / "site"
    done = secguard("init", folder, "--area", "320116")
    assert done.returncode == 0, done.stderr
    for arguments in (
        ("identity", "ca", "init", "--yes"),
        ("identity", "issue", kit.CAMERA, "--profile", "camera", "-o", "cam"),
        ("video", "sign", site.plain, "signed.mp4", "--device", kit.CAMERA, "--case", "A-1"),
    ):
        done = secguard(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def handed_over(workspace: Path, tmp_path: Path) -> Path:
    """A folder that holds the bundle `case.zip` and the root certificate; of the site nothing is left."""
    court = tmp_path / "court"
    court.mkdir()
    shutil.copy(workspace / "case.zip", court)
    shutil.copy(workspace / "certs" / "root.pem", court)
    shutil.rmtree(workspace)
    return court


def test_from_the_site_to_the_court(workspace: Path, secguard: Run, tmp_path: Path) -> None:
    done = secguard(
        "evidence", "export", "signed.mp4", "-o", "case.zip", "--case", "A-2026-42", "--reason", "调取", "--json",
        cwd=workspace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "secguard.evidence.export/1"
    assert document["data"]["video_outcome"] == "pass"
    assert [item["kind"] for item in document["data"]["custody"]] == ["video.signed", "evidence.exported"]
    assert document["receipt"]["index"] == document["data"]["custody"][-1]["index"]

    again = secguard("evidence", "export", "signed.mp4", "-o", "case.zip", "--case", "A-2026-42", cwd=workspace)
    assert again.returncode == 2
    assert "the output exists" in again.stderr
    nameless = secguard("evidence", "export", "signed.mp4", "-o", "b.zip", cwd=workspace)
    assert nameless.returncode == 2
    assert "--case" in nameless.stderr

    court = handed_over(workspace, tmp_path)
    done = secguard("evidence", "verify", "case.zip", "--root", "root.pem", "--json", "--report", "r.html", cwd=court)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert msgspec.convert(document, Document).outcome == "pass"
    assert set(document["axes"].values()) == {"pass"}
    assert "conformance" not in document["axes"], "nobody scanned"
    assert document["data"]["case"] == "A-2026-42"
    assert document["data"]["time_source"] == "ledger"
    assert document["receipt"] is None
    assert (court / "r.html").stat().st_size > 10_000

    data = bytearray((court / "case.zip").read_bytes())
    data[len(data) // 2] ^= 1
    (court / "bad.zip").write_bytes(data)
    done = secguard("evidence", "verify", "bad.zip", "--root", "root.pem", "--lang", "zh", cwd=court)
    assert done.returncode == 1
    assert "文件被改动" in done.stderr + done.stdout
    done = secguard("evidence", "verify", "case.zip", "--root", "root.pem", "--at", "2060-01-01T00:00:00Z", cwd=court)
    assert done.returncode == 1
    for arguments in (("case.zip",), ("root.pem", "--root", "root.pem"), ("none.zip", "--root", "root.pem")):
        done = secguard("evidence", "verify", *arguments, cwd=court)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        done = secguard("evidence", "verify", *arguments, "--json", cwd=court)
        refused = msgspec.json.decode(done.stdout, type=Document)
        assert refused.error is not None
        assert refused.exit == done.returncode == 2


def test_verifying_at_the_site_is_recorded(workspace: Path, secguard: Run) -> None:
    secguard("evidence", "export", "signed.mp4", "-o", "case.zip", "--case", "A-2026-42", cwd=workspace)
    done = secguard("evidence", "verify", "case.zip", "--json", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["receipt"]["event_id"]
    # The act of verifying belongs to the custody story of the next export.
    done = secguard("evidence", "export", "signed.mp4", "-o", "two.zip", "--case", "A-2026-43", "--json", cwd=workspace)
    kinds = [item["kind"] for item in json.loads(done.stdout)["data"]["custody"]]
    assert kinds == ["video.signed", "evidence.exported", "evidence.verified", "evidence.exported"]


def test_a_scan_at_the_site_is_known_to_the_court(
    workspace: Path, secguard: Run, site: kit.Site, tmp_path: Path
) -> None:
    run = isolation_kit.make_run([("c", "a", "tcp", 22)], at=datetime.now(UTC))
    for name, data in run.envelopes.items():
        (tmp_path / name).write_bytes(data)
    reports = sorted(tmp_path.glob("observations-*.json"))
    judged = ("isolation", "judge", tmp_path / "plan.json", *reports, "--trust", tmp_path / "signer.pem", "--keep")
    done = secguard("evidence", "export", "signed.mp4", "-o", "before.zip", "--case", "A-1", cwd=workspace)
    assert "no isolation scan is recorded" in done.stderr
    assert secguard(*judged, cwd=workspace).returncode == 1
    done = secguard("video", "sign", site.plain, "later.mp4", "--device", kit.CAMERA, "--case", "A-1", cwd=workspace)
    assert done.returncode == 0, done.stderr
    done = secguard("evidence", "export", "later.mp4", "-o", "case.zip", "--case", "A-1", cwd=workspace)
    assert done.returncode == 0, done.stderr
    assert "the last isolation scan before the recording ended and before the export: 20" in done.stderr

    court = handed_over(workspace, tmp_path)
    verify = ("evidence", "verify", "case.zip", "--root", "root.pem")
    done = secguard(*verify, "--json", cwd=court)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["axes"].pop("conformance") == "fail"
    assert set(document["axes"].values()) == {"pass"}
    (scan,) = document["data"]["scans"]
    assert (scan["run"], scan["outcome"], scan["findings"]) == (run.plan.run, "fail", ["isolation.leak.open"])
    assert secguard(*verify, "--require", "conformance", cwd=court).returncode == 1
    done = secguard(*verify, "--lang", "zh", "--report", "r.html", cwd=court)
    assert "发现隔离不成立：1 项违规（开放）" in done.stderr
    assert "发现违规" in (court / "r.html").read_text(encoding="utf-8")
