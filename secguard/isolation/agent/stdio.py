"""The agent over standard input and output: for a controller on the same machine, and behind the agent's HTTPS door.

Control is lines (`secguard.isolation.agent.control`); the first one out is the hello. End of input ends it, and so does
the death of its parent: an agent never outlives the scan.
"""

import argparse
import ctypes
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from secguard.core.clock import SystemClock
from secguard.core.errors import FormatError, SecguardError
from secguard.isolation.agent.control import MAX_MESSAGE, Problem, answer
from secguard.isolation.agent.credentials import Trust
from secguard.isolation.agent.desk import Desk, Self
from secguard.isolation.agent.keys import parse_key, spki
from secguard.isolation.wire import wire
from secguard.keys import Algorithm, KeySigner, Signer, generate

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1
_PIECE = 1 << 20
_IDLE = 0.02  # seconds: while no order comes, the agent keeps answering probes


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _lines() -> Iterator[bytes | None]:
    """Lines of standard input; None while none comes."""
    pieces: list[bytes] = []
    size = 0
    while True:
        ready, _, _ = select.select([0], [], [], _IDLE)
        if not ready:
            yield None
            continue
        piece = os.read(0, _PIECE)
        if not piece:
            return
        while b"\n" in piece:
            end, _, piece = piece.partition(b"\n")
            yield b"".join([*pieces, end])
            pieces, size = [], 0
        pieces.append(piece)
        size += len(piece)
        if size > MAX_MESSAGE:
            raise FormatError("isolation.control.large", f"a message of more than {MAX_MESSAGE} bytes")


def _key(descriptor: int) -> Signer:
    """The key that the parent hands over (PKCS#8 in PEM, in clear, on no disk), or one made for this run."""
    if descriptor < 0:
        return generate(Algorithm.ED25519)
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    with open(descriptor, "rb") as file:
        return KeySigner(load_pem_private_key(file.read(1 << 16), None))


def _state(options: argparse.Namespace) -> Path | None:
    """Where rounds are kept: as told, else beside what the agent remembers."""
    if options.state is not None or options.memory is None:
        return options.state  # type: ignore[no-any-return] # a Path, or None
    return Path(options.memory, "rounds")


def main() -> int:
    """Entry point of the agent process; returns its exit code."""
    parser = argparse.ArgumentParser(description="secguard isolation agent")
    parser.add_argument("--name", required=True)
    parser.add_argument("--zone", default="")
    parser.add_argument("--netns", default="")
    parser.add_argument("--trust", action="append", default=[], help="public key of a plan's signer, base64")
    parser.add_argument("--root", type=Path, action="append", default=[], help="root certificate of plans' signers")
    parser.add_argument("--crl", type=Path, action="append", default=[], help="revocation lists")
    parser.add_argument("--key-descriptor", type=int, default=-1, help="open file with the agent's key")
    parser.add_argument("--certificate", default="", help="SHA-256 of the agent's certificate")
    parser.add_argument("--memory", type=Path, help="folder of the runs that were begun")
    parser.add_argument("--state", type=Path, help="folder of the rounds of sweeps that were kept")
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller decides, and closes our input
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options.parent:
        return 2
    signer = _key(options.key_descriptor)
    try:
        if options.netns:
            wire.enter_namespace(options.netns)
        me = Self(options.name, signer, certificate=options.certificate, zone=options.zone)
        trust = Trust([parse_key(text) for text in options.trust], options.root, options.crl)
        desk = Desk(me, trust, SystemClock(), _say, options.memory, state=_state(options))
        desk.hello()
    except SecguardError as error:
        problem = Problem(error.code, error.message, error.hint, error.where)
        key = spki(signer.public_key())
        said = answer(signer, op="hello", agent=options.name, key=key, certificate=options.certificate, error=problem)
        _say(said)
        return 2
    try:
        desk.serve(_lines())
    except SecguardError:
        return 2  # it was told
    return 0


if __name__ == "__main__":
    sys.exit(main())
