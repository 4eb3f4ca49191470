"""Agents as processes of their own, in namespaces with a cable: over HTTPS, by the clock, with one capability."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from agent_kit import POLICY, Pki, cable, make_pki
from lab_kit import NEEDS_LAB

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [
    NEEDS_LAB,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make namespaces that outlive one process"),
]
NOBODY = 65534
TARGET = '{cidr: 10.91.0.2/32, tcp: ["1-40"]}'


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def spaces() -> Iterator[tuple[int, int, int]]:
    with cable() as pids:
        yield pids


def _command(namespace: int, *words: object) -> list[str]:
    return ["nsenter", "-t", str(namespace), "-n", sys.executable, "-m", "secguard", *map(str, words)]


def _files(pki: Pki, name: str, key: str = "--key") -> list[object]:
    return ["--cert", pki.cert(name), key, pki.key(name), "--root", pki.root, "--crl", pki.crls]


@contextmanager
def _doors(pki: Pki, spaces: tuple[int, int, int], memory: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    agents = []
    try:
        for number, name in ((1, "a-left"), (2, "a-right")):
            words = ["isolation", "agent", "--name", name, "--listen", f"192.168.{number}.2:0", *_files(pki, name)]
            command = _command(spaces[number], *words, "--state", memory / name)
            agents.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        yield agents
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
            assert agent.stderr is not None
            agent.stderr.close()


def _urls(agents: list["subprocess.Popen[str]"]) -> list[str]:
    found = []
    for name, agent in zip(("a-left", "a-right"), agents, strict=True):
        assert agent.stderr is not None
        line = agent.stderr.readline()
        assert "serves https://" in line, line
        found += ["--agent", f"{name}={line.rpartition(' ')[2].strip()}"]
    return found


def _sign(pki: Pki) -> list[object]:
    return ["--key", pki.folder / "operator.key", "--chain", pki.folder / "operator.pem"]


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


def test_a_run_over_https_through_management_cables(pki: Pki, spaces: tuple[int, int, int], tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    site = tmp_path / "site"
    own = [*_files(pki, "controller", "--cert-key"), *_sign(pki)]
    with _doors(pki, spaces, tmp_path) as agents:
        run = _command(spaces[0], "isolation", "run", policy, *_urls(agents), *own)
        done = subprocess.run([*run, "--json", "-o", str(tmp_path / "scan")], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        document = json.loads(done.stdout)
        assert {item["code"] for item in document["findings"]} == {"isolation.leak.closed", "isolation.leak.icmp"}
        assert document["data"]["problems"] == []
        cases = document["data"]["cases"]
        assert [r for r, flow in zip(cases["result"], cases["flow"], strict=True) if flow == "sip"] == ["open"]
        plan = json.loads((tmp_path / "scan" / "plan.json").read_text())
        assert pki.folder.name not in json.dumps(plan)

        # A scan never overwrites another, and says so before anything is sent.
        again = subprocess.run([*run, "-o", str(tmp_path / "scan")], capture_output=True, text=True)
        assert again.returncode == 2
        assert "a scan never overwrites another" in again.stderr

        # Interrupted: the controller ends with 130, the agents' processes are gone within a second or so.
        assert subprocess.run([sys.executable, "-m", "secguard", "init", site, "--area", "320116"]).returncode == 0
        slow = tmp_path / "slow.yaml"
        slow.write_text(POLICY.replace("attempts: 2", "attempts: 9, ratePps: 1"))
        command = [str(slow) if word == str(policy) else word for word in run]
        process = subprocess.Popen([*command, "-w", str(site)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        _until(lambda: all(_children(agent.pid) for agent in agents))
        heard = [Path("/proc", str(agent.pid)) for agent in agents]
        assert all(path.exists() for path in heard)
        _until(lambda: b"scan.started" in b"".join(path.read_bytes() for path in _bodies(site)))
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(30) == 130
        _until(lambda: not any(_children(agent.pid) for agent in agents), 10)
        assert time.monotonic() - began < 10, "a second, on a machine that is not busy"
        process.communicate()
        assert b"scan.failed" in b"".join(path.read_bytes() for path in _bodies(site))
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(30) == 0


def _bodies(site: Path) -> list[Path]:
    return [path for path in (site / "state" / "ledger").rglob("*") if path.is_file()]


def _capable() -> list[str]:
    """What leaves a process one capability and, where it can still read Python, not even root's name."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv: apt-get install util-linux")
    only = ["--inh-caps=-all,+net_raw", "--bounding-set=-all,+net_raw"]
    nobody = [
        setpriv,
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        *only,
        "--ambient-caps=-all,+net_raw",
    ]
    works = subprocess.run([*nobody, sys.executable, "-c", "import secguard.cli.main"], capture_output=True, cwd="/")
    return nobody if works.returncode == 0 else [setpriv, *only]


def test_by_the_clock_from_files_with_one_capability(
    pki: Pki, spaces: tuple[int, int, int], tmp_path: Path, secguard: Run
) -> None:
    policy, plan = tmp_path / "policy.yaml", tmp_path / "plan.json"
    # With a sweep of the other end's address: TCP 1-40 from the left.
    policy.write_text(POLICY.replace("addresses: [10.91.0.2]}]}", f"addresses: [10.91.0.2]}}], targets: [{TARGET}]}}"))
    certificates = [word for name in ("a-left", "a-right") for word in ("--agent-cert", f"{name}={pki.cert(name)}")]
    made = secguard("isolation", "plan", policy, "-o", plan, "--skew", 3, *certificates, *_sign(pki))
    assert made.returncode == 0, made.stderr
    capable = _capable()
    reports = []
    with ExitStack() as stack:
        processes = []
        start = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()  # a busy machine starts Python slowly
        for number, name in ((1, "a-left"), (2, "a-right")):
            home = tmp_path / name
            home.mkdir()
            for source in (plan, pki.cert(name), pki.key(name), pki.root):
                shutil.copy(source, home / source.name)
                (home / source.name).chmod(0o600)
            shutil.copytree(pki.crls, home / "crls")
            if "--reuid" in " ".join(capable):
                for path in (home, *home.rglob("*")):
                    os.chown(path, NOBODY, NOBODY)
                for path in tmp_path.parents:
                    if path.stat().st_uid == 0 and path != Path("/") and not path.stat().st_mode & 0o001:
                        path.chmod(path.stat().st_mode | 0o001)
                tmp_path.chmod(0o711)
            own = ["--cert", f"{name}.pem", "--key", f"{name}.key", "--root", pki.root.name, "--crl", "crls"]
            words = ["isolation", "agent", "--name", name, "--zone", name[2:], "--bundle", "plan.json", *own]
            words += ["--start", start]
            command = [*capable, sys.executable, "-m", "secguard", *words, "-o", "seen.json", "--state", "memory"]
            enter = ["nsenter", "-t", str(spaces[number]), "-n"]
            process = subprocess.Popen(
                [*enter, *command], cwd=home, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.kill)
            processes.append((process, home))
        for process, home in processes:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
            assert (home / "seen.json").stat().st_mode & 0o077 == 0
            reports.append(home / "seen.json")
    trust = plan.with_name("plan.signer.pem")
    judged = secguard("isolation", "judge", plan, *reports, "--trust", trust, "--json")
    assert judged.returncode == 1, judged.stderr
    document = json.loads(judged.stdout)
    assert {item["code"] for item in document["findings"]} == {"isolation.leak.closed", "isolation.leak.icmp"}
    swept = [item["data"]["probes"] for item in document["findings"] if "1-40" in item["data"]["probes"]]
    assert swept == ["10.91.0.2 TCP 1-40"]
    assert all("not synchronised" in text for text in document["data"]["problems"])

    # The same plan again: one line, and nothing is sent.
    home = processes[0][1]
    own = ["--name", "a-left", "--cert", pki.cert("a-left"), "--key", pki.key("a-left"), "--root", pki.root]
    again = secguard(
        "isolation", "agent", *own, "--crl", pki.crls, "--bundle", plan, "-o", tmp_path / "x", "--start", start
    )
    assert again.returncode == 2
    assert "the run began at" in again.stderr
    assert len(again.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()
    assert (home / "memory" / "runs").read_text().startswith(document["data"]["run"])
