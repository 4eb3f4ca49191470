"""Agent processes as their controller sees them: start, one line out, one line in, end."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec

from secguard.core import SecguardError, SystemPartError

__all__ = ["AgentProcess", "environment", "failure", "gather", "python"]

_MAX_LINE = 64 << 20


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules; never a file of the working directory (these processes may be root)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """The environment in which `python` finds this very secguard."""
    ours = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))}


class AgentProcess:
    """One agent process and its lines."""

    def __init__(self, name: str, zone: str, namespace: str, trust: str) -> None:
        self.name = name
        self.zone = zone
        self.error = ""
        self._buffer = b""
        command = python("secguard.isolation.agent.stdio", "--name", name, "--netns", namespace)
        self.process = subprocess.Popen(
            [*command, "--trust", trust, "--parent", str(os.getpid())],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def say(self, **values: Any) -> None:
        """Send a command; a dead agent is noticed when it does not answer."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(msgspec.json.encode(values) + b"\n")
            self.process.stdin.flush()

    def take(self) -> dict[str, Any] | None:
        """The next whole line, if there is one."""
        stream = self.process.stdout
        assert stream is not None
        piece = stream.read(1 << 20)
        if piece:
            self._buffer += piece
        elif piece == b"":
            self.error = self.error or "ended"
        if b"\n" not in self._buffer:
            if len(self._buffer) > _MAX_LINE:
                self.error = "sent a line without end"
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            value = msgspec.json.decode(line)
        except msgspec.MsgspecError:
            self.error = "sent something that is not JSON"
            return None
        return value if isinstance(value, dict) else None

    def last_words(self) -> str:
        """The last line of a dead agent's standard error, or what is known of it."""
        stream: IO[bytes] | None = self.process.stderr
        if self.process.poll() is None or stream is None:
            return self.error
        lines = stream.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else self.error

    def close(self) -> None:
        """End the process and its pipes."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self.process.wait()


def gather(agents: Iterable[AgentProcess], seconds: float) -> dict[str, dict[str, Any]]:
    """One line of each agent that still lives, within a time; who does not answer is marked."""
    waiting = {agent.name: agent for agent in agents if not agent.error}
    answers: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for agent in waiting.values():
            selector.register(agent.process.stdout, selectors.EVENT_READ, agent)  # type: ignore[arg-type]
        while waiting and time.monotonic() < end:
            for key, _ in selector.select(0.1):
                agent = key.data
                line = agent.take()
                if line is not None:
                    answers[agent.name] = line
                if line is not None or agent.error:
                    waiting.pop(agent.name, None)
                    selector.unregister(key.fileobj)
    for agent in waiting.values():
        agent.error = "did not answer in time"
    return answers


def failure(answer: Mapping[str, Any]) -> SecguardError | None:
    """The error that an agent's answer tells, if it is one."""
    error = answer.get("error")
    if not isinstance(error, dict):
        return None
    return SystemPartError(
        str(error.get("code", "isolation.agent.failed")),
        str(error.get("message", "the agent failed")),
        hint=str(error.get("hint", "")),
        where=str(error.get("where", "")),
    )
