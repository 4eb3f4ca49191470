"""`[index]`: what it may say, and that no secret is taken from a file that others may read."""

from pathlib import Path

import pytest

from secguard.audit import ElasticIndex, SqliteIndex
from secguard.core import SecguardError
from secguard.workspace import load_config
from secguard.workspace.indexes import open_index

BASE = '[site]\narea = "320116"\n[ledger]\norigin = "test.example/log"\n'


def opened(root: Path, section: str) -> object:
    path = root / "secguard.toml"
    path.write_text(f"{BASE}{section}")
    index = open_index(root, load_config(path))
    index.close()
    return index


def secret(root: Path, name: str, value: bytes = b"word\n", mode: int = 0o600) -> None:
    (root / name).write_bytes(value)
    (root / name).chmod(mode)


def test_sqlite_is_the_default(tmp_path: Path) -> None:
    assert isinstance(opened(tmp_path, ""), SqliteIndex)
    assert isinstance(opened(tmp_path, '[index]\nkind = "sqlite"\n'), SqliteIndex)


@pytest.mark.parametrize("account", ['user = "u"\npassword_file = "secret"', 'api_key_file = "secret"'])
def test_elasticsearch_opens_without_asking_the_server(tmp_path: Path, account: str) -> None:
    secret(tmp_path, "secret")
    index = opened(tmp_path, f'[index]\nkind = "elasticsearch"\nurl = "https://search.example:9200/"\n{account}\n')
    assert isinstance(index, ElasticIndex)
    assert (index.position, index.origin) == (0, None)


@pytest.mark.parametrize(
    ("section", "code"),
    [
        ('kind = "solr"', "workspace.config.value"),
        ('kind = "elasticsearch"', "workspace.index.url"),
        ('url = "http://search.example:9200"', "workspace.config.value"),
        ('url = "https://name:word@search.example"', "workspace.config.value"),
        ('pasword_file = "x"', "workspace.config.key"),
        ('kind = "elasticsearch"\nurl = "https://x"', "workspace.index.sign-in"),
        ('kind = "elasticsearch"\nurl = "https://x"\nuser = "u"', "workspace.index.sign-in"),
        ('kind = "elasticsearch"\nurl = "https://x"\npassword_file = "open"', "workspace.index.sign-in"),
        ('kind = "elasticsearch"\nurl = "https://x"\napi_key_file = "none"', "keys.file.missing"),
        ('kind = "elasticsearch"\nurl = "https://x"\napi_key_file = "open"', "keys.file.open"),
        ('kind = "elasticsearch"\nurl = "https://x"\napi_key_file = "empty"', "workspace.index.secret"),
        ('kind = "elasticsearch"\nurl = "https://x"\napi_key_file = "binary"', "workspace.index.secret"),
        ('kind = "elasticsearch"\nurl = "https://x"\napi_key_file = "lines"', "workspace.index.secret"),
    ],
)
def test_what_cannot_be(tmp_path: Path, section: str, code: str) -> None:
    secret(tmp_path, "open", mode=0o644)
    secret(tmp_path, "empty", b"\n")
    secret(tmp_path, "binary", b"\xff\xfe")
    secret(tmp_path, "lines", b"one\ntwo\n")
    with pytest.raises(SecguardError) as caught:
        opened(tmp_path, f"[index]\n{section}\n")
    assert caught.value.code == code
    assert caught.value.hint


def test_a_position_file_that_is_none_is_refused_and_rebuilt(tmp_path: Path) -> None:
    secret(tmp_path, "key")
    section = '[index]\nkind = "elasticsearch"\nurl = "https://x"\napi_key_file = "key"\n'
    opened(tmp_path, section)
    path = tmp_path / "state" / "index" / "elasticsearch.json"
    path.parent.mkdir(parents=True)
    for content in (b"{", b"[]", b'{"origin": "o", "epoch": 5}', b'{"origin": "o", "epoch": 16777216, "position": -1}'):
        path.write_bytes(content)
        with pytest.raises(SecguardError) as caught:
            opened(tmp_path, section)
        assert caught.value.code == "audit.index.unreadable"
    config = load_config(tmp_path / "secguard.toml")
    index = open_index(tmp_path, config, rebuild=True)
    assert index.position == 0
    index.close()
