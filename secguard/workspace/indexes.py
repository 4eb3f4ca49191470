"""Opens the search index that `[index]` names."""

from pathlib import Path
from typing import TYPE_CHECKING

from secguard.core.errors import UsageError
from secguard.core.limits import read_bounded
from secguard.keys import check_private
from secguard.workspace.config import Config

if TYPE_CHECKING:
    from secguard.audit import Index

__all__ = ["open_index"]

_MAX_SECRET = 4096


def open_index(root: Path, config: Config, *, rebuild: bool = False) -> "Index":
    """Open the index of a workspace; a server is asked when it is needed.

    Args:
        root: the workspace's folder.
        config: what its file says.
        rebuild: the caller empties it next, so what cannot be opened is made anew.

    Raises:
        UsageError: a setting is missing, or a file that it names.
        RefusedError: others may read a secret.
        FormatError: the index is damaged.
    """
    folder = root / "state" / "index"
    if config.index.kind == "sqlite":
        from secguard.audit import SqliteIndex

        return SqliteIndex.open(folder / "audit.db", rebuild=rebuild)
    from secguard.audit import ElasticIndex, ElasticServer

    section = config.index
    if not section.url:
        raise UsageError("workspace.index.url", "index.url is missing", hint="such as https://search.example:9200")
    if bool(section.user) != bool(section.password_file) or bool(section.user) == bool(section.api_key_file):
        raise UsageError(
            "workspace.index.sign-in",
            "the index needs a user with a password file, or an API key file",
            hint="set index.user and index.password_file, or index.api_key_file",
        )
    server = ElasticServer(
        section.url.rstrip("/"),
        root / section.ca if section.ca else None,
        section.user,
        _secret(root, section.password_file),
        _secret(root, section.api_key_file),
    )
    return ElasticIndex.open(folder / "elasticsearch.json", server, config.ledger.origin, rebuild=rebuild)


def _secret(root: Path, name: str) -> str:
    if not name:
        return ""
    path = root / name
    check_private(path)
    try:
        value = read_bounded(path, _MAX_SECRET).decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        value = ""
    if not value or not value.isprintable():
        raise UsageError("workspace.index.secret", "the file holds no password or key", where=str(path))
    return value
