"""The wire: one AF_PACKET socket to send, one to hear, neighbours, and namespaces. The only place that touches them."""

import ctypes
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from secguard.core.errors import SystemPartError, UsageError

__all__ = ["Interface", "Route", "Wire", "enter_namespace", "interfaces", "is_local", "route", "tool"]

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_OUTGOING = 4
_SO_RCVBUFFORCE = 33
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_CLONE_NEWNET = 0x40000000
_RECEIVE_BUFFER = 64 << 20
_SLICE = 0.005  # seconds of sending between two looks at the clock


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface with an address of ours: name, MAC, and its global addresses as text."""

    name: str
    mac: bytes
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Where the kernel would send a packet: interface and next hop (the destination itself if on-link)."""

    interface: str
    hop: str


def tool(name: str, package: str) -> str:
    """Path of a system tool, also where PATH leaves out the sbin folders.

    Raises:
        SystemPartError: it is not installed.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise SystemPartError("isolation.tool.missing", f"{name} is not installed", hint=f"apt-get install {package}")
    return found


def enter_namespace(path: str) -> None:
    """Move this process into a network namespace; call it before any thread starts and before scapy is imported.

    Raises:
        UsageError: no such namespace.
        SystemPartError: not permitted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(
            "isolation.namespace.missing", f"cannot open the network namespace: {error.strerror}", where=path
        ) from None
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            reason = os.strerror(ctypes.get_errno())
            raise SystemPartError(
                "isolation.namespace.enter",
                f"cannot enter the network namespace: {reason}",
                hint="run as root",
                where=path,
            )
    finally:
        os.close(descriptor)


def _ip(*arguments: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [tool("ip", "iproute2"), "-j", *arguments], capture_output=True, text=True, timeout=10, check=False
    )
    if done.returncode:
        return []
    value = json.loads(done.stdout or "[]")
    return value if isinstance(value, list) else []


def interfaces() -> list[Interface]:
    """Ethernet interfaces of this namespace that have a global address."""
    result = []
    for link in _ip("addr", "show"):
        infos = link.get("addr_info")
        mac = str(link.get("address", ""))
        if link.get("link_type") != "ether" or not isinstance(infos, list):
            continue
        found = tuple(str(item["local"]) for item in infos if item.get("scope") == "global")
        if found:
            result.append(Interface(str(link["ifname"]), bytes.fromhex(mac.replace(":", "")), found))
    return result


def route(destination: str, source: str) -> Route | None:
    """The kernel's route to an address; None if there is none (or it is a blackhole)."""
    for entry in _ip("route", "get", destination, "from", source):
        if entry.get("dev") and entry.get("type", "unicast") == "unicast":
            return Route(str(entry["dev"]), str(entry.get("gateway", destination)))
    return None


def is_local(address: str) -> bool:
    """Whether packets to an address end on this host."""
    return any(entry.get("type") == "local" for entry in _ip("route", "get", address))


class Wire:
    """Sends and hears on one interface; hearing runs in its own thread from `start` to `stop`."""

    def __init__(self, interface: Interface, hear: Callable[[bytes, bool, int], None]) -> None:
        """`hear(frame, outgoing, nanoseconds)` is called for every frame, in the sensor's thread."""
        self.interface = interface
        self.error = ""
        self._hear = hear
        try:
            self._ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._ear.bind((interface.name, _ETH_P_ALL))
            self._mouth.bind((interface.name, 0))
        except PermissionError:
            raise SystemPartError(
                "isolation.raw.permission", "may not open raw sockets", hint="run as root, or grant CAP_NET_RAW"
            ) from None
        try:
            self._ear.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # inside a user namespace: the system's maximum has to do
            self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="sensor", daemon=True)

    def start(self) -> None:
        """Begin to hear."""
        self._thread.start()

    def mute(self, muted: bool) -> None:
        """Stop hearing for a while, with nothing counted as lost: something faster hears the same interface."""
        if muted:
            # A classic BPF program of one instruction, `ret 0`: the kernel keeps no byte of any frame.
            program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0), 8)
            self._ear.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
        else:
            self._ear.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def stop(self) -> int:
        """Stop hearing and close; returns the frames lost: dropped by the kernel, or one if hearing broke off."""
        broken = self._thread.ident is not None and not self._thread.is_alive()
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(2)
        try:
            statistics = self._ear.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            return int(struct.unpack("II", statistics)[1]) + broken
        finally:
            self._ear.close()
            self._mouth.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                ready, _, _ = select.select([self._ear], [], [], 0.05)
                if not ready:
                    continue
                frame, origin = self._ear.recvfrom(65535)
            except OSError as error:
                # A link that goes down reports once and hears again when it comes back: the beacons tell the gap.
                self.error = error.strerror or str(error)
                time.sleep(0.02)
                continue
            self._hear(frame, origin[2] == _PACKET_OUTGOING, time.time_ns())

    def send(
        self,
        frames: Sequence[bytes] | Iterable[bytes],
        rate: int,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> int:
        """Send frames at `rate` a second, in slices of five milliseconds; returns how many the kernel refused."""
        refused = 0
        began = time.monotonic()
        for sent, frame in enumerate(frames):
            if sent >= (time.monotonic() - began + _SLICE) * rate:
                meanwhile()
                time.sleep(max(0.0, sent / rate - (time.monotonic() - began)))
            try:
                self._mouth.send(frame)
            except OSError as error:
                refused += 1
                self.error = error.strerror or str(error)
        return refused
