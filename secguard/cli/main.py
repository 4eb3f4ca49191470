"""The entry point: lazily loaded groups, and the one wrapper that turns every error into an exit code."""

import os
import sys

import click

from secguard import __version__
from secguard.cli.lazy import LazyGroup
from secguard.core.errors import SecguardError

__all__ = ["cli", "main"]

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
    if any(word in sys.argv for word in ("--json", "--jsonl")):
        from secguard.cli.frame import error_document
        from secguard.cli.render import write_json

        write_json(error_document(f"secguard.{'.'.join(_typed()) or 'error'}/1", error, 2))
    text = f"error: {error}"
    if error.hint:
        text += f" ({error.hint})"
    click.echo(text.replace("\n", " "), err=True)
    return 2


def main() -> None:
    """Run the command line and exit; a crash is 2, never click's 1, which would read as a violation."""
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        usage = isinstance(error, click.UsageError) and error.ctx is not None
        hint = f"see: {error.ctx.command_path} --help" if usage and error.ctx else ""  # type: ignore[attr-defined]
        sys.exit(_fail(SecguardError("cli.usage", error.format_message(), hint=hint)))
    except SecguardError as error:
        if os.environ.get("SECGUARD_TRACEBACK"):
            raise
        sys.exit(_fail(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except OSError as error:
        from secguard.core.files import translate_os_error

        sys.exit(_fail(translate_os_error(error, error.filename or "")))
    except MemoryError:
        sys.exit(_fail(SecguardError("cli.memory", "out of memory")))
    except Exception as error:  # noqa: BLE001 - the last line of defence; SECGUARD_TRACEBACK shows the stack
        if os.environ.get("SECGUARD_TRACEBACK"):
            import traceback

            traceback.print_exc()
            sys.exit(2)
        sys.exit(
            _fail(
                SecguardError(
                    "cli.internal",
                    f"internal error: {type(error).__name__}: {error}",
                    hint="this is a bug; SECGUARD_TRACEBACK=1 shows where",
                )
            )
        )
