"""Renewal, expiry, linting and profiles from the command line."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from secguard.identity import Registry
from secguard.trust import read_certificates

CAMERA = "32011600001320000001"
NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A workspace whose CA of cameras lives for a month, and an operator whose certificate lasts one day."""
    root = tmp_path_factory.mktemp("renewal") / "site"
    environment = {**os.environ, "XDG_STATE_HOME": str(root.parent / "xdg")}

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "secguard", *words], capture_output=True, env=environment, cwd=root.parent
        )
        assert done.returncode == 0, done.stderr

    run("init", str(root), "--area", "320116")
    devices = root / "certs" / "ca" / "devices.yaml"
    devices.write_text(devices.read_text().replace("days: 3650", "days: 20"))
    (root / "certs" / "guest.yaml").write_text("purpose: operator\nholder: name\ndays: 3\n")
    run("identity", "ca", "init", "--yes", "-w", str(root))
    run("identity", "issue", CAMERA, "--profile", "camera", "-w", str(root))
    run("identity", "issue", "guest.one", "--profile", "guest", "-w", str(root))
    return root


@pytest.fixture
def run(secguard, site):
    def call(*words, code=0):
        done = secguard("identity", *words, "--json", cwd=site)
        assert done.returncode == code, (done.stdout[-2000:], done.stderr)
        return json.loads(done.stdout)

    return call


def codes(document) -> set[str]:
    return {item["code"] for item in document["findings"]}


def test_expiring_lists_and_judges_when_asked(run, site):
    listed = run("expiring", "--days", "5")
    assert [row["holder"] for row in listed["data"]["certificates"]] == ["guest.one"]
    assert listed["outcome"] is None
    assert {item["name"] for item in listed["data"]["authorities"]} >= {"root", "devices"}
    assert sum(listed["data"]["weeks"].values()) == listed["data"]["in_force"] == 5
    judged = run("expiring", "--critical", "5", code=1)
    assert codes(judged) == {"identity.expiry.critical", "identity.expiry.ca-short"}
    judged = run("expiring", "--critical", "25", code=1)
    assert "identity.expiry.ca" in codes(judged)
    assert run("expiring", "--critical", "1")["outcome"] == "pass"
    assert run("expiring", "--critical", "25", "--profile", "log", "--days", "1", code=1)["data"]["total"] == 0
    run("expiring", "--days", "4000", "--report", "ends.html", "--lang", "zh")
    assert "证书到期情况" in (site / "ends.html").read_text()
    run("expiring", "--days", "4000", "--report", "ends.csv")
    assert "guest.one" in (site / "ends.csv").read_text()


def test_renew_many_and_say_what_cannot_be(run, site):
    planned = run("renew", "--expiring", "30", "--dry-run")["data"]
    assert (planned["total"], planned["here"]) == (2, 2)
    (site / "certs" / "guest.yaml").rename(site / "certs" / "guest.off")
    done = run("renew", "--expiring", "30", "--report", "renewed.html", code=1)
    assert codes(done) == {"identity.renewal.failed", "identity.renewal.held-back"}
    assert (done["data"]["failed"], done["data"]["held_back"], done["data"]["renewed"]) == (1, 1, 0)
    assert "Held back" in (site / "renewed.html").read_text()
    (site / "certs" / "guest.off").rename(site / "certs" / "guest.yaml")
    done = run("renew", "--expiring", "30", "--profile", "guest")
    assert done["data"]["renewed"] == 1
    assert done["receipt"]
    shutil.rmtree(site / "state" / "identity" / "devices" / CAMERA)
    done = run("renew", "--expiring", "30", "--area", "3201")
    assert codes(done) == {"identity.renewal.in-device"}
    assert [item["holder"] for item in done["data"]["devices"]] == [CAMERA]
    assert run("renew", "--due")["data"]["renewed"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["renew"], "say what to renew"),
        (["renew", CAMERA], "which certificate"),
        (["renew", CAMERA, "--profile", "camera", "--due"], "say what to renew"),
        (["renew", "--due", "--expiring", "3"], "say what to renew"),
        (["renew", "--due", "--area", "3x"], "area code"),
        (["expiring", "--area", "'; --"], "area code"),
        (["renew", "32011600001320000077", "--profile", "camera"], "no active"),
        (["profile", "show", "toaster"], "no profile"),
        (["lint", "secguard.toml"], "no certificate"),
        (["lint", "none.pem"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(secguard, site, words, message):
    done = secguard("identity", *words, cwd=site)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "(" in done.stderr or "no such file" in done.stderr


def test_lint_and_profiles(run, site, secguard):
    pytest.importorskip("pkilint")
    assert run("lint")["data"]["linted"]["certificate"] > 30
    assert run("lint", "--registry", "--report", "lint.html", "--lang", "zh")["data"]["linted"]["crl"] == 6
    assert "证书标准符合性检查" in (site / "lint.html").read_text()
    assert run("lint", "certs/root.pem")["outcome"] == "pass"
    profiles = run("profile", "list")["data"]
    assert {row["profile"] for row in profiles["profiles"]} >= {"camera", "nvr", "guest"}
    assert {row["ca"] for row in profiles["authorities"]} >= {"root", "devices"}
    shown = run("profile", "show", "camera")["data"]
    assert shown["extended_key_usage"] == ["1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"]
    assert json.loads(secguard("identity", "profile", "schema", "ca-profile", cwd=site).stdout)["required"] == ["days"]
    (site / "certs" / "guest.yaml").write_text("purpose: operator\nholder: name\ndays: 3\nusage: []\n")
    done = secguard("identity", "profile", "list", cwd=site)
    assert (done.returncode, "guest.yaml:4" in done.stderr, "did you mean usages?" in done.stderr) == (2, True, True)


def test_status_tells_how_certificates_and_lists_stand(secguard, site):
    facts = json.loads(secguard("status", "--json", cwd=site).stdout)["data"]
    assert facts["certificates in force"] == 5
    assert facts["certificates ending within 30 days"] == 2
    assert facts["CAS ENDING"] == "devices"
    assert facts["revocation lists"] == "6, all fresh"
    (site / "state/identity/crl/media.crl").unlink()
    (site / "state/identity/crl/logs.crl").write_bytes(b"x")
    facts = json.loads(secguard("status", "--json", cwd=site).stdout)["data"]
    assert facts["REVOCATION LISTS STALE"].startswith("logs.crl: damaged; media: no list")
    assert secguard("identity", "crl", cwd=site).returncode == 0
    assert "REVOCATION LISTS STALE" not in json.loads(secguard("status", "--json", cwd=site).stdout)["data"]


def test_killed_during_renewal_the_next_run_completes(site, secguard):
    """`kill -9` in the middle, over and over: each file is the one of the active certificate in the end."""
    script = (
        "import sys; from pathlib import Path; from secguard.workspace import Workspace\n"
        "from secguard.identity import Request\n"
        "ws = Workspace.find(Path(sys.argv[1])); a = ws.authority()\n"
        "a.issue([Request(f'guest.{n}', 'guest') for n in range(60)])\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(site)]).returncode == 0
    rng = random.Random(4)
    words = [
        sys.executable,
        "-m",
        "secguard",
        "identity",
        "renew",
        "--expiring",
        "10",
        "--profile",
        "guest",
        "-w",
        str(site),
    ]
    killed = 0
    for _ in range(20 if NIGHTLY else 4):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.4, 1.1))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    done = secguard("identity", "renew", "--expiring", "10", "--profile", "guest", cwd=site)
    assert done.returncode == 0, done.stderr
    with Registry.open(site / "state/identity/registry.db") as registry:
        rows = list(registry.certificates())
    active = [row for row in rows if row.status == "active" and row.profile == "guest"]
    assert len(active) == 61
    assert len({row.serial for row in rows}) == len(rows)
    for row in active:
        folder = site / "state/identity/devices" / row.holder
        (leaf,) = read_certificates(folder / f"{row.holder}.guest.pem")
        assert f"{leaf.serial_number:032x}" == row.serial


@pytest.mark.parametrize("words", [("renew", "--due"), ("renew", "--expiring", "60", "--dry-run"), ("expiring",)])
def test_a_misspelt_profile_is_no_silence(run, words):
    error = run(*words, "--profile", "camer", code=2)["error"]
    assert error["code"] == "identity.profile.unknown"
    assert error["hint"] == "did you mean camera?"
