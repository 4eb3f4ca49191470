"""`secguard verify PATH`: any artefact, recognised by its content, is handed to the command that verifies its kind."""

from pathlib import Path

import click

from secguard.core.errors import UsageError

__all__ = ["kind_of", "verify"]

_HEAD = 4096
_FLAGS = frozenset({"--json", "--jsonl", "--quiet", "-q", "--verbose", "-v", "-vv", "--"})
"""Options without a value; the word after any other belongs to it."""
_BOXES = (b"ftyp", b"styp", b"moov", b"moof")


def kind_of(path: Path) -> tuple[str, ...]:
    """The command that verifies what lies there, for example `("evidence", "verify")`.

    Raises:
        UsageError: nothing is there, or nothing that is known.
    """
    if path.is_dir():
        from secguard.isolation.evidence.folder import is_run

        if is_run(path):
            return ("isolation", "verify")
        raise _unknown(path, "a folder, but not that of a scan")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UsageError("cli.verify.unreadable", f"cannot read: {error.strerror}", where=str(path)) from None
    if head.startswith(b"PK\x03\x04"):
        return ("evidence", "verify")
    if b"-----BEGIN CERTIFICATE-----" in head:
        return ("identity", "verify")
    # ISO/IEC 14496-12: a size, then the type of the first box; Annex B streams begin with a start code.
    if head[4:8] in _BOXES or head.startswith((b"\0\0\0\1", b"\0\0\1")):
        return ("video", "verify")
    raise _unknown(path, "no bundle, scan, recording or certificate")


def _unknown(path: Path, what: str) -> UsageError:
    hint = "secguard evidence | isolation | video | identity verify --help"
    return UsageError("cli.verify.unknown", f"cannot tell what this is: {what}", hint=hint, where=str(path))


def _path(words: tuple[str, ...]) -> Path | None:
    taken = False
    for word in words:
        if taken:
            taken = False
        elif not word.startswith("-"):
            return Path(word)
        else:
            taken = word not in _FLAGS and "=" not in word
    return None


@click.command("verify", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="PATH [OPTIONS]...")
@click.pass_context
def verify(context: click.Context, words: tuple[str, ...]) -> None:
    """Verify a bundle, a scan's folder, a recording or a certificate, whichever PATH is.

    Options are those of the command that verifies its kind: `evidence verify`, `isolation verify`, `video verify`,
    `identity verify`. All of them take --root, --at and --json.
    """
    path = _path(words)
    if path is None or {"-h", "--help"} & set(words):
        click.echo(context.get_help())
        context.exit(0 if words else 2)
    from secguard.cli.main import cli

    cli.main([*kind_of(path), *words], standalone_mode=False)
