"""The agent over standard input and output, for a controller on the same machine (network namespaces).

Control is lines of JSON. The first line it prints says hello (its addresses and its public key); then it takes `plan`
(the signed envelope), `phase` 1, 2, 3 and `report`. End of input ends it, and so does the death of its parent: an agent
never outlives the scan.
"""

import argparse
import ctypes
import os
import selectors
import signal
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from secguard.core.clock import SystemClock
from secguard.core.errors import SecguardError
from secguard.isolation.agent.answering import wait
from secguard.isolation.agent.keys import parse_key, spki
from secguard.isolation.agent.neighbours import ready
from secguard.isolation.agent.phases import phase
from secguard.isolation.agent.report import report
from secguard.isolation.agent.session import Session
from secguard.isolation.plan.plan import open_plan
from secguard.isolation.wire import wire
from secguard.keys import Algorithm, Signer, generate

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def _say(**values: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(values) + b"\n")
    sys.stdout.buffer.flush()


def _lines(running: list[Session]) -> Iterator[dict[str, Any]]:
    """Commands from standard input; while none comes, the agent keeps answering."""
    buffer = b""
    while True:
        while b"\n" not in buffer:
            with selectors.DefaultSelector() as selector:
                selector.register(0, selectors.EVENT_READ)
                heard = selector.select(0.02 if running else None)
            if heard:
                piece = os.read(0, 1 << 20)
                if not piece:
                    return
                buffer += piece
            elif running:
                wait(running[0], 0)
        line, _, buffer = buffer.partition(b"\n")
        command = msgspec.json.decode(line)
        if isinstance(command, dict):
            yield command


def _serve(name: str, trusted: str, signer: Signer) -> None:
    running: list[Session] = []
    for command in _lines(running):
        word = command.get("op")
        if word == "plan":
            checked, digest = open_plan(str(command["envelope"]).encode(), [parse_key(trusted)], SystemClock().now())
            running.append(Session(checked, digest, name, signer))
            ready(running[0])
            _say(ok="ready", problems=running[0].problems)
        elif word == "phase" and running:
            phase(running[0], int(command["number"]))
            _say(ok="phase")
        elif word == "report" and running:
            _say(ok="report", envelope=report(running[0]).decode())
            return


def main() -> int:
    """Entry point of the agent process; returns its exit code."""
    parser = argparse.ArgumentParser(description="secguard isolation agent")
    parser.add_argument("--name", required=True)
    parser.add_argument("--netns", default="")
    parser.add_argument("--trust", required=True, help="public key of the plan's signer, base64")
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller decides, and closes our input
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options.parent:
        return 2
    try:
        if options.netns:
            wire.enter_namespace(options.netns)
        signer = generate(Algorithm.ED25519)
        addresses = [text for item in wire.interfaces() for text in item.addresses]
        _say(hello=options.name, addresses=addresses, key=spki(signer.public_key()))
        _serve(options.name, options.trust, signer)
    except SecguardError as error:
        _say(error={"code": error.code, "message": error.message, "hint": error.hint, "where": error.where})
        return 2
    except (OSError, ValueError, KeyError) as error:
        _say(error={"code": "isolation.agent.failed", "message": f"{type(error).__name__}: {error}"[:300], "hint": ""})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
