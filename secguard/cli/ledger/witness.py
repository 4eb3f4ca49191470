"""`secguard ledger witness`: be a witness of others' logs, and ask those of this one."""

from pathlib import Path

import click

from secguard.cli.frame import Context, Result, command
from secguard.cli.ledger.common import FILE
from secguard.cli.ledger.publish import cosigned_result

__all__ = ["witness"]

_FOLDER = click.Path(path_type=Path, file_okay=False)
_passphrase = click.option("--passphrase-file", type=FILE, help="Opens the witness's key (mode 0600).")


@click.group()
def witness() -> None:
    """Be a witness of logs (C2SP tlog-witness), or ask those of this one.

    A witness runs on another machine, best at another organisation: DIR is its own folder, no workspace is needed.
    """


@command("ledger.witness.init", "init")
@click.argument("directory", type=_FOLDER, metavar="DIR")
@click.option("--name", required=True, help="The witness's name, like a URL without its scheme: witness.example/w1")
@click.option(
    "--key", default="", metavar="REFERENCE", help="A key that is there: file:PATH or pkcs11:. [default: new]"
)
@_passphrase
@click.option("--clear", is_flag=True, help="Leave the new key unencrypted (mode 0600).")
def init_(ctx: Context, *, directory: Path, name: str, key: str, passphrase_file: Path | None, clear: bool) -> Result:
    """Make a witness: its key, witness.toml, and a request for the certificate by which a site's root names it."""
    from secguard.core.files import atomic_write
    from secguard.keys import find_passphrase
    from secguard.ledger.witness import WitnessHome

    passphrase = None if clear else find_passphrase(passphrase_file)
    home = WitnessHome.create(directory, name, passphrase, key)
    request = directory / "witness.csr"
    vkey = home.verifier(passphrase).vkey()
    lines = [ctx.say(f"key: {vkey}", f"公钥：{vkey}")]
    if not key.startswith("pkcs11:"):
        atomic_write(request, home.request(passphrase))
        command = f"secguard identity issue {name} --profile witness --csr {request}"
        lines.append(ctx.say(f"to be certified: {command}", f"申请证书：{command}"))
    return Result(data={"directory": directory, "name": name, "key": vkey}, lines=lines)


@command("ledger.witness.add-log", "add-log")
@click.argument("directory", type=_FOLDER, metavar="DIR")
@click.argument("vkey")
def add_log_(ctx: Context, *, directory: Path, vkey: str) -> Result:
    """Let the witness know a log by its verifier key (printed by `secguard ledger key`); restart a running one."""
    from secguard.ledger import NoteKey
    from secguard.ledger.witness import WitnessHome

    home = WitnessHome.open(directory)
    new = home.add_log(NoteKey.parse(vkey))
    data = {"directory": directory, "added": new, "logs": [key.name for key in home.logs]}
    count = len(home.logs)
    line = ctx.say(
        f"{directory}: {count} logs; {'a witness that runs must be restarted' if new else 'it knew this key'}",
        f"{directory}：共登记 {count} 个日志；{'正在运行的见证服务须重启' if new else '该密钥此前已登记'}",
    )
    return Result(data=data, lines=[line])


@command("ledger.witness.serve", "serve")
@click.argument("directory", type=_FOLDER, metavar="DIR")
@click.option("--listen", default="127.0.0.1:8490", show_default=True, metavar="HOST:PORT", help="Port 0: a free one.")
@click.option("--certificate", type=FILE, help="Serve https with this chain (PEM, leaf first); else http.")
@click.option("--certificate-key", type=FILE, help="Its key, PEM, unencrypted (mode 0600).")
@_passphrase
def serve_(
    ctx: Context,
    *,
    directory: Path,
    listen: str,
    certificate: Path | None,
    certificate_key: Path | None,
    passphrase_file: Path | None,
) -> Result:
    """Answer logs and monitors over HTTP until SIGTERM or SIGINT.

    Every answer is signed, and so is what is asked; https keeps others from reading along.
    """
    import signal
    import threading

    from secguard.keys import find_passphrase
    from secguard.service.witness import serve_witness

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def announce(url: str) -> None:
        if not ctx.quiet:
            click.echo(ctx.say(f"witness: {url}", f"见证方：{url}"), err=True)

    serve_witness(
        directory,
        listen,
        stop,
        passphrase=find_passphrase(passphrase_file),
        tls=(certificate, certificate_key) if certificate is not None and certificate_key is not None else None,
        announce=announce,
    )
    return Result(lines=[ctx.say("stopped", "已停止")])


@command("ledger.witness.ask", "ask")
def ask_(ctx: Context) -> Result:
    """Have the configured witnesses cosign the last checkpoint, and keep their cosignatures with it.

    Exit code 1: a witness remembers another history, or a longer one; 3: fewer cosigned than the quorum asks for.
    """
    from secguard.core.errors import UsageError

    with ctx.workspace() as ws:
        if not ws.config.ledger.witnesses:
            raise UsageError("ledger.witness.unconfigured", "no witness is configured", hint="[[ledger.witnesses]]")
        asked = ws.ask_witnesses()
    given, all_ = len(asked.cosignatures), len(ws.config.ledger.witnesses)
    line = ctx.say(f"{given} of {all_} witnesses have cosigned", f"{all_} 个见证方中已有 {given} 个联署")
    return cosigned_result(ctx, asked, {"note": asked.note.decode()}, line)


for _command in (init_, add_log_, serve_, ask_):
    witness.add_command(_command)
