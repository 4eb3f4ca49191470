"""How often a site scans, as an export is told: by its configuration, else as its scans were last run."""

from pathlib import Path

import pytest

from secguard.isolation.schedule.book import Book, Entry
from secguard.workspace import Workspace
from secguard.workspace.site import create_site


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_site(tmp_path / "site", area="320116", name="Test", anchor=tmp_path / "anchor")
    return tmp_path / "site"


def every(root: Path) -> str:
    with Workspace.find(root) as site:
        assert site.kept_scans().folder == root / "state" / "isolation"
        return site.kept_scans().every


def test_the_shortest_interval_that_is_known(root: Path) -> None:
    assert every(root) == ""
    book = Book(root / "state" / "isolation" / "schedule")
    for policy, interval in (("a.yaml", "7d"), ("b.yaml", "36h"), ("c.yaml", "")):
        book.put(Entry(policy=policy, every=interval))
    assert every(root) == "36h"
    with (root / "secguard.toml").open("a") as file:
        file.write('\n[isolation]\nevery = "12h"\n')
    assert every(root) == "12h"


def test_a_damaged_book_keeps_nobody_from_exporting(root: Path) -> None:
    Book(root / "state" / "isolation" / "schedule").put(Entry(policy="a.yaml", every="24h"))
    (path,) = (root / "state" / "isolation" / "schedule").glob("*.json")
    for damage in ("junk", path.read_text().replace("24h", "daily")):
        path.write_text(damage)
        assert every(root) == ""
