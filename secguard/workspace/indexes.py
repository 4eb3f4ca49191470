"""Opens the search index that `[index]` names, and says how it stands."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from secguard.core.errors import SecguardError, UsageError
from secguard.core.limits import read_bounded
from secguard.keys import check_private
from secguard.workspace.config import Config

if TYPE_CHECKING:
    from secguard.audit import Index
    from secguard.workspace.workspace import Workspace

__all__ = ["Following", "FollowingState", "following_file", "open_index", "standing_of_index"]

_MAX_SECRET = 4096

FollowingState = Literal["current", "indexing", "waiting", "alarm"]
"""What the process that follows the log does: `waiting` for a part that is away, `alarm`: somebody must look at it."""


class Following(msgspec.Struct, frozen=True):
    """How the index follows the log, as the process that does it writes down.

    Attributes:
        state: what it does.
        at: when this was written.
        current: when the index last had all events; None before that.
        position: events indexed.
        rate: events a second of the last catching up.
        problem: why it waits, or what is the matter.
    """

    state: FollowingState
    at: datetime
    current: datetime | None
    position: int
    rate: float = 0.0
    problem: str = ""


def following_file(state: Path) -> Path:
    """Where a `Following` stands, in a workspace's `state` folder."""
    return state / "index" / "following.json"


def standing_of_index(workspace: "Workspace") -> dict[str, Any]:
    """The index for `secguard status`: how far, how much behind and for how long, and whether it works."""
    size = workspace.ledger.size
    from secguard.audit.index.following import check_origin
    from secguard.audit.index.index import Health

    try:
        index = workspace.index
        health, position, refused = index.health(), index.position, len(index.refused)
        check_origin(index, workspace.ledger)
    except SecguardError as error:  # the rest of the status is worth reading all the same
        return {"index": workspace.config.index.kind, "index health": f"down: {error}"}
    if position > size and health.state == "ok":
        health = Health("degraded", f"it knows more events than the ledger: {position} of {size}")
    try:
        following = msgspec.json.decode(read_bounded(following_file(workspace.state), _MAX_SECRET), type=Following)
    except (UsageError, msgspec.MsgspecError):
        following = None  # nothing follows it, or did once
    facts: dict[str, Any] = {
        "index": workspace.config.index.kind,
        "index position": position,
        "index behind": max(0, size - position),
        "index health": health.state if health.state == "ok" else f"{health.state}: {health.detail}",
    }
    if refused:
        facts["index refused"] = refused
    if following is not None:
        if position < size and following.current is not None:
            facts["index lag seconds"] = max(0, round((workspace.clock.now() - following.current).total_seconds()))
        elif position >= size:
            facts["index lag seconds"] = 0
        facts["index rate"] = f"{following.rate:.0f} events/s"
        if following.problem and position < size:
            facts["index problem"] = following.problem
    return facts


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
