"""`secguard ledger` as people and scripts call it, in processes of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from secguard.workspace.site import create_site


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with an authority; its anchor lies inside, so that copies do not share it."""
    folder = tmp_path_factory.mktemp("template") / "site"
    create_site(folder, anchor=folder / "state" / "anchor")
    command = [sys.executable, "-m", "secguard", "identity", "ca", "init", "--yes", "-w", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def site(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "site")
    return tmp_path / "site"


def document(done) -> dict:
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_checkpoint_verify_prove_check(secguard, site: Path, tmp_path: Path) -> None:
    done = secguard("ledger", "checkpoint", "-w", site, "--json")
    assert done.returncode == 0, done.stderr
    signed = document(done)["data"]
    assert signed["size"] >= 3
    assert signed["note"].startswith(signed["origin"] + "\n")

    done = secguard("ledger", "verify", "-w", site, "--json")
    answer = document(done)
    assert (done.returncode, answer["outcome"], answer["findings"]) == (0, "pass", [])
    assert answer["schema"] == "secguard.ledger.verify/1"
    assert answer["axes"]["provenance"] == "pass"

    receipt = tmp_path / "receipt.json"
    done = secguard("ledger", "prove", "1", "-o", receipt, "-w", site, "--json")
    assert done.returncode == 0, done.stderr
    name = document(done)["data"]["event_id"]
    done = secguard("ledger", "prove", name, "-o", tmp_path / "same.json", "-w", site)
    assert done.returncode == 0, done.stderr

    court = tmp_path / "court"  # another machine: the root certificate and the receipt, nothing else
    court.mkdir()
    shutil.copy(site / "certs" / "root.pem", court)
    shutil.copy(receipt, court)
    done = secguard("ledger", "check-receipt", "receipt.json", "--root", "root.pem", "--json", cwd=court)
    answer = document(done)
    assert (done.returncode, answer["outcome"]) == (0, "pass"), answer
    assert answer["data"]["event"]["id"] == name
    assert answer["data"]["index"] == 1
    assert secguard("ledger", "check-receipt", "receipt.json", "--root", "root.pem", cwd=court).returncode == 0

    text = json.loads(receipt.read_text())
    assert len(text["chain"]) == len(text["crls"]) == 2, "no list that does not matter: those of cameras are long"
    text["salt"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    (court / "changed.json").write_text(json.dumps(text))
    done = secguard("ledger", "check-receipt", "changed.json", "--root", "root.pem", "--json", cwd=court)
    assert done.returncode == 1
    assert [item["code"] for item in document(done)["findings"]] == ["ledger.receipt.invalid"]

    done = secguard(
        "ledger", "check-receipt", "receipt.json", "--root", "root.pem", "--at", "2099-01-01T00:00:00Z", cwd=court
    )
    assert done.returncode != 0, "an expired key proves nothing"
    (court / "noise.json").write_text("{")
    done = secguard("ledger", "check-receipt", "noise.json", "--root", "root.pem", cwd=court)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert secguard("ledger", "check-receipt", "receipt.json", cwd=court).returncode == 2, "no root, no belief"


def test_a_stranger_s_root_is_not_believed(secguard, site: Path, tmp_path: Path) -> None:
    assert secguard("ledger", "prove", "0", "-o", "receipt.json", "-w", site).returncode == 0
    for words in (("init", "other"), ("identity", "ca", "init", "--yes", "-w", "other")):
        assert secguard(*words).returncode == 0
    done = secguard("ledger", "check-receipt", "receipt.json", "--root", "other/certs/root.pem", "--json")
    assert done.returncode == 1
    assert document(done)["axes"]["provenance"] == "fail"


def test_tampering_is_a_violation(secguard, site: Path) -> None:
    assert secguard("ledger", "checkpoint", "-w", site).returncode == 0
    (segment,) = (site / "state" / "ledger" / "journal").iterdir()
    data = bytearray(segment.read_bytes())
    data[data.index(b'"kind"')] ^= 1
    segment.write_bytes(data)
    done = secguard("ledger", "verify", "-w", site, "--json")
    assert done.returncode == 1
    assert document(done)["axes"]["completeness"] == "fail"


def test_a_corrupt_checkpoint_is_one_line(secguard, site: Path) -> None:
    assert secguard("ledger", "checkpoint", "-w", site).returncode == 0
    (site / "state" / "ledger" / "public" / "checkpoint").write_text("garbage\n")
    done = secguard("ledger", "checkpoint", "-w", site)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert "checkpoint" in done.stderr
    assert "(" in done.stderr, "there is a hint"
    assert secguard("ledger", "verify", "-w", site).returncode == 1


def test_what_is_not_there(secguard, site: Path, tmp_path: Path) -> None:
    for words in (("prove", "nobody"), ("prove", "99999")):
        done = secguard("ledger", *words, "-o", "receipt.json", "-w", site)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "receipt.json").exists()


def test_a_copy_on_a_read_only_disk_is_verified(secguard, site: Path, tmp_path: Path) -> None:
    """As an auditor gets it: who signed is taken from the verifier key, since the registry wants to write."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount read-only")
    done = secguard("ledger", "checkpoint", "-w", site)
    assert done.returncode == 0, done.stderr
    (key,) = document(secguard("ledger", "verify", "-w", site, "--json"))["data"]["keys"]
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "--bind", str(site), str(mount)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(mount)], check=True)
        for extra, code in (([], 3), (["--key", key], 0)):
            done = secguard("ledger", "verify", "-w", mount, "--json", *extra)
            assert done.returncode == code, done.stdout + done.stderr
            assert document(done)["axes"]["integrity"] == "pass"
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_verification_as_a_report(secguard, site: Path, tmp_path: Path) -> None:
    for name in ("report.html", "report.csv", "report.xml"):
        assert secguard("ledger", "verify", "-w", site, "--report", name, "--lang", "zh").returncode == 3
        assert "账本" in (tmp_path / name).read_text(encoding="utf-8-sig")
