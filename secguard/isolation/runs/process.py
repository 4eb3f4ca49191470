"""Agents as their controller sees them: a line out, a line in, an end. Here: processes of this machine."""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import Progress, SecguardError, SystemPartError, silent
from secguard.core.interrupts import raise_swallowed
from secguard.isolation.agent.control import MAX_MESSAGE, Answer, open_answer, open_message
from secguard.isolation.agent.keys import parse_key
from secguard.isolation.agent.spawn import environment, python

__all__ = ["AgentProcess", "Link", "Said", "environment", "gather", "missing", "python"]

_PIECE = 1 << 20
_PROGRESS_SECONDS = 60.0


class Said(NamedTuple):
    """An agent's checked answer and the document that came with it."""

    answer: Answer
    document: bytes


class Link:
    """One agent: what is common to every way of reaching it.

    Attributes:
        name: as in the policy.
        zone: where it stands.
        error: why it is gone; empty while it lives.
        key: its public key, once it has said hello.
        pid: its process on this machine, 0 elsewhere.
    """

    def __init__(self, name: str, zone: str) -> None:
        self.name = name
        self.zone = zone
        self.error = ""
        self.key: PublicKeyTypes | None = None
        self.pid = 0

    def fileno(self) -> int:
        """A descriptor that is readable when `take` may have something."""
        raise NotImplementedError

    def say(self, line: bytes) -> None:
        """Send an order; a dead agent is noticed when it does not answer."""
        raise NotImplementedError

    def take(self) -> bytes | None:
        """The next whole line, if there is one."""
        raise NotImplementedError

    def last_words(self) -> str:
        """What is known of its end."""
        return self.error

    def refusal(self) -> SecguardError | None:
        """Why there is no connection to it, if that is known."""
        return None

    def close(self) -> None:
        """End it."""
        raise NotImplementedError

    def check_hello(self, answer: Answer) -> None:
        """Refuse a hello of somebody else.

        Raises:
            RefusedError: it is another agent.
        """

    def read(self, line: bytes) -> Said:
        """Check an answer.

        Raises:
            FormatError: not an answer.
            RefusedError: forged, or another agent's.
        """
        message = open_message(line)
        answer = open_answer(message, self.key)
        if answer.op == "hello":
            self.check_hello(answer)
            self.key = parse_key(answer.key)
        return Said(answer, message.document)


class AgentProcess(Link):
    """An agent that is a process of this machine, in a network namespace."""

    def __init__(
        self, name: str, zone: str, namespace: str, trust: str, *, key: bytes = b"", state: Path | None = None
    ) -> None:
        """Start it.

        Args:
            name: as in the policy.
            zone: where it stands.
            namespace: path of its network namespace.
            trust: public key of the plan's signer (SPKI, base64).
            key: its private key (PEM); made by itself for this run if empty.
            state: where it keeps its rounds of sweeps.
        """
        super().__init__(name, zone)
        self._buffer = b""
        command = python("secguard.isolation.agent.stdio", "--name", name, "--zone", zone, "--netns", namespace)
        if state is not None:
            command += ["--state", str(state)]
        held = os.memfd_create("secguard-key", 0)
        try:
            if key:
                os.write(held, key)
                os.lseek(held, 0, os.SEEK_SET)
                command += ["--key-descriptor", str(held)]
            self.process = subprocess.Popen(
                [*command, "--trust", trust, "--parent", str(os.getpid())],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(held,) if key else (),
            )
        finally:
            os.close(held)
        self.pid = self.process.pid
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def fileno(self) -> int:
        """Its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def say(self, line: bytes) -> None:
        """Write a line to it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(line)
            self.process.stdin.flush()

    def take(self) -> bytes | None:
        """A line of its output."""
        stream = self.process.stdout
        assert stream is not None
        if b"\n" not in self._buffer:
            piece = stream.read(_PIECE)
            if piece:
                self._buffer += piece
            elif piece == b"":
                self.error = self.error or "ended"
        if b"\n" not in self._buffer:
            if len(self._buffer) > MAX_MESSAGE:
                self.error = "sent a line without end"
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def last_words(self) -> str:
        """The last line of a dead agent's standard error, or what is known of it."""
        stream: IO[bytes] | None = self.process.stderr
        if self.process.poll() is None or stream is None:
            return self.error
        lines = stream.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else self.error

    def close(self) -> None:
        """Kill the process, and close its pipes.

        From here on it does nothing more. A thread, which the end of this program waits for, sees it go: the kernel
        takes some hundredths of a second to close packet sockets, and a verdict need not wait for them.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        threading.Thread(target=self.process.wait, name="reaper").start()


def gather(
    agents: Iterable[Link],
    seconds: float,
    progress: Progress = silent,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Said]:
    """One answer of each agent that still lives; who does not answer in time, or wrongly, is marked.

    Args:
        agents: whom to hear.
        seconds: how long; an agent that tells its progress gets a minute more each time.
        progress: the slowest agent's.
        check: called some times a second; may raise to end it all.
    """
    waiting = {agent.name: agent for agent in agents if not agent.error}
    answers: dict[str, Said] = {}
    shares: dict[str, float] = {}
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for agent in waiting.values():
            selector.register(agent.fileno(), selectors.EVENT_READ, agent)
        while waiting and time.monotonic() < end:
            raise_swallowed()
            check()
            for key, _ in selector.select(0.1):
                agent = key.data
                said = _next(agent)
                if said is not None and said.answer.op == "progress":
                    end = max(end, time.monotonic() + _PROGRESS_SECONDS)
                    shares[agent.name] = said.answer.done / max(said.answer.total, 1e-9)
                    slowest = min(shares.get(name, 0.0) for name in waiting)
                    progress(int(slowest * said.answer.total), int(said.answer.total), said.answer.unit)
                    continue
                if said is not None:
                    answers[agent.name] = said
                if said is not None or agent.error:
                    waiting.pop(agent.name, None)
                    selector.unregister(key.fileobj)
    for agent in waiting.values():
        agent.error = "did not answer in time"
    return answers


def _next(agent: Link) -> Said | None:
    line = agent.take()
    if line is None:
        return None
    try:
        return agent.read(line)
    except SecguardError as error:
        agent.error = error.message
        return None


def missing(agent: Link) -> SecguardError:
    """The error of an agent that did not say hello."""
    return agent.refusal() or SystemPartError(
        "isolation.agent.start", f"agent {agent.name} did not start: {agent.last_words()}"
    )
