"""The wire of an agent: it sends, and hears frame by frame or in blocks; interfaces, routes, tools, namespaces."""

import ctypes
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from secguard.core.errors import SystemPartError, UsageError
from secguard.isolation.wire.bulk import Sender
from secguard.isolation.wire.ring import Block, Ring

__all__ = ["Interface", "Route", "Wire", "enter_namespace", "interfaces", "is_local", "route", "tool"]

_CLONE_NEWNET = 0x40000000
_PATIENCE = 5  # milliseconds: how late a lonely frame may be heard
_LOOK = 0.05
_LANES = 2
_JOIN = 5


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
    """Sends and hears on one interface; hearing runs in its own thread from `start` to `stop`; `close` it after."""

    def __init__(
        self, interface: Interface, hear: Callable[[bytes, bool, int], None], *, promiscuous: bool = False
    ) -> None:
        """`hear(frame, outgoing, nanoseconds)` is called for every frame, in the sensor's thread.

        `promiscuous` hears what is for others, too: a mirror port.

        Raises:
            SystemPartError: the interface is gone, no memory, or not permitted (CAP_NET_RAW).
        """
        self.interface = interface
        self.blocks: Callable[[Block], None] | None = None
        """Takes whole blocks of frames instead of `hear`, for as long as it is set: at the pace of sweeps."""
        self._hear = hear
        self._error = ""
        self._ring = Ring(interface.name, patience=_PATIENCE, promiscuous=promiscuous)
        try:
            self.sender = Sender(interface.name, lanes=_LANES)
            """Sends in bulk, within the same rate as `send`."""
        except BaseException:
            self._ring.close()
            raise
        self._stop = threading.Event()
        self._last = 0
        self._thread = threading.Thread(target=self._listen, name="sensor", daemon=True)

    @property
    def error(self) -> str:
        """What went wrong last, in the system's words; empty if nothing did."""
        # A link that goes down reports once and hears again when it comes back: the beacons tell the gap.
        return self._error or self._ring.error

    @property
    def drops(self) -> int:
        """Frames lost so far: dropped by the kernel, since we were too slow."""
        return self._ring.statistics().drops

    def start(self) -> None:
        """Begin to hear; what came by since this was made is heard too."""
        self._thread.start()

    def stop(self) -> int:
        """Stop hearing; returns the frames lost: dropped by the kernel, or one if hearing broke off.

        All that the kernel has counted by now is still heard, and no more: others' traffic may never pause.
        """
        broken = self._thread.ident is not None and not self._thread.is_alive() and not self._stop.is_set()
        if not self._stop.is_set():
            came = self._ring.statistics()
            self._last = came.packets - came.drops
            self._stop.set()
            self._ring.wake()
        if self._thread.ident is not None:
            self._thread.join(_JOIN)
            broken = broken or self._thread.is_alive()
        return self._ring.statistics().drops + broken

    def close(self) -> None:
        """Stop, and close the sockets: the kernel takes some hundredths of a second for each."""
        self.stop()
        self.sender.close()
        if not self._thread.is_alive():
            self._ring.close()

    def _listen(self) -> None:
        while not self._stop.is_set() or self._ring.handed < self._last:
            block = self._ring.read(_LOOK)
            take = self.blocks  # another thread may take it away at any time
            if block is not None and take is not None:
                take(block)
            elif block is not None:
                times = block.time.tolist()
                for row, outgoing in enumerate(block.outgoing.tolist()):
                    self._hear(block.frame(row), outgoing, times[row])

    def send(
        self,
        frames: Iterable[bytes],
        rate: float,
        meanwhile: Callable[[], None] | None = None,
    ) -> int:
        """Send frames at `rate` a second, never more than five milliseconds' worth at once.

        Args:
            frames: whole Ethernet frames.
            rate: frames a second, of all calls together.
            meanwhile: called about each millisecond while there is something left to send; it may send, too.

        Returns:
            How many the kernel refused; `error` says why.
        """
        done = self.sender.send(list(frames), rate, meanwhile=meanwhile)
        for code in done.refused:
            self._error = os.strerror(code)
        return sum(done.refused.values())
