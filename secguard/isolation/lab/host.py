"""The lab's own process: it holds the namespaces, wires them, starts the agents, and takes all with it when it ends.

Standard input: one line of JSON with the request, then `go` once the run is recorded. Standard output: lines of JSON
(`progress`, `planned`, `done`, `error`). Driven by `secguard.isolation.lab.lab`.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from secguard.core.clock import SystemClock
from secguard.core.errors import FormatError, SecguardError, SystemPartError
from secguard.isolation.agent.keys import spki
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.runs.collect import collect
from secguard.isolation.runs.process import environment, python
from secguard.isolation.runs.runner import Action
from secguard.isolation.wire.namespaces import Namespaces, die_with_parent, isolate
from secguard.isolation.wire.wire import tool
from secguard.keys import Algorithm, generate

__all__ = ["Request", "main"]

ZONES = {"int": 1, "ext": 2, "dmz": 3}
_ACTION_SECONDS = 20


class Request(msgspec.Struct):
    """What the lab is to do: firewall rules (nft), policy (YAML), and actions that break things on purpose.

    `relays` puts the leaky lab's relays on the firewall and has it obey source routes.
    """

    rules: str
    policy: str
    actions: tuple[Action, ...] = ()
    relays: bool = False
    rules_name: str = "rules"
    profiles: tuple[str, ...] = ()


def _say(**values: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(values) + b"\n")
    sys.stdout.buffer.flush()


def _feed(command: list[str], text: str) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise SystemPartError(
            "isolation.lab.setup", f"{Path(command[0]).name} failed: {lines[0][:200] if lines else done.returncode}"
        )


def _ip(*lines: str) -> None:
    _feed([tool("ip", "iproute2"), "-batch", "-"], "\n".join(lines) + "\n")


def _set(key: str, value: int) -> None:
    with contextlib.suppress(OSError):  # an older kernel lacks the key; its default will do
        Path("/proc/sys/net", key).write_text(str(value), encoding="ascii")


def _load(rules: str, name: str) -> None:
    """Give the firewall its rules; what nft refuses is an error at its line."""
    done = subprocess.run(
        [tool("nft", "nftables"), "-f", "-"], input=rules, capture_output=True, text=True, timeout=30, check=False
    )
    if not done.returncode:
        return
    found = re.search(r"^/dev/stdin:(\d+):\d+-\d+: (?:Error: )?(.*)$", done.stderr, re.MULTILINE)
    line, reason = found.groups() if found else ("1", (done.stderr.strip().splitlines() or ["no reason given"])[0])
    raise FormatError(
        "isolation.lab.rules",
        f"nft refuses the rules: {reason[:200]}",
        hint="nft -c -f FILE checks them; the interfaces are int, ext and dmz",
        where=f"{name}:{line}",
    )


def _relays(spaces: Namespaces) -> "subprocess.Popen[bytes]":
    """Start the relays on the firewall, and have it obey source routes; they end with this process."""
    spaces.enter("fw")
    for name in ("all", *ZONES):
        _set(f"ipv4/conf/{name}/accept_source_route", 1)
    process = subprocess.Popen(
        python("secguard.isolation.lab.relays"), env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise SystemPartError("isolation.lab.setup", "the relays of the lab did not start")
    return process


def _build(spaces: Namespaces, rules: str, name: str) -> None:
    """A firewall with one veth pair to each zone; IPv4 10.N.0.0/24 and IPv6 fd00:N::/64, the firewall is .1."""
    for zone in ZONES:
        spaces.add(zone)
    spaces.add("fw")
    _ip(
        "link set lo up",
        *(f"link add {zone} type veth peer name eth0 netns {spaces.path(zone)}" for zone in ZONES),
        *(f"addr add 10.{number}.0.1/24 dev {zone}" for zone, number in ZONES.items()),
        *(f"addr add fd00:{number}::1/64 dev {zone} nodad" for zone, number in ZONES.items()),
        *(f"link set {zone} up" for zone in ZONES),
    )
    _set("ipv4/ip_forward", 1)
    _set("ipv6/conf/all/forwarding", 1)
    _load(rules, name)
    for zone, number in ZONES.items():
        spaces.enter(zone)
        _set("ipv6/conf/default/accept_ra", 0)
        _ip(
            "link set lo up",
            f"addr add 10.{number}.0.2/24 dev eth0",
            f"addr add fd00:{number}::2/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via 10.{number}.0.1",
            f"route add default via fd00:{number}::1",
        )


def _perform(spaces: Namespaces, actions: tuple[Action, ...], when: str, pids: Mapping[str, int]) -> None:
    for action in actions:
        if action.when != when:
            continue
        spaces.enter(action.zone)
        environment = {**os.environ, "SECGUARD_AGENT_PID": str(pids.get(action.zone, ""))}
        done = subprocess.run(
            list(action.argv), env=environment, capture_output=True, text=True, timeout=_ACTION_SECONDS, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise SystemPartError(
                "isolation.lab.action", f"{action.argv[0]} failed in {action.zone}: {lines[-1][:200] if lines else ''}"
            )


def _recorded(digest: str) -> None:
    """Tell the plan's digest, and send nothing before its start is recorded."""
    _say(planned=digest)
    if sys.stdin.readline().strip() != "go":
        sys.exit(2)


def main() -> int:
    """Entry point of the lab process; returns its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and kills us
    parent = os.getppid()
    relays: subprocess.Popen[bytes] | None = None
    try:
        isolate()
        die_with_parent()
        if os.getppid() != parent:
            return 2
        if "--check" in sys.argv:
            _feed([tool("nft", "nftables"), "-f", "-"], "table inet check {\n}\n")
            _ip("link add check type veth peer name kcehc")
            _say(done=True)
            return 0
        request = msgspec.json.decode(sys.stdin.readline(), type=Request)
        spaces = Namespaces()
        _build(spaces, request.rules, request.rules_name)
        relays = _relays(spaces) if request.relays else None
        _perform(spaces, request.actions, "start", {})
        signer = generate(Algorithm.ED25519)
        policy = load_policy(request.policy.encode(), "lab.yaml")
        if request.profiles:
            policy = msgspec.structs.replace(policy, profiles=request.profiles)
        found = collect(
            policy,
            {zone: spaces.path(zone) for zone in ZONES},
            signer=signer,
            clock=SystemClock(),
            start=_recorded,
            progress=lambda done, total, unit: _say(progress=[done, total, unit]),
            perform=lambda when, pids: _perform(spaces, request.actions, when, pids),
        )
    except SecguardError as error:
        _say(error={"code": error.code, "message": error.message, "hint": error.hint, "where": error.where})
        return 2
    finally:
        if relays is not None:
            relays.kill()
            relays.wait()
    reports = [data.decode() for data in found.reports]
    _say(done=True, plan=found.plan.decode(), reports=reports, key=spki(signer.public_key()), problems=found.problems)
    return 0


if __name__ == "__main__":
    sys.exit(main())
