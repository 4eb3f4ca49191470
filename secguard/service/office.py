"""Enrolment in two processes: this one certifies and holds the CA keys, another one (`front`) talks to devices.

The listening sockets are handed in and stay open, so that connections wait while a front that has crashed is started
again. What the front has asked for while one batch was on its way makes the next.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from secguard.core import FormatError, RefusedError, SecguardError, SystemPartError
from secguard.service.channel import Ask, Done, Frames, FromFront, Note, Problem, Ready, TlsAsk, pack

if TYPE_CHECKING:
    from secguard.identity import Authority, Order
    from secguard.identity.enrol.registrar import Desk
    from secguard.workspace import Workspace

__all__ = ["Office"]

_BATCH = 256
_START_SECONDS = 60
_STOP_SECONDS = 20
_PAUSES = (0.1, 0.5, 2.0, 5.0)
_SECRET = ("SECGUARD_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY")
_LONG = 30.0  # a front that has served so long may start again at once


class Office:
    """Certifies for a front, in a thread of its own, and keeps the front running.

    Args:
        open_workspace: opens the site anew, for this thread alone.
        sockets: where the front serves; closed at the end.
        host: whose server certificate is shown.
        passphrase_file: opens the CAs' keys.
    """

    def __init__(
        self,
        open_workspace: "Callable[[], Workspace]",
        sockets: Sequence[socket.socket],
        host: str,
        passphrase_file: Path | None = None,
    ) -> None:
        self._open = open_workspace
        self._sockets = sockets
        self._host = host
        self._passphrase_file = passphrase_file
        self._thread = threading.Thread(target=self._run, name="enrolment")
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._front: subprocess.Popen[bytes] | None = None
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Start the front; returns when it serves.

        Raises:
            SecguardError: a wrong or missing passphrase, an open key file, no server certificate; it takes too long.
        """
        self._thread.start()
        started = self._started.wait(_START_SECONDS)
        if not started:
            raise SystemPartError("service.start", f"enrolment is not served after {_START_SECONDS} s")
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Finish what is under way, and end."""
        self._stopping.set()
        self._end(terminate=True)
        deadline = time.monotonic() + _STOP_SECONDS
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)
            while self._thread.is_alive():  # a front that does not end
                logger.error("the process for enrolment did not end in {:.0f} s", time.monotonic() - deadline)
                self._end(terminate=False)
                self._thread.join(1)
        for one in self._sockets:
            one.close()

    @property
    def failure(self) -> BaseException | None:
        """Why the thread ended before it was told to; None while it runs."""
        return self._failure

    def _end(self, *, terminate: bool) -> None:
        with self._lock:
            if self._front is not None:
                (self._front.terminate if terminate else self._front.kill)()

    def _run(self) -> None:
        try:
            with contextlib.closing(self._open()) as workspace:
                authority = workspace.authority(self._passphrase_file)
                for name in authority.signing:
                    authority.signer(name)  # a missing passphrase, or a key that others may read, must show now
                self._keep(workspace.root, authority)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which ends the process
            self._failure = error
        finally:
            self._started.set()

    def _keep(self, root: Path, authority: "Authority") -> None:
        """Run one front after the other until told to stop."""
        from secguard.identity.enrol.registrar import Desk

        desk = Desk(authority)
        crashes = 0
        while not self._stopping.is_set():
            since = time.monotonic()
            self._run_front(root, authority, desk)
            if self._stopping.is_set():
                break
            crashes = 0 if time.monotonic() - since > _LONG else crashes + 1
            logger.error("the process for enrolment has ended; it is started again")
            self._stopping.wait(_PAUSES[min(crashes, len(_PAUSES) - 1)])

    def _run_front(self, root: Path, authority: "Authority", desk: "Desk") -> None:
        """Start a front, and work for it until it has gone."""
        here, there = socket.socketpair()
        try:
            with there:
                files = [there.fileno(), *(one.fileno() for one in self._sockets)]
                names = [str(root), self._host, *map(str, files)]
                command = [sys.executable, "-P", "-m", "secguard.service.front", *names]
                environment = {name: value for name, value in os.environ.items() if name not in _SECRET}
                environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
                with self._lock:
                    if self._stopping.is_set():
                        return
                    self._front = subprocess.Popen(
                        command,
                        env=environment,
                        pass_fds=files,
                        stdin=subprocess.DEVNULL,
                        process_group=0,  # Ctrl-C is for this process, which tells the front
                    )
            frames: Frames[FromFront] = Frames(FromFront)
            with contextlib.suppress(OSError):  # it has gone, with what it waited for
                while data := here.recv(1 << 20):
                    for answer in self._answer(list(frames.feed(data)), authority, desk):
                        here.sendall(answer)
        except FormatError as error:
            logger.error("{}: {}", error.code, error)
        finally:
            here.close()
            if self._front is not None:
                if not self._stopping.is_set():
                    self._front.kill()
                try:
                    self._front.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self._front.kill()
                    self._front.wait()

    def _answer(self, messages: Sequence[FromFront], authority: "Authority", desk: "Desk") -> "list[bytes]":
        answers: list[bytes] = []
        notes: list[Note] = []
        asks: list[Ask] = []
        for message in messages:
            if isinstance(message, Ask):
                asks.append(message)
            elif isinstance(message, Note):
                notes.append(message)
            elif isinstance(message, TlsAsk):
                answers.append(_guarded(message.number, lambda host=message.host: _credentials(authority, host)))  # type: ignore[misc] # mypy cannot type a lambda's default
            else:
                self._told(message)
        if notes:
            error = desk.record([note.event for note in notes])
            problem = Problem.of(error) if error is not None else None
            answers += [pack(Done(note.number, problem=problem)) for note in notes]
        for at in range(0, len(asks), _BATCH):
            answers += _certify(asks[at : at + _BATCH], desk)
        return [b"".join(answers)] if answers else []

    def _told(self, message: Ready) -> None:
        if message.problem is None:
            self._started.set()
        elif self._started.is_set():
            logger.error("enrolment is not served: {}", message.problem.error())
        else:
            raise message.problem.error()


def _guarded(number: int, act: Callable[[], tuple[bytes, bytes]]) -> bytes:
    try:
        data, key = act()
    except SecguardError as error:
        return pack(Done(number, problem=Problem.of(error)))
    return pack(Done(number, data, key))


def _credentials(authority: "Authority", host: str) -> tuple[bytes, bytes]:
    from secguard.service.tls import credentials, find_server

    return credentials(authority, find_server(authority.registry, host))


def _order(ask: Ask) -> "Order":
    from secguard.identity import Order

    if (ask.public is None) == (ask.csr is None):
        raise RefusedError("identity.csr.key", "an order has a request or a key")
    return Order(
        ask.holder,
        ask.profile,
        csr=ask.csr,
        spki=ask.public or b"",
        replace=True,
        renewal=ask.renewal,
        secret=ask.secret,
    )


def _certify(asks: Sequence[Ask], desk: "Desk") -> list[bytes]:
    answers: list[bytes] = []
    orders: list[Order] = []
    numbers: list[int] = []
    for ask in asks:
        try:
            orders.append(_order(ask))
            numbers.append(ask.number)
        except SecguardError as error:
            answers.append(pack(Done(ask.number, problem=Problem.of(error))))
    for number, one in zip(numbers, desk.certify(orders), strict=True):
        if isinstance(one, SecguardError):
            answers.append(pack(Done(number, problem=Problem.of(one))))
        else:
            answers.append(pack(Done(number, one.certificate)))
    return answers
