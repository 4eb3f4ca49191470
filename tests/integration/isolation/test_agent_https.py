"""An agent's door, with real TLS on loopback: who gets in, who does not, and what a hostile peer can do."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secguard.core import RefusedError, SecguardError, UsageError
from secguard.isolation.agent import app as app_module
from secguard.isolation.agent.credentials import fingerprint
from secguard.isolation.agent.keys import spki
from secguard.isolation.agent.peer import client_context, private_pem
from secguard.isolation.runs.process import Said, gather, missing
from secguard.isolation.runs.remote import RemoteAgent, check_url
from secguard.service import gate as gate_module
from secguard.trust import chain_pem

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from agent_kit import POLICY, Pki, make_pki, make_stranger, serving

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


def call(name: str, port: int, caller) -> Said | SecguardError:
    """The hello of an agent, or why there is none."""
    agent = RemoteAgent(name, "left", f"https://127.0.0.1:{port}", caller)
    try:
        said = gather([agent], 60).get(name)
        if said is not None:
            return said
        error = missing(agent)
        assert "\n" not in error.message
        assert error.hint, error
        return error
    finally:
        agent.close()


def test_an_agent_says_hello_to_its_controller_and_serves_one_at_a_time(pki: Pki, tmp_path: Path) -> None:
    door = pki.door("a-left", tmp_path)
    with serving(door) as port:
        agent = RemoteAgent("a-left", "left", f"https://127.0.0.1:{port}", pki.caller())
        try:
            hello = gather([agent], 60)["a-left"].answer
            leaf = pki.holders["a-left"][0][0]
            assert (hello.op, hello.agent, hello.certificate) == ("hello", "a-left", fingerprint(leaf))
            assert hello.key == spki(leaf.public_key())
            second = call("a-left", port, pki.caller())
            assert isinstance(second, SecguardError)
            assert second.code == "isolation.agent.busy"
            # What no controller signed ends the run, in words.
            agent.say(b'{"envelope":{"payload":"","payloadType":"x","signatures":[]}}')
            said = gather([agent], 60)["a-left"]
            assert said.answer.error is not None
            assert said.answer.error.code.startswith(("isolation.", "keys."))
        finally:
            agent.close()
        deadline = time.monotonic() + 30
        while door.busy and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not door.busy
        assert isinstance(call("a-left", port, pki.caller()), Said), "the door is open again"


def test_callers_that_an_agent_refuses(pki: Pki, tmp_path: Path) -> None:
    with serving(pki.door("a-left", tmp_path)) as port:
        for name, words in (("revoked", "revoked"), ("expired", "valid")):
            error = call("a-left", port, pki.caller(name))
            assert isinstance(error, RefusedError)
            assert error.code == "isolation.peer.certificate"
            assert "it refuses" in error.message
            assert words in error.message.lower() or "expired" in error.message.lower()
        root, theirs, key = make_stranger(tmp_path)
        # A stranger believes our root, so that it is the agent that refuses.
        error = call("a-left", port, pki.caller(chain=theirs, key=key))
        assert isinstance(error, SecguardError)
        assert error.code in {"isolation.peer.tls", "isolation.agent.unreachable", "isolation.agent.ended"}
        # An operator signs plans; its key is for no TLS.
        chain, signer = pki.operator_chain, pki.operator
        error = call("a-left", port, pki.caller(chain=chain_pem(chain), key=private_pem(signer)))
        assert isinstance(error, SecguardError)
        # The other way round: a controller that does not believe the agent's root.
        error = call("a-left", port, pki.caller(trust=pki.trust(roots=(root,))))
        assert isinstance(error, RefusedError)
        assert error.code in {"isolation.peer.certificate", "isolation.peer.tls"}


@pytest.mark.parametrize(
    ("holder", "code", "words"),
    [
        ("a-right", "isolation.peer.name", "it is a-right.video.internal, not agent a-left"),
        ("revoked", "isolation.peer.name", "not agent a-left"),
    ],
)
def test_an_agent_of_another_zone_in_its_place(pki: Pki, tmp_path: Path, holder: str, code: str, words: str) -> None:
    with serving(pki.door(holder, tmp_path, called="a-left")) as port:
        error = call("a-left", port, pki.caller())
        assert isinstance(error, RefusedError)
        assert error.code == code
        assert words in error.message


@pytest.mark.parametrize("holder", ["revoked", "expired"])
def test_an_agent_whose_certificate_ended(pki: Pki, tmp_path: Path, holder: str) -> None:
    with serving(pki.door(holder, tmp_path)) as port:
        error = call(holder, port, pki.caller())
        assert isinstance(error, RefusedError)
        assert error.code == "isolation.peer.certificate"


def test_no_fresh_revocation_list_is_a_refusal_at_both_ends(pki: Pki, tmp_path: Path) -> None:
    for crls in ((), (pki.stale,)):
        with serving(pki.door("a-left", tmp_path)) as port:
            error = call("a-left", port, pki.caller(trust=pki.trust(crls=crls)))
            assert isinstance(error, RefusedError)
            assert error.code == "isolation.peer.certificate"
            assert "it refuses" not in error.message
        with serving(pki.door("a-left", tmp_path, trust=pki.trust(crls=crls))) as port:
            error = call("a-left", port, pki.caller())
            assert isinstance(error, RefusedError)
            assert "it refuses" in error.message


def test_lists_are_read_anew_for_each_call(pki: Pki, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    with serving(pki.door("a-left", tmp_path, trust=pki.trust(crls=(lists,)))) as port:
        assert isinstance(call("a-left", port, pki.caller()), RefusedError)
        for path in pki.crls.iterdir():
            (lists / path.name).write_bytes(path.read_bytes())
        assert isinstance(call("a-left", port, pki.caller()), Said)


def test_a_machine_in_the_middle_with_the_certificate_but_another_key_for_its_words(pki: Pki, tmp_path: Path) -> None:
    # It ends the TLS connection as a-left, and relays the words of a process that has another key.
    door = pki.door("a-left", tmp_path)
    with serving(door) as port:
        door.key = private_pem(pki.holders["a-right"][1])
        error = call("a-left", port, pki.caller())
    assert isinstance(error, SecguardError)
    assert error.code == "isolation.peer.middle"
    assert "its key is not that of the connection" in error.message


def _tls(pki: Pki, port: int, name: str = "controller") -> ssl.SSLSocket:
    chain, signer = pki.holders[name]
    context = client_context(chain_pem(chain), private_pem(signer), pki.trust().anchors_pem())
    plain = socket.create_connection(("127.0.0.1", port), 30)
    return context.wrap_socket(plain)


def _closed(channel: socket.socket, seconds: float = 30) -> bool:
    channel.settimeout(seconds)
    try:
        while channel.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_oversized_messages_and_bodies(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MAX_MESSAGE", 100_000)
    with serving(pki.door("a-left", tmp_path)) as port:
        agent = RemoteAgent("a-left", "left", f"https://127.0.0.1:{port}", pki.caller())
        try:
            assert "a-left" in gather([agent], 60)
            agent.say(b"[" * 200_000)
            assert gather([agent], 60) == {}
            assert agent.error
        finally:
            agent.close()
        for head in (
            b"POST /v1/run HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000000\r\n\r\n" + b"x" * 100_000,
            b"GET /v1/run HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
            b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET /v1/run HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ):
            with _tls(pki, port) as channel:
                with contextlib.suppress(OSError):
                    channel.sendall(head)
                channel.settimeout(30)
                first = b""
                with contextlib.suppress(OSError):
                    first = channel.recv(64)
                assert first == b"" or first.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
        assert isinstance(call("a-left", port, pki.caller()), Said), "the door is still open"


def test_slow_peers_are_put_out(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "_SILENT_SECONDS", 0.3)
    monkeypatch.setattr(gate_module, "_HANDSHAKE_SECONDS", 0.3)
    with serving(pki.door("a-left", tmp_path)) as port:
        with socket.create_connection(("127.0.0.1", port), 30) as silent:
            assert _closed(silent), "no handshake"
        monkeypatch.setattr(gate_module, "_HANDSHAKE_SECONDS", 30)
        with _tls(pki, port) as slow:
            slow.sendall(b"GET /v1/run HTTP/1.1\r\n")
            assert _closed(slow), "no whole request"


def test_nothing_else_is_served(pki: Pki, tmp_path: Path) -> None:
    with serving(pki.door("a-left", tmp_path)) as port:
        for line in (b"GET / HTTP/1.1", b"GET /v1/../etc/passwd HTTP/1.1", b"PUT /v1/run HTTP/1.1"):
            with _tls(pki, port) as channel:
                channel.sendall(line + b"\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert channel.recv(12) in {b"HTTP/1.1 404", b"HTTP/1.1 405"}
        # Without a client certificate there is no connection to speak of.
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", port), 30)
        with contextlib.suppress(OSError), bare.wrap_socket(plain) as channel:
            channel.sendall(b"GET /v1/run HTTP/1.1\r\nHost: a\r\n\r\n")
            assert channel.recv(10) == b""


@pytest.mark.parametrize(
    "url", ["http://a:1", "https://a", "https://u@a:1", "https://a:1/x", "https://a:1?q", "https://a:99999", "a:1", ""]
)
def test_urls(url: str) -> None:
    with pytest.raises(UsageError):
        check_url(url)
    assert check_url("https://[fd00::1]:8470/") == "https://[fd00::1]:8470"


@contextlib.contextmanager
def _agent(pki: Pki, tmp_path: Path, *more: object) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The real command, on a free port of loopback."""
    command = [sys.executable, "-m", "secguard", "isolation", "agent", "--name", "a-left", "--listen", "127.0.0.1:0"]
    files = ["--cert", pki.cert("a-left"), "--key", pki.key("a-left"), "--root", pki.root, "--crl", pki.crls]
    process = subprocess.Popen(
        [*command, *map(str, files), "--state", str(tmp_path / "memory"), *map(str, more)],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "serves https://127.0.0.1:" in line, line
        yield process, line.rpartition(" ")[2].strip()
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_the_commands_say_one_line_and_exit_2(pki: Pki, tmp_path: Path, secguard: Run) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    with _agent(pki, tmp_path) as (process, url):
        run = ["isolation", "run", policy, "--agent", f"a-left={url}", "--agent", "a-right=https://127.0.0.1:1"]
        sign = ["--key", f"file:{pki.folder / 'operator.key'}", "--chain", pki.folder / "operator.pem"]
        for name, more, words in (
            ("revoked", (), "refuses: its certificate is not believed: Revoked"),
            ("controller", ("--crl", pki.stale), "is not believed"),
            ("controller", ("--crl", pki.crls), "agent a-right: cannot be reached"),
        ):
            crls = more or ("--crl", pki.crls)
            own = ["--cert", pki.cert(name), "--cert-key", pki.key(name), "--root", pki.root, *crls]
            done = secguard(*run, *own, *sign, "--json")
            assert done.returncode == 2, done.stderr
            assert words in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
            assert "isolation." in json.loads(done.stdout)["error"]["code"]
        done = secguard(*run, *sign)
        assert done.returncode == 2
        assert "--profile isolation-agent" in done.stderr
        process.send_signal(2)
        began = time.monotonic()
        assert process.wait(30) == 130
        assert time.monotonic() - began < 10


def test_an_agent_that_is_started_wrongly(pki: Pki, tmp_path: Path) -> None:
    from secguard.cli.main import cli

    key = ["--name", "a-left", "--key", pki.key("a-left")]
    listen = ["--listen", "127.0.0.1:0", "--root", pki.root]
    for words, text in (
        (key, "how is it led?"),
        ([*key, "--listen", "127.0.0.1:0"], "whose plans count?"),
        ([*key, *listen], "HTTPS needs a certificate"),
        ([*key, *listen, "--cert", pki.cert("a-right")], "the key is not that of the certificate"),
        ([*key, *listen, "--cert", pki.key("a-left")], "not a certificate"),
        ([*key, *listen, "--cert", pki.cert("a-left"), "--start", "2030-01-01T00:00:00Z"], "are for --bundle"),
        ([*key, "--bundle", tmp_path / "none", "--root", pki.root], "where do the observations go?"),
        ([*key, "--bundle", tmp_path / "none", "--root", pki.root, "-o", tmp_path / "o"], "no such file"),
        ([*key, "--listen", "nowhere", "--root", pki.root, "--cert", pki.cert("a-left")], "is not host:port"),
    ):
        with pytest.raises(SecguardError) as wrong:
            cli.main(["isolation", "agent", *map(str, words)], standalone_mode=False)
        assert text in f"{wrong.value} {wrong.value.hint}", words
