"""The entry point: lazily loaded groups, and the one wrapper that turns every error into an exit code."""

import contextlib
import errno
import os
import select
import sys

import click

from secguard import __version__
from secguard.cli.lazy import LazyGroup
from secguard.core.errors import SecguardError
from secguard.core.interrupts import watch_interrupts

__all__ = ["cli", "main"]

_UNREAD = 141

# name -> (module, attribute, one-line help): `secguard --help` imports none of them.
_ROOT = {
    "init": ("secguard.cli.site", "init", "Make a workspace folder."),
    "status": ("secguard.cli.site", "status", "Show what the workspace holds and how healthy it is."),
    "serve": ("secguard.cli.site", "serve", "Sequence, index and publish for all local writers."),
    "doctor": ("secguard.cli.site", "doctor", "Check the machine and say what is missing."),
    "completion": ("secguard.cli.site", "completion", "Print the shell's completion script."),
    "demo": ("secguard.cli.demo", "demo", "Run the main job end to end in a fresh workspace."),
    "verify": ("secguard.cli.verify", "verify", "Verify a bundle, a scan, a recording or a certificate."),
    "identity": ("secguard.cli.identity", "identity", "Device certificates: issue, verify, revoke."),
    "video": ("secguard.cli.video", "video", "Sign and verify video."),
    "isolation": ("secguard.cli.isolation", "isolation", "Prove with packets that zones are separated."),
    "audit": ("secguard.cli.audit", "audit", "Collect, search and reconcile access events."),
    "ledger": ("secguard.cli.ledger", "ledger", "The tamper-evident log under everything."),
    "evidence": ("secguard.cli.evidence", "evidence", "Export and verify evidence bundles."),
}


@click.group(cls=LazyGroup, table=_ROOT, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="secguard")
@click.option(
    "-w", "--workspace", metavar="DIRECTORY", help="The workspace folder; every command that needs one takes it, too."
)
def cli(workspace: str | None) -> None:
    """Security and audit enforcement for public-safety video networks.

    Exit codes: 0 pass, 1 a violation was found, 2 usage or environment error, 3 inconclusive, 130 interrupted.
    """
    if workspace is not None:
        os.environ["SECGUARD_WORKSPACE"] = workspace


def _typed() -> list[str]:
    """Names of the command that was typed, as far as it exists."""
    names: list[str] = []
    command: click.Command = cli
    for word in sys.argv[1:]:
        if not isinstance(command, click.Group):
            break
        found = None if word.startswith("-") else command.get_command(click.Context(command), word)
        if found is not None:
            names.append(word)
            command = found
    return names


def _fail(error: SecguardError) -> int:
    with contextlib.suppress(OSError):  # a full disk, or nobody there: the exit code still says it
        if any(word in sys.argv for word in ("--json", "--jsonl")):
            from secguard.cli.frame import error_document
            from secguard.cli.render import write_json

            write_json(error_document(f"secguard.{'.'.join(_typed()) or 'error'}/1", error, 2))
    text = f"error: {error}"
    if error.hint:
        text += f" ({error.hint})"
    _tell(text.replace("\n", " "))
    return 2


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def main() -> None:
    """Run the command line and exit; a crash is 2, never click's 1, which would read as a violation.

    Whose answer nobody reads any more (`| head`) ends without a word, with 141, as by SIGPIPE: it has no verdict.
    """
    for number in (0, 1, 2):
        _occupy(number)
    watch_interrupts()
    code = _run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # what is still buffered must not be tried again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = _UNREAD if _unread() else code or 2
    sys.exit(code)


def _occupy(number: int) -> None:
    """Have something stand where a standard stream was closed: the next file would take its place, and its output."""
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)
        name = ("stdin", "stdout", "stderr")[number]
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115 - stays open


def _unread() -> bool:
    """Whether whoever read stdout or stderr is gone."""
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _run() -> int:
    streams = sys.stdout, sys.stderr
    try:
        code = cli.main(standalone_mode=False)
    except SystemExit as ended:
        # click covers the streams and makes a 1 of a broken pipe, rich raises one; 1 is a violation's.
        if sys.stdout is not streams[0] or isinstance(ended.__context__, BrokenPipeError):
            sys.stdout, sys.stderr = streams
            return _broken(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        return ended.code if isinstance(ended.code, int) else 2 if ended.code else 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        # If it came while a class was being made (by exec), CPython would end by the signal: this forgets it.
        exec("")  # noqa: S102
        _tell("interrupted")
        return 130
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        usage = isinstance(error, click.UsageError) and error.ctx is not None
        hint = f"see: {error.ctx.command_path} --help" if usage and error.ctx else ""  # type: ignore[attr-defined]
        return _fail(SecguardError("cli.usage", error.format_message(), hint=hint))
    except SecguardError as error:
        if os.environ.get("SECGUARD_TRACEBACK"):
            raise
        return _fail(error)
    except OSError as error:
        return _broken(error)
    except MemoryError:
        return _fail(SecguardError("cli.memory", "out of memory"))
    except Exception as error:  # noqa: BLE001 - the last line of defence; SECGUARD_TRACEBACK shows the stack
        if os.environ.get("SECGUARD_TRACEBACK"):
            import traceback

            traceback.print_exc()
            return 2
        return _fail(
            SecguardError(
                "cli.internal",
                f"internal error: {type(error).__name__}: {error}",
                hint="this is a bug; SECGUARD_TRACEBACK=1 shows where",
            )
        )
    return code if isinstance(code, int) else 0


def _broken(error: OSError) -> int:
    if isinstance(error, BrokenPipeError) and _unread():
        return _UNREAD
    from secguard.core.files import translate_os_error

    return _fail(translate_os_error(error, error.filename or ""))
