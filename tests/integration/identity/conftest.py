"""A workspace of a site with its CAs, made once, and a copy of it for each test that changes it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace to be copied; a module that needs more in it has a fixture of this name of its own."""
    root = tmp_path_factory.mktemp("identity") / "site"
    environment = {**os.environ, "XDG_STATE_HOME": str(root.parent / "xdg")}
    for words in (["init", str(root), "--area", "320116"], ["identity", "ca", "init", "--yes", "-w", str(root)]):
        subprocess.run([sys.executable, "-m", "secguard", *words], check=True, capture_output=True, env=environment)
    return root


@pytest.fixture
def site(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace, with the anchor of its ledger."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    shutil.copytree(template.parent / "xdg", tmp_path / "xdg", dirs_exist_ok=True)
    shutil.copytree(template, tmp_path / "site")
    return tmp_path / "site"
