"""The tour of both READMEs runs as it is printed, in one shell, on real input."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secguard.isolation.lab import lab
from secguard.workspace.demo.accesses import write_accesses
from secguard.workspace.demo.clip import make_clip

ROOT = Path(__file__).parents[3]
EXPECTED = {"isolation lab leaky": 1}


def tour(name: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [b for b in blocks if "secguard init" in b]
    return [line for line in block.splitlines() if line.strip()]


def commands(lines: list[str]) -> list[str]:
    return [line.split("#")[0].rstrip() for line in lines]


def test_both_languages_show_the_same_commands():
    assert commands(tour("README.md")) == commands(tour("README.zh-CN.md"))


def test_the_tour_runs(tmp_path):
    if reason := lab.available():
        pytest.skip(reason)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    program = bin_dir / "secguard"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m secguard "$@"\n')
    program.chmod(0o755)
    make_clip(tmp_path / "in.mp4", seconds=2, width=320, height=180)
    write_accesses(tmp_path / "access.jsonl", ["32011600001320000001"], 300, datetime(2026, 10, 1, tzinfo=UTC))
    script = ["set -u"]
    for line in commands(tour("README.md")):
        want = next((code for part, code in EXPECTED.items() if part in line), 0)
        script += [line, f'code=$?; [ $code = {want} ] || {{ echo "exit $code: {line}" >&2; exit 9; }}']
        if "secguard init" in line:
            script.append("cp ../in.mp4 ../access.jsonl .")
    done = subprocess.run(
        [shutil.which("bash") or "sh", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={
            "PATH": f"{bin_dir}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path / "s"),
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target
