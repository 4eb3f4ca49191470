"""A real workspace, driven by the real command line; events as a platform writes them."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from secguard.cli.main import main
from secguard.workspace.site import create_site


def lines(count: int, *, start: int = 0) -> bytes:
    """Access events, one a line."""
    kinds = ["video.viewed", "video.played", "video.downloaded", "camera.ptz"]
    names = ["张伟", "李娜", "王芳", "Zhao Lei", "欧阳修文"]
    reasons = ["核查案件线索", "日常巡查", "配合刑侦支队调阅录像", "设备画面质量巡检"]
    records = (
        {
            "id": f"platform-{number}",
            "kind": kinds[number % 4],
            "time": f"2026-10-{1 + number % 28:02d}T{number % 24:02d}:00:00+08:00",
            "actor": {"name": names[number % 5], "org": "刑侦支队", "address": f"10.16.0.{number % 250}"},
            "subject": f"3201160000131{number % 40:07d}",
            "case": f"案2026-{number % 30}" if number % 3 else "",
            "reason": reasons[number % 4],
            "outcome": "denied" if number % 50 == 7 else "success",
            "data": {"seconds": number},
        }
        for number in range(start, start + count)
    )
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


class Site:
    """A workspace and its command line: `main` with arguments and exit codes, in this process (saves start-ups)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "state" / "index" / "audit.db"
        create_site(folder, anchor=folder / "state" / "anchor")

    def run(self, *args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command of the audit group and check its exit code."""
        command = ["secguard", "audit", *map(str, args), "-w", str(self.folder)]
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", command)
            with pytest.raises(SystemExit) as ended:
                main()
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
        done = subprocess.CompletedProcess(command, int(ended.value.code or 0), *texts)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def ask(self, *args: object, code: int = 0) -> dict[str, Any]:
        """The command's JSON document."""
        document: dict[str, Any] = json.loads(self.run(*args, "--json", code=code).stdout)
        assert document["exit"] == code
        return document


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture
def events() -> Callable[..., bytes]:
    return lines
