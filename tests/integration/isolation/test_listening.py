"""A mirror port without an address: it hears what is sent to cameras, and its own health by its neighbour's beacons."""

import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

from secguard.core import Outcome, SystemClock, SystemPartError
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.runs.collect import collect
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.isolation.wire.namespaces import Namespaces, isolate
from secguard.isolation.wire.wire import tool
from secguard.keys import Algorithm, generate
from tests.support.lab_kit import NEEDS_LAB

pytestmark = NEEDS_LAB

POLICY = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  int:
    ipBlocks: [{cidr: 10.1.0.0/16}]
    agents: [a-int, {name: a-span, sensor: mirror, interface: eth1, covers: [10.1.1.0/29]}]
    targets: [{cidr: 10.1.1.0/29, tcp: [554], udp: [53]}]
  ext: {ipBlocks: [{cidr: 10.2.0.0/16}], agents: [a-ext], published: [10.2.0.1]}
profiles: [l4, published]
probes: {tcp: [22], udp: [53], sourcePorts: []}
limits: {ratePps: 2000, attempts: 2, timeoutSeconds: 0.3}
"""
# A span port that copies what goes to and comes from the agent of `int`, and what goes to the cameras; a firewall with
# one hole and one published camera.
RULES = """\
table netdev span {
  chain in { type filter hook ingress device "int" priority 0; dup to "span"; }
  chain out { type filter hook egress device "int" priority 0; dup to "span"; }
  chain cameras { type filter hook egress device "cam" priority 0; dup to "span"; }
}
table ip lab {
  chain pre { type nat hook prerouting priority -100; ip daddr 10.2.0.1 udp dport 53 dnat to 10.1.1.3:5060; }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "ext" ip daddr 10.1.1.1 udp dport 53 accept
    ct status dnat accept
  }
}
"""


def _ip(*lines: str) -> None:
    command = [tool("ip", "iproute2"), "-batch", "-"]
    subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True, timeout=20)


def _nft(rules: str) -> None:
    subprocess.run([tool("nft", "nftables"), "-f", "-"], input=rules, text=True, check=True, timeout=20)


def _build() -> Namespaces:
    isolate()
    spaces = Namespaces()
    for name in ("int", "ext", "tap", "fw"):
        spaces.add(name)
    _ip(
        f"link add int type veth peer name eth0 netns {spaces.path('int')}",
        f"link add ext type veth peer name eth0 netns {spaces.path('ext')}",
        f"link add span type veth peer name eth1 netns {spaces.path('tap')}",
        f"link add cam type veth peer name cameras netns {spaces.path('tap')}",
        "addr add 10.1.0.1/16 dev int",
        "addr add 10.2.0.1/16 dev ext",
        *(f"link set {name} up" for name in ("lo", "int", "ext", "span", "cam")),
        "route add 10.1.1.0/29 dev cam",
        *(f"neigh add 10.1.1.{host} lladdr 02:00:00:00:01:0{host} dev cam nud permanent" for host in range(1, 7)),
    )
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
    _nft(RULES)
    for name, number in (("int", 1), ("ext", 2)):
        spaces.enter(name)
        _ip(
            f"addr add 10.{number}.0.2/16 dev eth0",
            "link set lo up",
            "link set eth0 up",
            f"route add default via 10.{number}.0.1",
        )
    spaces.enter("tap")
    _ip("link set eth1 up", "link set cameras up")
    return spaces


def _scan(cut: str = "") -> RunResult:
    """A scan; the span port goes deaf at the phase `cut`."""
    spaces = _build()
    signer = generate(Algorithm.ED25519)

    def perform(when: str, _pids: object) -> None:
        if when == cut:
            spaces.enter("fw")
            _nft("delete table netdev span\n")

    places = {name: spaces.path(space) for name, space in (("a-int", "int"), ("a-span", "tap"), ("ext", "ext"))}
    found = collect(load_policy(POLICY.encode()), places, signer=signer, clock=SystemClock(), perform=perform)
    return conclude(found.plan, found.reports, [signer.public_key()], clock=SystemClock(), signer=signer)


def _inside(body: Callable[[], None]) -> None:
    """Run `body` in a process of its own, since it leaves the network of this one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            body()
        except SystemPartError as error:
            os.write(writer, str(error).encode())
        except BaseException:  # noqa: BLE001 - told to the parent, whatever it is
            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read().decode(errors="replace")
    os.waitpid(child, 0)
    assert not said, said


def test_what_reaches_cameras_is_heard_without_an_address() -> None:
    def body() -> None:
        result = _scan()
        found = {(item.code, item.data.get("probes", "")) for item in result.verdict.findings}
        leaks = {(code, text) for code, text in found if code.startswith(("isolation.leak", "isolation.case"))}
        assert leaks == {
            ("isolation.leak.one-way", "UDP 53 @10.1.1.1"),
            ("isolation.leak.one-way", "10.1.1.1 UDP 53"),
            ("isolation.leak.published", "UDP 53 @10.2.0.1"),
        }, found
        assert not {code for code, _ in found if code.startswith("isolation.health")}, found
        assert result.verdict.outcome is Outcome.FAIL
        (udp,) = [item for item in result.sweeps if item.protocol == "udp"]
        assert udp.counts == {"one-way": 1, "filtered": 5}
        listener = next(item for item in result.observations if result.plan.agents[item.agent].name == "a-span")
        assert sum(listener.egress) == 0
        assert all(listener.beacons["4"].heard)
        assert all(cell.miss < 1 for cell in result.matrix)

    _inside(body)


def test_a_deaf_mirror_port_makes_its_silence_inconclusive() -> None:
    def body() -> None:
        result = _scan("during")
        assert result.verdict.outcome is not Outcome.PASS
        codes = {(item.code, item.data.get("dst")) for item in result.verdict.findings}
        assert ("isolation.health.beacon", "int") in codes, codes
        covered = [row for row, target in enumerate(result.plan.cases.target) if target.startswith("10.1.1.")]
        assert {result.columns["result"][row] for row in covered} <= {"inconclusive", "one-way"}
        assert "filtered" not in result.sweeps[0].counts

    _inside(body)
