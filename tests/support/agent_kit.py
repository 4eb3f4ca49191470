"""A small PKI for agents and a controller, two namespaces with a cable between them, and a door on loopback."""

import asyncio
import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from secguard.core import FixedClock
from secguard.core.listening import listen
from secguard.events import Actor, Event, Receipt
from secguard.gbid import Scope
from secguard.identity import Authority, IdentityConfig, Registry, create_authority
from secguard.identity.issuing.issue import Request
from secguard.isolation.agent.app import Door, agent_app
from secguard.isolation.agent.credentials import Trust, fingerprint
from secguard.isolation.agent.peer import private_pem, server_context
from secguard.isolation.runs.remote import Caller
from secguard.keys import KeySigner, Signer, load_signer, save_private_key
from secguard.service.gate import Gate
from secguard.trust import chain_pem

__all__ = ["POLICY", "Pki", "cable", "make_pki", "make_stranger", "serving"]

PROFILES = Path(__file__).parents[2] / "certs"
PASSPHRASE = b"correct horse"
DOMAIN = "video.internal"

POLICY = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  left: {ipBlocks: [{cidr: 10.91.0.0/31}], agents: [{name: a-left, addresses: [10.91.0.1]}]}
  right: {ipBlocks: [{cidr: 10.91.0.2/31}], agents: [{name: a-right, addresses: [10.91.0.2]}]}
flows:
- {name: sip, src: left, dst: right, ports: [{protocol: UDP, port: 5060}], expect: open, canary: true}
probes: {tcp: [554], udp: [5060, 161], sourcePorts: []}
profiles: [l4, icmp]
limits: {attempts: 2, timeoutSeconds: 0.3}
"""


class _Recorder:
    def record(self, events: Sequence[Event]) -> Sequence[Receipt]:
        return [Receipt(event.id, 0, bytes(32), "test") for event in events]


@dataclass
class Pki:
    """Certificates of a site.

    Attributes:
        root: the root certificate's file.
        crls: folder of fresh lists; `stale` is one of lists that have run out.
        operator: who signs plans.
    """

    folder: Path
    root: Path
    crls: Path
    stale: Path
    operator: Signer
    operator_chain: list[x509.Certificate]
    holders: dict[str, tuple[list[x509.Certificate], Signer]] = field(default_factory=dict)

    def cert(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def trust(self, **values) -> Trust:
        return Trust(**{"roots": (self.root,), "crls": (self.crls,), **values})

    def caller(self, name: str = "controller", **values) -> Caller:
        chain, signer = self.holders[name]
        return Caller(**{"chain": chain_pem(chain), "key": private_pem(signer), "trust": self.trust(), **values})

    def door(self, name: str, memory: Path, **values) -> Door:
        chain, signer = self.holders[name]
        made = {"key": private_pem(signer), "certificate": fingerprint(chain[0]), "trust": self.trust(), **values}
        return Door(name=made.pop("called", name), memory=memory, **made)


def make_pki(folder: Path) -> Pki:
    """A site with agents, a controller, one certificate that is revoked and one that has expired."""
    shutil.copytree(PROFILES, folder / "certs", ignore=shutil.ignore_patterns("*.pem"))
    registry = Registry.open(folder / "registry.db")
    now = datetime.now(UTC)
    common = {
        "certs": folder / "certs",
        "registry": registry,
        "config": IdentityConfig(domain=DOMAIN),
        "recorder": _Recorder(),
        "actor": Actor(name="admin"),
        "passphrase": PASSPHRASE,
    }
    state = folder / "state"
    old = FixedClock(now - timedelta(days=800))
    create_authority(
        state, **common, clock=old, scope=Scope(("320116",)), origin=f"{DOMAIN}/320116/0a1b2c3d", operator="li.wei"
    )
    then = Authority(state, **common, clock=old)
    then.issue([Request(f"expired.{DOMAIN}", "isolation-agent")])
    site = Authority(state, **common, clock=FixedClock(now - timedelta(minutes=1)))
    stale = folder / "stale"
    shutil.copytree(state / "crl", stale)
    names = ("a-left", "a-right", "controller", "revoked")
    site.issue([Request(f"{name}.{DOMAIN}", "isolation-agent") for name in names])
    site.issue([Request("wang.fang", "operator")])
    site.revoke(f"revoked.{DOMAIN}")
    site.publish_crls(every=True)
    operator, chain = site.operator_signer("wang.fang")
    pki = Pki(folder / "files", folder / "certs" / "root.pem", state / "crl", stale, operator, chain)
    pki.folder.mkdir()
    for name in (*names, "expired"):
        record = next(item for item in registry.certificates() if item.holder == f"{name}.{DOMAIN}")
        signer = load_signer(site.locate(record.key), PASSPHRASE)
        certificates = [record.x509(), registry.authorities()[record.issuer].x509()]
        pki.holders[name] = (certificates, signer)
        CHAINS[fingerprint(certificates[0])] = chain_pem(certificates)
        pki.cert(name).write_bytes(chain_pem(certificates))
        save_private_key(pki.key(name), signer, None)
    save_private_key(pki.folder / "operator.key", operator, None)
    (pki.folder / "operator.pem").write_bytes(chain_pem(chain))
    registry.close()
    return pki


def make_stranger(folder: Path) -> tuple[Path, bytes, bytes]:
    """Another root, and a certificate of it that looks like an agent's: the root's file, chain and key in PEM."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name.from_rfc4514_string(f"CN={name}") for name in ("stranger", f"controller.{DOMAIN}")]
    now = datetime.now(UTC)
    made = []
    for number in (0, 1):
        extensions = [x509.BasicConstraints(ca=not number, path_length=None)]
        if number:
            extensions.append(x509.SubjectAlternativeName([x509.DNSName(f"controller.{DOMAIN}")]))
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(number + 1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        made.append(builder.sign(keys[0], hashes.SHA256()))
    root = folder / "stranger.pem"
    root.write_bytes(chain_pem(made[:1]))
    return root, chain_pem([made[1]]), private_pem(KeySigner(keys[1]))


@contextlib.contextmanager
def serving(door: Door, *, anchors: str | None = None, chain: bytes | None = None) -> Iterator[int]:
    """A door served over TLS on loopback, in a thread; yields the port."""
    certificate = chain or _chain_of(door)
    context = server_context(certificate, door.key, anchors or door.trust.anchors_pem())
    started, stop = threading.Event(), []
    port = []

    async def serve() -> None:
        gate = Gate(agent_app(door), lambda: context, connections=8)
        await gate.open(listen("127.0.0.1", 0, "test"))
        ended = asyncio.Event()
        stop.append((asyncio.get_running_loop(), ended))
        port.append(gate.address[1])
        started.set()
        await ended.wait()
        await gate.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    started.wait(30)
    try:
        yield port[0]
    finally:
        loop, ended = stop[0]
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        assert not thread.is_alive()


CHAINS: dict[str, bytes] = {}


def _chain_of(door: Door) -> bytes:
    return CHAINS[door.certificate]


@contextlib.contextmanager
def cable() -> Iterator[tuple[int, int, int]]:
    """Namespaces of a controller, `left` and `right`: a cable 10.91.0.1 - 10.91.0.2, and management 192.168.N.2 each.

    They are held by three sleeping processes, whose IDs are yielded; the controller has 192.168.N.1.
    """
    holders = [subprocess.Popen(["unshare", "-n", "sleep", "300"]) for _ in range(3)]
    own = Path("/proc/self/ns/net").readlink()
    try:
        for holder in holders:
            deadline = time.monotonic() + 30
            while Path(f"/proc/{holder.pid}/ns/net").readlink() == own and time.monotonic() < deadline:
                time.sleep(0.01)
        control, left, right = (str(holder.pid) for holder in holders)

        def ip(namespace: str, *lines: str) -> None:
            command = ["nsenter", "-t", namespace, "-n", "ip", "-batch", "-"]
            subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True)

        ip(left, f"link add e0 type veth peer name e0 netns {right}", "link set lo up")
        ip(right, "link set lo up")
        for namespace, address, other in ((left, "10.91.0.1", "10.91.0.2/31"), (right, "10.91.0.2", "10.91.0.0/31")):
            ip(namespace, f"addr add {address}/32 dev e0", "link set e0 up", f"route add {other} dev e0")
        for number, namespace in ((1, left), (2, right)):
            ip(
                control,
                f"link add m{number} type veth peer name m0 netns {namespace}",
                f"addr add 192.168.{number}.1/24 dev m{number}",
                f"link set m{number} up",
            )
            ip(namespace, f"addr add 192.168.{number}.2/24 dev m0", "link set m0 up")
        yield holders[0].pid, holders[1].pid, holders[2].pid
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
