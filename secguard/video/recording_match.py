"""Find the segments of a recording among the files: which are there, under which name, and which are not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from secguard.video.recording_chain import Segment
from secguard.video.recording_files import natural_key

__all__ = ["FileFacts", "Matched", "match_files"]

FileFacts = tuple[int, str]
"""Size of a file, and its SHA-256 in hex."""


@dataclass(slots=True)
class Matched:
    """Segments and files.

    Attributes:
        found: number of a segment -> name of the file that holds it.
        changed: numbers of segments under whose name there is another content.
        missing: numbers of segments that are nowhere.
        reordered: numbers of segments that stand under the name of another one, or out of order.
        renamed: numbers of segments that stand under another name, in order.
        repeated: names of files that hold a segment again -> its number.
        unlisted: names of files that hold none.
    """

    found: dict[int, str] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    reordered: list[int] = field(default_factory=list)
    renamed: list[int] = field(default_factory=list)
    repeated: dict[str, int] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)


def match_files(segments: Sequence[Segment], facts: Mapping[str, FileFacts]) -> Matched:
    """Match segments with files by content, then by name.

    Args:
        segments: as sealed, in order.
        facts: name of each file -> size and hash.
    """
    result = Matched()
    by_number = {item.number: item for item in segments}
    names = {item.name: item.number for item in segments}
    holders: dict[FileFacts, list[str]] = {}
    for name in sorted(facts, key=natural_key):
        holders.setdefault(facts[name], []).append(name)
    own = {item.name for item in segments if facts.get(item.name) == (item.size, item.sha256)}
    used = set(own)
    for item in segments:
        if item.name in own:
            result.found[item.number] = item.name
            continue
        free = [name for name in holders.get((item.size, item.sha256), ()) if name not in used]
        if free:
            used.add(free[0])
            result.found[item.number] = free[0]
            (result.reordered if free[0] in names else result.renamed).append(item.number)
        else:
            (result.changed if item.name in facts else result.missing).append(item.number)
    _judge_names(result, by_number)
    for name in sorted(facts, key=natural_key):
        if name in used:
            continue
        copies = [item.number for item in segments if (item.size, item.sha256) == facts[name]]
        if copies:
            result.repeated[name] = copies[0]
        elif name not in names:
            result.unlisted.append(name)
    for name in [name for name in result.repeated if name in names]:
        # The name of one segment holds another one that is in its own place as well: this one is gone.
        number = names[name]
        if number in result.changed:
            result.changed.remove(number)
            result.missing.append(number)
    return result


def _judge_names(result: Matched, segments: Mapping[int, Segment]) -> None:
    """New names that sort otherwise than the old ones change the order of playing."""
    if not result.renamed:
        return
    numbers = list(result.found)
    before = sorted(numbers, key=lambda number: natural_key(segments[number].name))
    after = sorted(numbers, key=lambda number: natural_key(result.found[number]))
    if before != after:
        result.reordered += result.renamed
        result.renamed.clear()
