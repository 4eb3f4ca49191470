"""The units of docs/systemd: systemd accepts them, and every command in them is one that secguard has."""

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from secguard.cli.main import cli

UNITS = Path(__file__).parents[3] / "docs" / "systemd"
PROGRAM = "/opt/secguard/bin/secguard"
FILES = sorted(path.name for path in UNITS.iterdir() if path.suffix in {".service", ".timer"})


def read(name: str) -> configparser.RawConfigParser:
    class Lists(dict):
        """A key that stands twice keeps both values, as systemd does."""

        def __setitem__(self, key, value):
            if isinstance(value, list) and key in self:
                value = self[key] + value
            super().__setitem__(key, value)

    parser = configparser.RawConfigParser(strict=False, dict_type=Lists, interpolation=None)
    parser.optionxform = str
    parser.read(UNITS / name)
    return parser


def commands(name: str) -> list[list[str]]:
    lines = [line.removeprefix("ExecStart=") for line in (UNITS / name).read_text().splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(PROGRAM)]


SECGUARD = [(name, words) for name in FILES if name.endswith(".service") for words in commands(name)]


def test_the_units_are_there():
    assert {"secguard.service", "secguard-crl.timer", "secguard-renew.timer", "secguard-probe.timer"} <= set(FILES)
    assert len(SECGUARD) >= 5
    for name in FILES:
        if name.endswith(".timer"):
            assert name.replace(".timer", ".service") in FILES


@pytest.mark.parametrize(
    ("name", "words"), SECGUARD, ids=lambda item: item if isinstance(item, str) else " ".join(item)
)
def test_the_command_line_takes_every_word(name, words, monkeypatch):
    """Parsed by the command line itself; options that do not exist and values out of range are refused here."""
    command: click.Command = cli
    context = click.Context(cli, info_name="secguard", **cli.context_settings)
    while isinstance(command, click.Group):
        child = command.get_command(context, words[0])
        assert child is not None, f"{name}: no command {words[0]}"
        command, words = child, words[1:]
    made = command.make_context(command.name, list(words), parent=context)
    if "isolation-agent" in name:  # on a machine of its own, without a workspace
        return
    place = made.params["directory"] if "witness" in name else made.params["workspace_option"]
    assert str(place) == ("/var/lib/secguard-witness" if "witness" in name else "/var/lib/secguard")


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".service") and commands(name)])
def test_hardened(name):
    service = read(name)["Service"]
    for key, value in {
        "User": "secguard",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "NoNewPrivileges": "yes",
        "UMask": "0077",
        "LoadCredentialEncrypted": "secguard-passphrase:/etc/credstore.encrypted/secguard-passphrase",
    }.items():
        assert service[key].splitlines()[-1] == value
    assert "var/lib/secguard" in service["Environment"]
    assert read(name)["Unit"]["OnFailure"] == "secguard-failed@%n.service"
    assert "passphrase-file" not in (UNITS / name).read_text()


def test_a_timer_makes_up_for_missed_runs_and_spreads():
    for name in FILES:
        if name.endswith(".timer"):
            timer = read(name)["Timer"]
            assert timer["Persistent"] == "true"
            assert timer["RandomizedDelaySec"]


def test_systemd_accepts_them(tmp_path):
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    program = tmp_path / "secguard"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m secguard "$@"\n')
    program.chmod(0o755)
    for name in FILES:
        (tmp_path / name).write_text((UNITS / name).read_text().replace(PROGRAM, str(program)))
    done = subprocess.run(
        [tool, "verify", *(tmp_path / name for name in FILES if "@" not in name)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    ours = [line for line in done.stderr.splitlines() if "secguard" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_commands_of_the_timers_run(secguard, tmp_path):
    """What the timers start, over a real workspace, with the passphrase where systemd puts it."""
    site, credentials = tmp_path / "site", tmp_path / "credentials"
    assert secguard("init", site, "--area", "320116").returncode == 0
    assert secguard("identity", "ca", "init", "--yes", "-w", site).returncode == 0
    credentials.mkdir()
    shutil.move(site / "state" / "passphrase", credentials / "secguard-passphrase")
    (credentials / "secguard-passphrase").chmod(0o440)
    environment = {
        **os.environ,
        "CREDENTIALS_DIRECTORY": str(credentials),
        "XDG_STATE_HOME": str(tmp_path / "xdg-state"),
    }
    ran = 0
    for name, words in SECGUARD:
        if name in {"secguard-crl.service", "secguard-renew.service"}:
            done = secguard(*(str(site) if word == "/var/lib/secguard" else word for word in words), env=environment)
            assert (done.returncode, done.stderr) == (0, ""), words
            ran += 1
    assert ran == 3


def test_the_isolation_agent_has_one_capability():
    service = read("secguard-isolation-agent.service")["Service"]
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_RAW"
    assert {"AF_PACKET", "AF_NETLINK"} <= set(service["RestrictAddressFamilies"].split())
    assert read("secguard-isolation.service")["Service"]["CapabilityBoundingSet"] == ""
