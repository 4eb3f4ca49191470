"""docs/cli.md, docs/findings.md and docs/schemas say what the code says."""

from pathlib import Path

import click
import pytest

from secguard.cli.main import cli
from secguard.cli.reference import _commands, documents, main
from secguard.core import catalogue

DOCS = Path(__file__).parents[3] / "docs"


NAMES = [
    "cli.md",
    "findings.md",
    *(
        f"schemas/{name}.json"
        for name in ("bundle", "ca-profile", "event", "isolation-policy", "profile", "result", "segment")
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_current(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text == documents()[name], "run: python -m secguard.cli.reference"


def test_every_command_is_explained() -> None:
    silent = [path for path, command in _commands(cli, "secguard") if not command.help]
    assert not silent


def test_every_option_is_explained() -> None:
    silent = [
        f"{path} {parameter.name}"
        for path, command in _commands(cli, "secguard")
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden and not parameter.help
    ]
    assert not silent


def test_every_finding_is_listed_in_both_languages() -> None:
    text = documents()["findings.md"]
    for code, entry in catalogue().items():
        assert f"| `{code}` |" in text
        assert entry.zh
        assert entry.en


def test_check_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(tmp_path)]) == 1
    assert not list(tmp_path.iterdir())
    assert "stale" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == sorted(NAMES)
    assert main(["--check", str(tmp_path)]) == 0
