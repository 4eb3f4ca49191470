"""`secguard verify`: what lies at a path decides which command verifies it."""

from pathlib import Path

import pytest

from secguard.cli.main import main
from secguard.cli.verify import kind_of
from secguard.core import UsageError


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PK\x03\x04rest", "evidence"),
        (b"Bag Attributes\n-----BEGIN CERTIFICATE-----\n", "identity"),
        (b"\0\0\0\x20ftypisom", "video"),
        (b"\0\0\0\1\x67", "video"),
    ],
)
def test_content_decides(tmp_path: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(head)
    assert kind_of(path) == (kind, "verify")


def test_a_scan_is_a_folder_with_a_plan(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not that of a scan"):
        kind_of(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    assert kind_of(tmp_path) == ("isolation", "verify")


def test_what_is_unknown_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(UsageError, match="cannot tell"):
        kind_of(tmp_path / "x")
    with pytest.raises(UsageError, match="cannot read"):
        kind_of(tmp_path / "y")


def test_values_of_options_are_not_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--trust CA.pem FOLDER`: the file named first is not what is verified."""
    other, folder = tmp_path / "ca.pem", tmp_path / "scan"
    other.write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["secguard", "verify", "--json", "--report", str(other), str(folder)])
    with pytest.raises(SystemExit):
        main()
    assert "unknown kind of report" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["secguard", "verify", "--require", "integrity", "--json", str(folder)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert '"schema":"secguard.isolation.verify/1"' in capsys.readouterr().out
