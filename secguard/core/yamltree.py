"""Bounded YAML, for policies and profiles: a small document becomes plain values, and every value knows its line.

Refused, with the line: anchors and aliases (alias bombs), duplicate keys, deep nesting, too many values, tags.
"""

from dataclasses import dataclass
from typing import Any

import yaml

from secguard.core.errors import FormatError

__all__ = ["MAX_BYTES", "Tree", "load"]

MAX_BYTES = 256 << 10
"""Bytes of a document; PyYAML's pure parser reads this much in about two seconds."""
_MAX_DEPTH = 12
_MAX_NODES = 20_000

Path = tuple[str | int, ...]


class Tree:
    """A document: `value` (dicts, lists, scalars) and the line of each path."""

    def __init__(self, value: Any, lines: dict[Path, int]) -> None:
        self.value = value
        self._lines = lines

    def line(self, *path: str | int) -> int:
        """One-based line of a path; of its nearest known parent otherwise."""
        while path not in self._lines and path:
            path = path[:-1]
        return self._lines.get(path, 1)


@dataclass(frozen=True, slots=True)
class _Place:
    code: str
    where: str

    def refuse(self, problem: str, message: str, line: int, hint: str = "") -> FormatError:
        # People write these files: they correct a line, they do not get the file again from elsewhere.
        return FormatError(
            f"{self.code}.{problem}", message, hint=hint or "correct this line", where=f"{self.where}:{line}"
        )


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str, place: _Place) -> None:
        super().__init__(text)
        self._refuse = place.refuse
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._refuse("alias", "anchors and aliases are not allowed", line, "write the value out")
        self._nodes += 1
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._refuse("depth", f"nested deeper than {_MAX_DEPTH} levels", line)
        if self._nodes > _MAX_NODES:
            raise self._refuse("too-many", f"more than {_MAX_NODES} values", line)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def plain(self, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
        line = node.start_mark.line + 1
        lines[path] = line
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = key_node.value
                if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str) or len(key) > 128:
                    raise self._refuse("key", "a key must be a short word", key_node.start_mark.line + 1)
                if key in result:
                    raise self._refuse(
                        "duplicate-key", f"the key {key[:40]!r} stands twice", key_node.start_mark.line + 1
                    )
                result[key] = self.plain(value_node, (*path, key), lines)
                lines[(*path, key)] = key_node.start_mark.line + 1
            return result
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.plain(item, (*path, number), lines) for number, item in enumerate(node.value)]
        if not isinstance(node, yaml.ScalarNode):
            raise self._refuse("tag", f"unexpected tag {node.tag[:60]!r}", line)
        try:
            return self.construct_object(node)
        except (ValueError, OverflowError, yaml.YAMLError):
            raise self._refuse("value", f"not a value: {str(node.value)[:40]!r}", line) from None


def load(data: bytes, where: str, code: str) -> Tree:
    """Parse one YAML document.

    Args:
        data: the file's bytes, UTF-8, at most `MAX_BYTES`.
        where: the file's name, for errors.
        code: what errors are of, for example `isolation.policy`; `.alias`, `.depth`, `.yaml` and so on are added.

    Raises:
        FormatError: not YAML, or beyond a bound; `where` is `file:line`.
    """
    refuse = _Place(code, where).refuse
    if len(data) > MAX_BYTES:
        raise refuse("too-large", f"larger than {MAX_BYTES} bytes", 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse("encoding", "not UTF-8", data.count(b"\n", 0, error.start) + 1) from None
    lines: dict[Path, int] = {}
    loader = None
    try:
        loader = _Loader(text, _Place(code, where))
        node = loader.get_single_node()
        if node is None:
            raise refuse("empty", "the file is empty", 1)
        return Tree(loader.plain(node, (), lines), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context or "not YAML").split())
        raise refuse("yaml", f"not YAML: {problem[:120]}", mark.line + 1 if mark else 1) from None
    except yaml.YAMLError as error:
        raise refuse("yaml", f"not YAML: {' '.join(str(error).split())[:120]}", 1) from None
    finally:
        if loader is not None:
            loader.dispose()
