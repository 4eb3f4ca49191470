"""The frame around every command: start-up time, completion, exit codes, one JSON document, stdout for data only."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from secguard.cli.main import cli


def test_help_starts_fast():
    """0.25 s on a quiet machine; here as a ratio to the interpreter with click, which is the floor."""

    def spent(*args: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *args], check=True, capture_output=True)
        return time.perf_counter() - began

    floor = ("-c", "import click.shell_completion, importlib.resources, dataclasses")
    times = [(spent("-m", "secguard", "--help"), spent(*floor)) for _ in range(8)]  # in turn: others work beside it
    help_, least = map(min, zip(*times, strict=True))
    assert help_ < 2 * least


def fresh(code):
    """Run Python code in a process of its own, which has imported nothing yet."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("heavy", ["scapy", "numpy", "av", "elasticsearch", "rich", "cryptography", "msgspec", "yaml"])
def test_help_imports_nothing_heavy(heavy):
    code = (
        "import sys, secguard.cli.main as m; m.cli.main(['--help'], standalone_mode=False); "
        f"sys.exit('{heavy}' in sys.modules)"
    )
    assert fresh(code).returncode == 0


def test_a_search_on_sqlite_loads_no_client_of_a_search_server():
    code = (
        "import sys; from secguard.audit import Asker, SqliteIndex; "
        "assert not {'ssl', 'secguard.audit.index.elastic', 'secguard.audit.sources.importer'} & set(sys.modules); "
        "import secguard.audit; [getattr(secguard.audit, name) for name in secguard.audit.__all__]"
    )
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_the_logger_is_loaded_by_what_logs_and_speaks_as_asked():
    code = (
        "import sys\nfrom secguard.cli.render import set_logging\nset_logging(0)\n"
        "assert not {'loguru', 'asyncio'} & set(sys.modules)\nfrom loguru import logger\n"
        "logger.info('hidden')\nlogger.warning('heard')\nset_logging(1)\nlogger.info('seen')\nlogger.debug('hidden')\n"
    )
    done = fresh(code)
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING heard\n\d\d:\d\d:\d\d INFO seen\n", done.stderr), done.stderr


def test_every_command_loads_and_has_help():
    import click

    def walk(group: click.Group, path: tuple[str, ...]) -> int:
        count = 0
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            assert command.help, f"{' '.join((*path, name))} says nothing"
            count += walk(command, (*path, name)) if isinstance(command, click.Group) else 1
        return count

    assert walk(cli, ()) > 25


def test_completion(secguard):
    assert "_SECGUARD_COMPLETE" in secguard("completion", "bash").stdout
    environment = {
        **os.environ,
        "_SECGUARD_COMPLETE": "bash_complete",
        "COMP_WORDS": "secguard identity is",
        "COMP_CWORD": "2",
    }
    done = subprocess.run([sys.executable, "-m", "secguard"], env=environment, capture_output=True, text=True)
    del done  # the program's name decides there; the script's use is checked below
    code = "import sys; sys.argv[0] = 'secguard'; from secguard.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "plain,issue" in done.stdout


@pytest.mark.parametrize(
    ("args", "code"),
    [(("nonsense",), 2), (("video", "verify"), 2), (("video", "verify", "--at"), 2), (("--help",), 0), (("init",), 2)],
)
def test_usage_errors_are_2(secguard, args, code):
    done = secguard(*args)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_json_goes_to_stdout_and_talk_to_stderr(secguard, tmp_path):
    done = secguard("init", "ws", "--area", "320116", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert set(document) == {"schema", "outcome", "exit", "axes", "findings", "data", "receipt"}
    assert document["schema"] == "secguard.init/1"
    done = secguard("status", cwd=tmp_path / "ws")
    assert (done.returncode, done.stdout) == (0, "")
    assert "ledger origin" in done.stderr
    assert secguard("-w", tmp_path / "ws", "status", "-q").stderr == ""


def test_a_report_must_have_a_known_ending(secguard, tmp_path):
    secguard("init", "ws", "-q")
    done = secguard("status", "--report", "x.doc", cwd=tmp_path / "ws")
    assert done.returncode == 2
    assert ".html" in done.stderr


def test_an_internal_error_is_2_and_says_so(secguard, tmp_path):
    code = (
        "import secguard.cli.main as m, click\n"
        "def boom(): raise KeyError('x')\n"
        "m.cli.add_command(click.Command('boom', callback=boom))\n"
        "import sys; sys.argv = ['secguard', 'boom']; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "internal error: KeyError" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_is_130(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "secguard", "demo", "--events", "200000", "--dir", tmp_path / "d"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    while not process.stderr.readline().startswith("2."):
        pass
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "interrupted"
    assert time.monotonic() - began < 5  # a second on a quiet machine


@pytest.mark.parametrize(
    ("args", "stream"),
    [(("--help",), "stdout"), (("status", "--json"), "stdout"), (("status",), "stderr"), (("nonsense",), "stderr")],
)
def test_a_reader_that_is_gone_gets_no_verdict_and_no_talk(secguard, tmp_path, args, stream):
    secguard("init", tmp_path / "ws", "-q")
    reader, writer = os.pipe()
    os.close(reader)
    other = "stderr" if stream == "stdout" else "stdout"
    done = subprocess.run(
        [sys.executable, "-m", "secguard", *args], cwd=tmp_path / "ws", **{stream: writer, other: subprocess.PIPE}
    )
    os.close(writer)
    assert done.returncode == (141 if args != ("nonsense",) else 2), "a wrong command is wrong, heard or not"
    assert getattr(done, other) == b""


@pytest.mark.parametrize(
    ("end", "code", "said"), [(">/dev/full", 2, "error: "), ("2>/dev/full", 2, ""), (">&-", 0, "")]
)
def test_an_answer_that_cannot_be_written_is_no_verdict(secguard, tmp_path, end, code, said):
    secguard("init", tmp_path / "ws", "-q")
    option = "" if end.startswith("2") else "--json"
    line = f"{sys.executable} -m secguard status {option} {end}"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path / "ws", capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


def test_an_interrupt_while_a_class_is_made_is_130_too(tmp_path):
    (tmp_path / "boom.py").write_text(
        "import sys, click, secguard.cli.main as m\n"
        "def boom(): exec('raise KeyboardInterrupt')\n"
        "m.cli.add_command(click.Command('boom', callback=boom))\n"
        "sys.argv = ['secguard', 'boom']; m.main()"
    )
    done = subprocess.run([sys.executable, "-m", "boom"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.split()) == (130, ["interrupted"])
