"""Write docs/cli.md, docs/findings.md and docs/schemas from the code itself, so that none of them can drift.

Run `python -m secguard.cli.reference` at the top of the repository; `--check` only compares and exits 1 when stale.
"""

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import click

from secguard.core.files import atomic_write
from secguard.core.findings import catalogue

__all__ = ["cli_reference", "documents", "findings_reference", "main"]

_WIDTH = 100
_MADE = "<!-- Written by `python -m secguard.cli.reference`; do not edit. -->\n"


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _commands(child, f"{path} {name}")


def _help(root: click.Command, command: click.Command, path: str) -> str:
    # What a command takes from secguard itself: the names of its help option, which click keeps once it has made it.
    settings = {**root.context_settings, **command.context_settings}
    context = click.Context(command, info_name=path, terminal_width=_WIDTH, max_content_width=_WIDTH, **settings)
    return command.get_help(context)


def cli_reference(root: click.Command) -> str:
    """The help of `root` (secguard itself) and of every command below it, as Markdown."""
    parts = [_MADE, "# Command reference\n"]
    for path, command in _commands(root, "secguard"):
        mark = "#" * min(2 + path.count(" ") // 2, 3)
        parts.append(f"{mark} `{path}`\n\n```text\n{_help(root, command, path).rstrip()}\n```\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def findings_reference() -> str:
    """Every finding of the catalogue with its axis, outcome, texts and hints in both languages, as Markdown."""
    parts = [
        _MADE,
        "# Findings\n",
        "A code is never reused. Words in braces are filled in from the finding's data.",
        "代码永不复用；花括号中的词由具体数据填入。\n",
    ]
    for room, entries in groupby(catalogue().items(), key=lambda item: item[0].partition(".")[0]):
        parts.append(f"## {room}\n\n| Code | Axis | Outcome | Text | What to do |\n| --- | --- | --- | --- | --- |")
        for code, entry in entries:
            text = f"{_cell(entry.en)}<br>{_cell(entry.zh)}"
            hint = f"{_cell(entry.hint_en)}<br>{_cell(entry.hint_zh)}" if entry.hint_en or entry.hint_zh else ""
            parts.append(f"| `{code}` | {entry.axis} | {entry.outcome} | {text} | {hint} |")
        parts.append("")
    return "\n".join(parts)


def documents() -> dict[str, str]:
    """File name under docs/ -> its text."""
    import json

    from secguard.cli.documents import schemas
    from secguard.cli.main import cli

    written = {
        f"schemas/{name}": json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas().items()
    }
    return {"cli.md": cli_reference(cli), "findings.md": findings_reference(), **written}


def main(arguments: list[str]) -> int:
    """Write the files into `docs` (or the folder named); `--check` writes nothing and returns 1 when one is stale."""
    check = "--check" in arguments
    names = [argument for argument in arguments if argument != "--check"]
    folder = Path(names[0] if names else "docs")
    stale = []
    for name, text in documents().items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, text.encode())
    if stale:
        sys.stderr.write(f"{'stale' if check else 'written'}: {', '.join(stale)}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
