"""Sweeps against nmap and masscan in one lab: time from the start order to the verdict, and what each tool finds.

Three namespaces: `ext` scans `int` through a firewall that drops all but three planted mistakes: a service that is open
(10.1.1.8:80), a host that is reachable where nothing listens (10.1.1.4:22), and a host whose answers are dropped on the
way back (10.1.1.9:90; UDP 10.1.1.9:5514). Agents are up and hold the plan when the clock starts; nmap and masscan are
timed as commands, and UDP is asked of nmap besides, outside its time. The tools take turns; the best of each counts.
What is done is told on standard error. Needs nft, ip, nmap and masscan.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secguard.core import SystemClock
from secguard.isolation.lab.host import ZONES
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.runs.collect import collect
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.isolation.wire.namespaces import Namespaces, die_with_parent, isolate
from secguard.isolation.wire.wire import tool
from secguard.keys import Algorithm, generate

ROUNDS = {"secguard": 5, "nmap": 5, "masscan": 2}
PATIENCE = 60  # seconds for a command of others
RULES = """
table inet lab {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ip saddr 10.1.1.9 drop
    ct state established,related accept
    iifname "ext" ip daddr 10.1.1.8 tcp dport 80 accept
    iifname "ext" ip daddr 10.1.1.4 tcp dport 22 accept
    iifname "ext" ip daddr 10.1.1.9 tcp dport 90 accept
    iifname "ext" ip daddr 10.1.1.9 udp dport 5514 accept
  }
}
"""
POLICY = """
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  int:
    ipBlocks: [{{cidr: 10.1.0.0/16}}]
    agents: [{{name: a-int, covers: [10.1.1.0/24]}}]
    targets: [{{cidr: {cidr}, tcp: [1-{ports}]}}, {{cidr: 10.1.1.9/32, udp: [5514]}}]
  ext: {{ipBlocks: [{{cidr: 10.2.0.0/16}}], agents: [a-ext]}}
profiles: []
limits: {{ratePps: 1000000, attempts: 2, timeoutSeconds: 0.1, exclude: [{exclude}]}}
"""
# hosts, ports, block, what of it is left out, hosts for nmap, hosts for masscan
SHAPES = {
    "254 x 100": (100, "10.1.1.0/24", "10.9.0.0/32", "10.1.1.1-254", "10.1.1.1-10.1.1.254"),
    "16 x 1000": (
        1000,
        "10.1.1.0/27",
        "10.1.1.17/32, 10.1.1.18/31, 10.1.1.20/30, 10.1.1.24/29",
        "10.1.1.1-16",
        "10.1.1.1-10.1.1.16",
    ),
}
OPEN, CLOSED, ONE_WAY, ONE_WAY_UDP = PLANTED = ("open", "closed but reachable", "one-way TCP", "one-way UDP")
PARTS = {"rounds": "sending, its health proofs", "reports": "waiting for stragglers, reports", "verdict": "verdict"}


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(  # a child must not survive us in a namespace that nobody sees
        command, input=text, capture_output=True, text=True, check=True, timeout=PATIENCE, preexec_fn=die_with_parent
    )
    return done.stdout


def build(spaces: Namespaces) -> None:
    """The lab: `int` owns 10.1.1.0/24 whole (AnyIP), one service in it."""
    ip, nft = tool("ip", "iproute2"), tool("nft", "nftables")
    zones = {zone: number for zone, number in ZONES.items() if zone in {"int", "ext"}}
    for name in (*zones, "fw"):
        spaces.add(name)
    lines = ["link set lo up"]
    for zone, number in zones.items():
        lines += [
            f"link add {zone} type veth peer name eth0 netns {spaces.path(zone)}",
            f"addr add 10.{number}.0.1/24 dev {zone}",
            f"link set {zone} up",
        ]
    _run(ip, "-batch", "-", text="\n".join([*lines, "route add 10.1.1.0/24 via 10.1.0.2", ""]))
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
    _run(nft, "-f", "-", text=RULES)
    for zone, number in zones.items():
        spaces.enter(zone)
        lines = ["link set lo up", f"addr add 10.{number}.0.2/24 dev eth0", "link set eth0 up"]
        _run(ip, "-batch", "-", text="\n".join([*lines, f"route add default via 10.{number}.0.1", ""]))
    spaces.enter("int")
    _run(ip, "route", "add", "local", "10.1.1.0/24", "dev", "lo")


def secguard(spaces: Namespaces, shape: str) -> tuple[dict[str, float], set[str]]:
    """Seconds: `all` from the start order to the verdict, its parts, and `start-up` before it; and what was found."""
    ports, cidr, exclude, *_ = SHAPES[shape]
    policy = load_policy(POLICY.format(cidr=cidr, ports=ports, exclude=exclude).encode())
    signer = generate(Algorithm.ED25519)
    began = time.perf_counter()
    steps: dict[int, float] = {}

    def progress(done: int, _total: int | None, unit: str) -> None:
        if unit == "steps":
            steps[done] = time.perf_counter()

    places = {zone: spaces.path(zone) for zone in ("int", "ext")}
    got = collect(policy, places, signer=signer, clock=SystemClock(), progress=progress)
    result = conclude(got.plan, got.reports, [signer.public_key()], signer=signer)
    over = time.perf_counter()
    ordered, swept, reported = steps[2], steps[4], steps[6]
    parts = {"rounds": swept - ordered, "reports": reported - swept, "verdict": over - reported}
    return {"all": over - ordered, **parts, "start-up": ordered - began}, _found(result)


def _found(result: RunResult) -> set[str]:
    wanted = {
        ("isolation.leak.open", "10.1.1.8 TCP 80"): OPEN,
        ("isolation.leak.closed", "10.1.1.4 TCP 22"): CLOSED,
        ("isolation.leak.one-way", "10.1.1.9 TCP 90"): ONE_WAY,
        ("isolation.leak.one-way", "10.1.1.9 UDP 5514"): ONE_WAY_UDP,
    }
    findings = [(item.code, str(item.data.get("probes", ""))) for item in result.verdict.findings]
    found = {name for (code, text), name in wanted.items() for item in findings if item[0] == code and text in item[1]}
    extra = [
        item for item in findings if item[0].startswith("isolation.health") or item[0].startswith("isolation.case")
    ]
    assert not extra, extra
    return found


def _said(text: str) -> set[str]:
    """What nmap or masscan says of the planted mistakes (both can write nmap's greppable form)."""
    words = {
        OPEN: r"10\.1\.1\.8 .*\b80/open/tcp",
        CLOSED: r"10\.1\.1\.4 .*\b22/closed/tcp",
        ONE_WAY: r"10\.1\.1\.9 .*\b90/(open|closed)/tcp",
        ONE_WAY_UDP: r"10\.1\.1\.9 .*\b5514/(open|closed)/udp",
    }
    return {name for name, pattern in words.items() if re.search(pattern, text)}


def nmap(shape: str) -> tuple[dict[str, float], set[str]]:
    """nmap flat out; UDP apart from it, where silence is `open|filtered`."""
    ports, _, _, hosts, _ = SHAPES[shape]
    command = ["nmap", "-T5", "--min-rate", "1000000", "--max-retries", "0", "-Pn", "-n", "-oG", "-"]
    began = time.perf_counter()
    said = _run(*command, "-sS", "-p", f"1-{ports}", hosts)
    seconds = time.perf_counter() - began
    said += _run(*command, "-sU", "-p", "5514", "10.1.1.9")
    return {"all": seconds}, _said(said)


@contextmanager
def _murmur() -> Iterator[None]:
    """A datagram now and then: masscan ends when a packet comes by, and on a silent link perhaps never."""
    over = threading.Event()
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def murmur() -> None:
        while not over.wait(0.05):
            channel.sendto(b"", ("10.2.0.1", 9))

    thread = threading.Thread(target=murmur)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        channel.close()


def masscan(shape: str) -> tuple[dict[str, float], set[str]]:
    """masscan at the rate that loses little here."""
    ports, *_, hosts = SHAPES[shape]
    command = ["masscan", hosts, "-p", f"1-{ports},U:5514", "--rate", "100000", "--wait", "1"]
    with _murmur():
        began = time.perf_counter()
        said = _run(*command, "--show", "open,closed", "-oG", "-")
        seconds = time.perf_counter() - began
    return {"all": seconds}, _said(said)


def _words(found: set[str]) -> str:
    missed = [name for name in PLANTED if name not in found]
    words = ", ".join(name for name in PLANTED if name in found) or "nothing"
    return words + (f"; misses {', '.join(missed)}" if missed else "")


def measure() -> list[dict[str, Any]]:
    """The rows: best of some rounds, the tools by turns."""
    isolate()
    spaces = Namespaces()
    build(spaces)
    spaces.enter("int")
    service = socket.create_server(("10.1.1.8", 80), backlog=4096)
    spaces.enter("ext")
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        best: dict[str, dict[str, float]] = {}
        found: dict[str, set[str]] = {}
        for turn in range(max(ROUNDS.values())):
            for name, turns in ROUNDS.items():
                if turn >= turns:
                    continue
                act = {"nmap": nmap, "masscan": masscan}.get(name)
                seconds, names = act(shape) if act else secguard(spaces, shape)
                print(f"{shape}: {name} {turn + 1}/{turns}: {seconds['all']:.3f} s", file=sys.stderr, flush=True)
                best[name] = min(best.get(name, seconds), seconds, key=lambda item: item["all"])
                # Ours must find all in every round; the others, in any.
                found[name] = found.get(name, names) & names if act is None else found.get(name, set()) | names
        ours = best["secguard"]
        rows.append(
            {
                "what": f"{shape}: start order to verdict, 2 attempts; ratio: nmap flat out, 1 attempt",
                "value": ours["all"],
                "unit": "s",
                "ratio": best["nmap"]["all"] / ours["all"],
                "goal": 1.0,
            }
        )
        rows += [{"what": f"{shape}: of it {text}", "value": ours[part], "unit": "s"} for part, text in PARTS.items()]
        rows += [{"what": f"{shape}: {name}", "value": best[name]["all"], "unit": "s"} for name in ("nmap", "masscan")]
        rows.append(
            {
                "what": f"{shape}: start-up before it (agents, compiling and signing the plan)",
                "value": ours["start-up"],
                "unit": "s",
            }
        )
        rows += [
            {"what": f"{shape}: {name} finds", "value": _words(names), "unit": ""} for name, names in found.items()
        ]
    service.close()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    rows = measure()
    if options.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            ratio = f"   {row['ratio']:.2f} of nmap's speed" if "ratio" in row else ""
            value = row["value"] if isinstance(row["value"], str) else f"{row['value']:.3f} {row['unit']}"
            print(f"{row['what']:80} {value}{ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
