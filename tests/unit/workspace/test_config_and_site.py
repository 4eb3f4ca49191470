"""A workspace is made whole or not at all; its configuration is strict."""

import shutil
from pathlib import Path

import pytest

from secguard.core import FormatError, RefusedError, UsageError
from secguard.workspace.config import load_config
from secguard.workspace.site import add_missing, create_site


def test_create_and_load(tmp_path):
    config = load_config(create_site(tmp_path / "ws", area="320116", name="南京六合"))
    assert (config.site.area, config.site.name) == ("320116", "南京六合")
    assert sorted(p.name for p in (tmp_path / "ws").iterdir()) == [
        "audit",
        "certs",
        "policies",
        "secguard.toml",
        "state",
    ]
    other = load_config(create_site(tmp_path / "ws2", area="320116"))
    assert config.ledger.origin != other.ledger.origin


def test_an_empty_folder_may_be_there_and_a_full_one_not(tmp_path):
    (tmp_path / "a").mkdir()
    create_site(tmp_path / "a")
    with pytest.raises(RefusedError, match="not empty"):
        create_site(tmp_path / "a")


def test_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_config(create_site(Path(), area="320116"))
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    assert (tmp_path / "secguard.toml").is_file()


@pytest.mark.parametrize("area", ["", "1", "32011", "32x1", "3201160000", "三二"])
def test_bad_area(tmp_path, area):
    with pytest.raises(UsageError):
        create_site(tmp_path / "ws", area=area)
    assert not list(tmp_path.glob("ws*"))


@pytest.mark.parametrize("name", ["", 'a"b', "a\nb", "x" * 65])
def test_bad_name(tmp_path, name):
    with pytest.raises(UsageError):
        create_site(tmp_path / "ws", name=name)


def test_unknown_keys_are_refused_with_a_neighbour(tmp_path):
    path = create_site(tmp_path / "ws")
    path.write_text(path.read_text().replace("crl_days", "crl_day"))
    with pytest.raises(UsageError, match=r"identity\.crl_day") as caught:
        load_config(path)
    assert "crl_days" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[site", FormatError), ("\xff", FormatError), ("[site]\narea='320116'\n", UsageError), ("site=1", UsageError)],
)
def test_bad_files(tmp_path, text, kind):
    path = tmp_path / "secguard.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(kind):
        load_config(path)


def test_values_out_of_range(tmp_path):
    path = create_site(tmp_path / "ws")
    path.write_text(path.read_text().replace("crl_days = 7", "crl_days = 0"))
    with pytest.raises(UsageError, match="crl_days"):
        load_config(path)


def test_what_a_workspace_of_an_earlier_version_lacks_is_added_and_nothing_changed(tmp_path):
    root = create_site(tmp_path / "ws").parent
    shipped = (root / "certs/ca/root.yaml").read_bytes()
    shutil.rmtree(root / "certs/ca")
    (root / "certs/server.yaml").unlink()
    (root / "certs/camera.yaml").write_text("purpose: device\ndays: 90\n")
    added = [str(path) for path in add_missing(root)]
    assert "certs/server.yaml" in added
    assert all(path.startswith("certs/") for path in added)
    assert "certs/camera.yaml" not in added
    assert (root / "certs/ca/root.yaml").read_bytes() == shipped
    assert "days: 90" in (root / "certs/camera.yaml").read_text()
    assert add_missing(root) == []
    with pytest.raises(UsageError) as caught:
        add_missing(tmp_path)
    assert caught.value.code == "workspace.none"
