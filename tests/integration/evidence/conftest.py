"""One site and one bundle for all tests; each test changes copies."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

import evidence_kit as kit


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kit.Site]:
    pytest.importorskip("av", reason="needs av: pip install secguard[media]")
    made = kit.Site(tmp_path_factory.mktemp("site"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def exported(site: kit.Site, tmp_path_factory: pytest.TempPathFactory) -> kit.Exported:
    return site.export(tmp_path_factory.mktemp("bundle") / "case.zip")


@pytest.fixture(scope="session")
def bundle(exported: kit.Exported) -> Path:
    return exported.path
