"""A real Elasticsearch for measurements: tests/integration/audit_elastic/server.py with another heap and collector."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secguard.audit import ElasticServer

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "tests" / "integration" / "audit_elastic" / "server.py"
TEMPLATE = json.loads((ROOT / "audit" / "elasticsearch" / "index-template.json").read_text())
HEAP = 1024
"""Megabytes of Elasticsearch's heap."""


class Running:
    """A server, and how to reach it; `data` is where its indices lie."""

    def __init__(self, folder: Path, data: Path, heap: int) -> None:
        self.folder, self.data, self.heap = folder, data, heap
        said = json.loads((folder / "ready.json").read_text())
        self.account = ElasticServer(said["url"], Path(said["ca"]), "admin", said["passwords"]["admin"])

    @property
    def pid(self) -> int:
        """Of the server of now: one that was killed is started again."""
        return int(json.loads((self.folder / "ready.json").read_text())["pid"])

    def client(self) -> Any:
        from elasticsearch import Elasticsearch

        sign_in = (self.account.user, self.account.password)
        return Elasticsearch(self.account.url, basic_auth=sign_in, ca_certs=str(self.account.ca), request_timeout=600)

    def kill(self) -> None:
        (self.folder / "down").touch()
        os.kill(self.pid, signal.SIGKILL)
        wait(lambda: not (self.folder / "ready.json").exists(), 60, "kill Elasticsearch")

    def restart(self) -> None:
        (self.folder / "down").unlink()
        wait((self.folder / "ready.json").exists, 300, "restart Elasticsearch")

    def megabytes(self) -> float:
        """Its own memory: what it maps of files is the system's, which gives it to others at any time."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    def processors(self) -> float:
        """Seconds of processors that it took since it was started."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def settle(self) -> None:
        """All is searchable and on disk, and no merge runs or is due."""
        with self.client() as client:
            client.indices.refresh(index="secguard-audit-*")
            client.indices.flush(index="secguard-audit-*", wait_if_ongoing=True)

            def merging() -> int:
                found = client.indices.stats(index="secguard-audit-*", metric="merge")
                return int(found["_all"]["total"]["merges"]["current"])

            quiet = 0
            while quiet < 10:
                quiet = 0 if merging() else quiet + 1
                time.sleep(0.2)


def wait(true: Callable[[], bool], seconds: float, what: str) -> None:
    limit = time.monotonic() + seconds
    while not true():
        if time.monotonic() > limit:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)


@contextmanager
def elasticsearch(data: Path | None = None, heap: int = HEAP, **settings: str) -> Generator[Running]:
    """A server with our template, on kept data or on none; it ends, and its files go, however the block ends."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = data or folder / "data"
        environment = {
            **os.environ,
            "SECGUARD_TEST_ES_JAVA_OPTS": f"-Xms{heap}m -Xmx{heap}m",
            "SECGUARD_TEST_ES_SETTINGS": json.dumps({"path.data": str(data), **settings}),
        }
        with (folder / "users").open("a") as users, (folder / "log").open("wb") as log:
            fcntl.flock(users, fcntl.LOCK_SH)
            server = subprocess.Popen(
                [sys.executable, SERVER, folder],
                stdout=log,
                stderr=log,
                env=environment,
                process_group=0,  # Ctrl-C is for this process, which ends the server
            )
            try:
                wait(lambda: (folder / "ready.json").exists() or server.poll() is not None, 700, "start Elasticsearch")
                if not (folder / "ready.json").exists():
                    why = folder / "failed.txt"
                    raise RuntimeError((why if why.exists() else folder / "log").read_text(errors="replace")[-2000:])
                running = Running(folder, data, heap)
                with running.client() as client:
                    client.indices.put_index_template(name="secguard-audit", **TEMPLATE)
                yield running
            finally:
                server.terminate()
                server.wait()
