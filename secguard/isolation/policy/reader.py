"""Reads a YAML tree into types and collects what is wrong, each problem with its line, not only the first."""

import contextlib
import ipaddress
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from secguard.core.errors import FormatError
from secguard.core.yamltree import Tree

__all__ = ["Network", "Reader"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HINT = "correct this line; docs/isolation.md shows a whole policy"
_MAX_PROBLEMS = 100
_T = TypeVar("_T")
Path = tuple[str | int, ...]


class Reader:
    """One document.

    Attributes:
        tree: its values and their lines.
        problems: what was found wrong so far.
    """

    def __init__(self, tree: Tree, where: str) -> None:
        self.tree = tree
        self.problems: list[FormatError] = []
        self._where = where

    def error(self, code: str, message: str, *path: str | int, hint: str = "") -> FormatError:
        """The error of a value: `isolation.policy.<code>`, placed at its line."""
        return FormatError(
            f"isolation.policy.{code}", message, hint=hint or _HINT, where=f"{self._where}:{self.tree.line(*path)}"
        )

    def add(self, code: str, message: str, *path: str | int, hint: str = "") -> None:
        """Note a problem and go on; the first hundred are kept."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(self.error(code, message, *path, hint=hint))

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Notes an error that is raised inside, and goes on after the block."""
        try:
            yield
        except FormatError as error:
            if len(self.problems) < _MAX_PROBLEMS:
                self.problems.append(error)

    def read(self, value: Any, kind: type[_T], *path: str | int) -> _T | None:
        """A value as a type; None when it does not fit, and everything that is wrong in it is noted."""
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            before = len(self.problems)
            self._explain(value, kind, path)
            if len(self.problems) == before:
                self.add("field", f"{_name(path)}{error}"[:200], *path)
            return None

    def network(self, text: str, *path: str | int) -> Network | None:
        """An address block; None, and noted, if it is none."""
        try:
            return ipaddress.ip_network(text)
        except ValueError as error:
            self.add("address", str(error)[:120], *path, hint="write 10.1.0.0/24 or fd00:1::/64")
            return None

    def _explain(self, value: Any, kind: Any, path: Path) -> None:
        """Note what is wrong in a value that does not fit, part by part."""
        bare = _bare(kind)
        try:
            msgspec.convert(value, kind)
            return
        except msgspec.ValidationError as error:
            text = str(error).partition(" - at `")[0][:160]
        before = len(self.problems)
        if isinstance(value, dict) and isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            self._explain_struct(value, bare, path)
        elif isinstance(value, list) and get_origin(bare) is tuple:
            for number, item in enumerate(value):
                self._explain(item, get_args(bare)[0], (*path, number))
        if len(self.problems) == before:
            self.add("field", f"{_name(path)}{text}", *path)

    def _explain_struct(self, value: dict[str, Any], kind: type[msgspec.Struct], path: Path) -> None:
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        for key in value:
            if key not in fields:
                # A name with a default stands elsewhere: before the colon.
                known = sorted(name for name, item in fields.items() if name != "name" or item.required)
                hint = f"keys: {', '.join(known)}"
                self.add("field", f"{_name(path)}unknown key {key[:40]!r}", *path, key, hint=hint)
        for name, field in fields.items():
            if name in value:
                self._explain(value[name], field.type, (*path, name))
            elif field.required:
                self.add("field", f"{_name(path)}{name} is missing", *path)


def _bare(kind: Any) -> Any:
    """A type without its bounds, and without `None` beside it."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif get_origin(kind) in {Union, UnionType} and type(None) in get_args(kind):
            rest = [item for item in get_args(kind) if item is not type(None)]
            if len(rest) != 1:
                return kind
            kind = rest[0]
        else:
            return kind


def _name(path: Path) -> str:
    return ".".join(map(str, path)) + ": " if path else ""
