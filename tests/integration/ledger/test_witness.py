"""Witness, log and court as processes and machines of their own; tiles read by a reader written from the standard."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from secguard.cli.main import main
from secguard.keys import Algorithm, generate
from secguard.ledger.witness import WitnessKey
from secguard.workspace.site import create_site
from tests.support.tlog_reader import read_log


def run(*args: object, code: int = 0) -> dict:
    """A command in this process (it saves the start), as its JSON document."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["secguard", *map(str, args), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
    text = out.buffer.getvalue().decode()
    assert int(ended.value.code or 0) == code, text + err.buffer.getvalue().decode()
    return json.loads(text)


@contextmanager
def process(*args: object, says: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A service, and the URL that it announces after `says`."""
    command = [sys.executable, "-m", "secguard", *map(str, args)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            seen = ""
            for line in running.stderr:
                seen += line
                if line.startswith(says):
                    yield running, line.removeprefix(says).strip()
                    break
            else:
                pytest.fail(f"it did not start: {seen}")
        finally:
            running.send_signal(signal.SIGTERM)
            running.stderr.read()
            running.wait(60)


def codes(answer: dict) -> list[str]:
    return sorted(item["code"] for item in answer["findings"])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with an authority, and a witness that the root certified; both know each other, but for the URL."""
    folder = tmp_path_factory.mktemp("template")
    site = folder / "site"
    create_site(site, anchor=site / "state" / "anchor")
    run("identity", "ca", "init", "--yes", "-w", site)
    run("ledger", "witness", "init", folder / "witness", "--name", "witness.example/w1", "--clear")
    csr, chain = folder / "witness" / "witness.csr", folder / "chain"
    run("identity", "issue", "witness.example/w1", "--profile", "witness", "--csr", csr, "-o", chain, "-w", site)
    (pem,) = (path for path in chain.rglob("*.pem") if path.read_text().count("BEGIN CERTIFICATE") > 1)
    shutil.copy(pem, site / "certs" / "w1.pem")
    (key,) = run("ledger", "key", "-w", site)["data"]["keys"]
    run("ledger", "witness", "add-log", folder / "witness", key)
    return folder


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "place")
    return tmp_path / "place"


def _other_key() -> str:
    return WitnessKey("witness.example/away", generate(Algorithm.ED25519).public_key()).vkey()


def configure(site: Path, url: str, *more: str) -> None:
    text = (site / "secguard.toml").read_text()
    text = text.replace("[ledger]\n", "[ledger]\nquorum = 1\n", 1)
    entry = f'\n[[ledger.witnesses]]\nurl = "{url}"\ncertificate = "certs/w1.pem"\n' + "".join(more)
    (site / "secguard.toml").write_text(text + entry)


def test_a_witness_from_its_certificate_to_the_court(place: Path) -> None:
    site, home = place / "site", place / "witness"
    with process("ledger", "witness", "serve", home, "--listen", "127.0.0.1:0", says="witness: ") as (running, url):
        configure(site, url)
        assert codes(run("ledger", "verify", "-w", site, code=3)) == ["ledger.checkpoint.none", "ledger.witness.none"]
        signed = run("ledger", "checkpoint", "-w", site)
        (given,) = signed["data"]["cosignatures"]
        assert given["name"] == "witness.example/w1"
        verified = run("ledger", "verify", "-w", site)
        assert verified["data"]["witnesses"] == {"witness.example/w1": signed["data"]["size"]}
        second = f'\n[[ledger.witnesses]]\nurl = "http://127.0.0.1:1"\nkey = "{_other_key()}"\n'
        text = (site / "secguard.toml").read_text()
        (site / "secguard.toml").write_text(text + second)
        one_of_two = run("ledger", "witness", "ask", "-w", site)  # the quorum is 1
        assert codes(one_of_two) == ["ledger.witness.silent"]
        (site / "secguard.toml").write_text(text)

        receipt = place / "receipt.json"
        proved = run("ledger", "prove", "1", "-o", receipt, "-w", site)
        assert [item["name"] for item in proved["data"]["cosignatures"]] == ["witness.example/w1"]
        running.send_signal(signal.SIGKILL)
        running.wait(60)
    # what was answered is remembered, whatever became of the process
    with process("ledger", "witness", "serve", home, "--listen", "127.0.0.1:0", says="witness: ") as (_, url):
        verified = run("ledger", "verify", "-w", site, "--witness", url)
        assert verified["data"]["witnesses"] == {"witness.example/w1": signed["data"]["size"]}

    court = place / "court"
    court.mkdir()
    root = shutil.copy(site / "certs" / "root.pem", court)
    believed = run("ledger", "check-receipt", receipt, "--root", root, "--quorum", "1")
    assert [item["name"] for item in believed["data"]["cosignatures"]] == ["witness.example/w1"]
    few = run("ledger", "check-receipt", receipt, "--root", root, "--quorum", "2", code=3)
    assert codes(few) == ["ledger.witness.quorum"]
    document = json.loads(receipt.read_text())
    proof = document["proof"]
    last = proof.rstrip("\n").rsplit(" ", 1)[-1]
    document["proof"] = proof.replace(last, last[:20] + ("A" if last[20] != "A" else "B") + last[21:])
    receipt.write_text(json.dumps(document))
    broken = run("ledger", "check-receipt", receipt, "--root", root, code=1)
    assert codes(broken) == ["ledger.cosignature.invalid"]
    document["proof"], document["witnesses"] = proof, []
    receipt.write_text(json.dumps(document))
    assert run("ledger", "check-receipt", receipt, "--root", root)["data"]["cosignatures"] == [], "nobody certified it"


def test_an_older_state_put_back_is_found_by_the_witness_alone(place: Path) -> None:
    site, home = place / "site", place / "witness"
    with process("ledger", "witness", "serve", home, "--listen", "127.0.0.1:0", says="witness: ") as (_, url):
        configure(site, url)
        run("ledger", "checkpoint", "-w", site)
        shutil.copytree(site / "state", place / "before")
        lines = [
            {"id": f"p{k}", "kind": "video.viewed", "time": "2026-10-01T08:00:00Z", "actor": {"name": "a"}}
            for k in range(100)
        ]
        (place / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        run("audit", "import", place / "events.jsonl", "-w", site)
        newest = run("ledger", "checkpoint", "-w", site)["data"]["size"]
        shutil.rmtree(site / "state")
        shutil.copytree(place / "before", site / "state")
        assert run("ledger", "verify", "--no-witness", "-w", site)["outcome"] == "pass", "all local files agree"
        found = run("ledger", "verify", "-w", site, code=1)
        (one,) = found["findings"]
        assert (one["code"], one["where"], one["data"]["size"]) == (
            "ledger.witness.ahead",
            "witness.example/w1",
            newest,
        )
        assert codes(run("ledger", "witness", "ask", "-w", site, code=1)) == ["ledger.witness.ahead"]
        assert "ledger.witness.ahead" in codes(run("audit", "reconcile", "-w", site, code=1))
        run("audit", "import", place / "events.jsonl", "--reason", "again", "-w", site)
        run("audit", "search", "x", "-w", site)
        refused = run("ledger", "checkpoint", "-w", site, code=1)
        assert codes(refused) == ["ledger.witness.fork", "ledger.witness.quorum"], (
            "nor can it go on as if nothing had happened"
        )
        assert [path.suffix for path in (home / "contradictions").iterdir()] == [".request"]
        (cosigned,) = (home / "seen").glob("*.checkpoint")
        offline = run("ledger", "verify", "--witness", cosigned, "-w", site, code=1)
        assert codes(offline) == ["ledger.witness.fork"]
    silent = run("ledger", "verify", "-w", site, code=3)
    assert codes(silent) == ["ledger.witness.silent"]
    assert codes(run("ledger", "witness", "ask", "-w", site, code=3)) == [
        "ledger.witness.quorum",
        "ledger.witness.silent",
    ]


def test_answers_over_http_are_those_of_the_standard(place: Path) -> None:
    site, home = place / "site", place / "witness"
    run("ledger", "checkpoint", "-w", site)
    note = (site / "state" / "ledger" / "public" / "checkpoint").read_bytes()
    with process("ledger", "witness", "serve", home, "--listen", "127.0.0.1:0", says="witness: ") as (_, url):

        def post(body: bytes) -> tuple[int, str, bytes]:
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(f"{url}/add-checkpoint", body), timeout=30
                ) as answer:
                    return answer.status, answer.headers["Content-Type"], answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.headers["Content-Type"], error.read()

        assert post(b"old 0\n\n" + note)[0] == 200
        size = note.split(b"\n")[1]
        assert post(b"old 0\n\n" + note) == (409, "text/x.tlog.size", size + b"\n")
        assert post(b"old " + size + b"\n\n" + note)[0] == 200
        assert post(b"nonsense")[0] == 400
        assert post(b"old 0\n\n" + b"x" * 1_000_000)[0] in {400, 413}
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}/{'0' * 64}/checkpoint", timeout=30)


def over_http(url: str) -> Callable[[str], bytes]:
    def fetch(path: str) -> bytes:
        with urllib.request.urlopen(f"{url}/{path}", timeout=30) as answer:
            return answer.read()

    return fetch


def test_tiles_are_served_to_any_client_and_bodies_to_none(place: Path) -> None:
    site = place / "site"
    lines = [
        {"id": f"p{k}", "kind": "video.viewed", "time": "2026-10-01T08:00:00Z", "actor": {"name": "secret-name"}}
        for k in range(600)
    ]
    (place / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("audit", "import", place / "events.jsonl", "-w", site)
    signed = run("ledger", "checkpoint", "-w", site)["data"]
    (key,) = run("ledger", "key", "-w", site)["data"]["keys"]
    command = [sys.executable, "-m", "secguard", "ledger", "key", "-w", str(site)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{key}\n", "fit for a pipe"
    copy = place / "copy"
    assert run("ledger", "export", copy, "-w", site)["data"]["size"] == signed["size"]
    entries = read_log(lambda path: (copy / path).read_bytes(), key)
    assert len(entries) == signed["size"]
    assert run("ledger", "export", copy, "-w", site)["data"]["written"] == 1, "only what is new is written"
    everything = b"".join(path.read_bytes() for path in copy.rglob("*") if path.is_file())
    assert b"secret-name" not in everything
    run("audit", "search", "x", "-w", site)
    assert run("ledger", "checkpoint", "-w", site)["data"]["size"] > signed["size"]
    grown = run("ledger", "export", copy, "-w", site)["data"]["size"]
    assert read_log(lambda path: (copy / path).read_bytes(), key)[: len(entries)] == entries

    os.environ.pop("SECGUARD_WORKSPACE", None)
    with process("serve", "--ledger", "127.0.0.1:0", "--publish-every", "86400", "-w", site, says="ledger: ") as (
        _,
        url,
    ):
        served = read_log(over_http(url), key)
        assert len(served) >= grown
        for path in (
            "bodies/000",
            "tile/../../bodies/000",
            "tile/%2e%2e/%2e%2e/bodies/000",
            "log.json",
            "../log.json",
            "tile/0/x000",
            "tile/0/000.p/256",
            "tile/64/000",
            "tile/0/001.p/255.p/3",
            "tile/0/999",
        ):
            with pytest.raises(urllib.error.HTTPError, match=r"HTTP Error 40[04]"):
                urllib.request.urlopen(f"{url}/{path}", timeout=30)
        with urllib.request.urlopen(f"{url}/checkpoint", timeout=30) as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.headers["Cache-Control"] == "public, max-age=1"
        with urllib.request.urlopen(f"{url}/tile/0/000.p/3", timeout=30) as answer:
            assert len(answer.read()) == 96, "a partial tile that became full is still served"
            assert "immutable" in answer.headers["Cache-Control"]


def test_a_witness_that_does_not_know_the_log(place: Path) -> None:
    """It is named by its verifier key here: no certificate is needed."""
    site = place / "site"
    key = run("ledger", "witness", "init", place / "w2", "--name", "w2.example", "--clear")["data"]["key"]
    with process("ledger", "witness", "serve", place / "w2", "--listen", "127.0.0.1:0", says="witness: ") as (_, url):
        with (site / "secguard.toml").open("a") as file:
            file.write(f'\n[[ledger.witnesses]]\nurl = "{url}"\nkey = "{key}"\n')
        assert codes(run("ledger", "checkpoint", "-w", site, code=3)) == ["ledger.witness.unknown"]


def test_the_service_asks_after_each_checkpoint_and_again(place: Path) -> None:
    site, home = place / "site", place / "witness"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configure(site, f"http://127.0.0.1:{port}")
    checkpoint = site / "state" / "ledger" / "public" / "checkpoint"

    def cosigned(count: int) -> None:
        deadline = time.monotonic() + 120
        while not checkpoint.exists() or checkpoint.read_bytes().count(b"witness.example/w1 ") < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with process("ledger", "witness", "serve", home, "--listen", f"127.0.0.1:{port}", says="witness: "):
        with process("serve", "--publish-every", "0.5", "-w", site, says="serving "):
            cosigned(1)
            (place / "events.jsonl").write_text(
                '{"id":"p1","kind":"video.viewed","time":"2026-10-01T08:00:00Z","actor":{"name":"a"}}\n'
            )
            size = int(checkpoint.read_bytes().split(b"\n")[1])
            run("audit", "import", place / "events.jsonl", "-w", site)
            deadline = time.monotonic() + 120
            while int(checkpoint.read_bytes().split(b"\n")[1]) <= size:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            cosigned(1)
        assert run("ledger", "verify", "-w", site)["outcome"] == "pass"
