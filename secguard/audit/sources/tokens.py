"""Tokens with which platforms hand in events over HTTP; only their SHA-256 is kept."""

import hashlib
import os
import re
import secrets
from pathlib import Path

import msgspec

from secguard.core import Clock, FormatError, RefusedError, UsageError
from secguard.core.clock import rfc3339
from secguard.core.files import atomic_write
from secguard.core.limits import read_bounded
from secguard.events import Actor, Event, Recorder, new_event_id

__all__ = ["Token", "Tokens"]

_NAME = re.compile(r"[A-Za-z0-9\u4e00-\u9fff][A-Za-z0-9._\u4e00-\u9fff-]{0,63}")


class Token(msgspec.Struct, frozen=True):
    """A token that is allowed: its name, the source it is for, its SHA-256 in hex, when it was made."""

    name: str
    source: str
    sha256: str
    created: str


class Tokens:
    """The tokens of a site, in one file of mode 0600.

    Args:
        path: the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._tokens: list[Token] = []

    def all(self) -> list[Token]:
        """All of them.

        Raises:
            FormatError: the file is damaged.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._seen, self._tokens = None, []
            return []
        seen = (status.st_mtime_ns, status.st_ino)
        if seen != self._seen:
            try:
                self._tokens = msgspec.json.decode(read_bounded(self._path), type=list[Token])
            except msgspec.MsgspecError as error:
                raise FormatError("audit.token.file", f"damaged: {error}", where=str(self._path)) from error
            self._seen = seen
        return self._tokens

    def holder(self, token: str, source: str) -> str | None:
        """The name of a token for this source; None if it is not allowed."""
        digest = hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
        return next((item.name for item in self.all() if item.sha256 == digest and item.source == source), None)

    def allow(self, name: str, source: str, out: Path, *, recorder: Recorder, clock: Clock, actor: Actor) -> Token:
        """Make a token; it is written to a file of mode 0600, and nowhere else.

        Args:
            name: of the platform that gets it; part of the event IDs that are made for it.
            source: the HTTP source that it opens.
            out: a new file for the token.
            recorder: records the act before the token counts.
            clock: time of the act.
            actor: who allows it.

        Raises:
            UsageError: the name cannot be one.
            RefusedError: there is a token of this name, or the file is there already.
        """
        if not _NAME.fullmatch(name):
            raise UsageError("audit.token.name", f"{name[:40]!r} cannot name a token", hint="letters, digits, . _ -")
        if any(item.name == name for item in self.all()):
            raise RefusedError("audit.token.exists", f"there is a token {name!r}", hint="withdraw it first")
        if os.path.lexists(out):
            raise RefusedError("audit.token.out", "the file is there already", hint="name a new file", where=str(out))
        secret = f"sgt_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(secret.encode()).hexdigest()
        token = Token(name, source, digest, rfc3339(clock.now()))
        atomic_write(out, secret.encode() + b"\n", mode=0o600)
        try:
            self._record("source.allowed", token, recorder, clock, actor)
            self._write([*self.all(), token])
        except BaseException:
            out.unlink(missing_ok=True)
            raise
        return token

    def withdraw(self, name: str, *, recorder: Recorder, clock: Clock, actor: Actor) -> Token:
        """Let a token count no more, from the next request on.

        Raises:
            UsageError: there is none of this name.
        """
        token = next((item for item in self.all() if item.name == name), None)
        if token is None:
            raise UsageError("audit.token.none", f"no token {name[:64]!r}", hint="list them: secguard audit token list")
        self._record("source.withdrawn", token, recorder, clock, actor)
        self._write([item for item in self.all() if item.name != name])
        return token

    @staticmethod
    def _record(kind: str, token: Token, recorder: Recorder, clock: Clock, actor: Actor) -> None:
        data = {"holder": token.name, "digest": token.sha256}
        recorder.record(
            [Event(id=new_event_id(), kind=kind, time=clock.now(), actor=actor, subject=token.source, data=data)]
        )

    def _write(self, tokens: list[Token]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(self._path, msgspec.json.encode(tokens) + b"\n", mode=0o600)
        self._seen = None
