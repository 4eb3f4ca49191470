"""The lab: zones `int`, `ext` and `dmz` around a firewall, in network namespaces that vanish with their process.

`tight` rules must pass; `leaky` rules hold planted mistakes (`PLANTED`), and each must be named. Nothing leaves the
lab's own namespaces; no root is needed where user namespaces are allowed.
"""

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import msgspec

from secguard.core import Clock, FormatError, Progress, SecguardError, SystemPartError, UsageError, silent
from secguard.isolation.agent.keys import parse_key
from secguard.isolation.lab.host import Request
from secguard.isolation.lab.planted import PLANTED
from secguard.isolation.probes.profiles import PROFILES
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.isolation.runs.process import environment, python
from secguard.isolation.runs.runner import Act, Action, no_act
from secguard.isolation.wire.wire import tool
from secguard.keys import Algorithm, Signer, generate

__all__ = ["KINDS", "PLANTED", "LabResult", "available", "run_lab"]

KINDS = ("tight", "leaky")
LabResult = RunResult
_CHECK_SECONDS = 20
_HOST = "secguard.isolation.lab.host"


def available() -> str:
    """Why the lab cannot run on this machine; empty if it can."""
    try:
        tool("ip", "iproute2")
        tool("nft", "nftables")
        done = subprocess.run(
            python(_HOST, "--check"), env=environment(), capture_output=True, timeout=_CHECK_SECONDS, check=False
        )
        line = msgspec.json.decode(done.stdout.partition(b"\n")[0] or b"{}")
        if done.returncode:
            error = line.get("error", {}) if isinstance(line, dict) else {}
            return " - ".join(filter(None, (error.get("message", "the lab does not start"), error.get("hint"))))
    except SecguardError as error:
        return f"{error.message} - {error.hint}" if error.hint else error.message
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        return f"the lab does not start: {type(error).__name__}"
    return ""


def run_lab(
    kind: str,
    progress: Progress = silent,
    *,
    signer: Signer | None = None,
    clock: Clock | None = None,
    act: Act = no_act,
    rules: str | None = None,
    rules_name: str = "rules",
    policy: str | None = None,
    profiles: Sequence[str] = (),
    actions: Sequence[Action] = (),
) -> LabResult:
    """Build the lab, scan it, take it down, and judge.

    Args:
        kind: `tight` or `leaky`: the firewall's rules.
        progress: called a step.
        signer: signs the result; a key made for this run if None.
        clock: the time of the verdict.
        act: records the run (see `secguard.isolation.runs.runner.run`).
        rules: your own nft rules instead of `kind`'s; interfaces are called int, ext and dmz.
        rules_name: names them in errors.
        policy: your own policy (YAML text) for the same zones.
        profiles: profiles of probes, instead of the policy's.
        actions: commands that break something on purpose at a phase.

    Raises:
        UsageError: an unknown kind, or an unknown profile.
        FormatError: rules that nft refuses; `where` is `rules_name:line`.
        SystemPartError: a tool is missing, or namespaces are not allowed here.
    """
    if kind not in KINDS:
        raise UsageError("isolation.lab.kind", f"no lab {kind[:40]!r}", hint=f"one of: {', '.join(KINDS)}")
    for name in profiles:
        if name not in PROFILES:
            every = ", ".join(PROFILES)
            raise UsageError("isolation.lab.profile", f"no profile {name[:40]!r}", hint=f"one of: {every}")
    tool("ip", "iproute2")
    tool("nft", "nftables")
    folder = files("secguard.isolation") / "rules"
    request = Request(
        rules=rules if rules is not None else (folder / f"{kind}.nft").read_text(encoding="utf-8"),
        policy=policy if policy is not None else (folder / "lab.yaml").read_text(encoding="utf-8"),
        actions=tuple(actions),
        relays=kind == "leaky" and rules is None,
        rules_name=rules_name,
        profiles=tuple(profiles),
    )
    began = time.monotonic()
    process = subprocess.Popen(
        python(_HOST), env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        with contextlib.ExitStack() as stack:
            closing: dict[str, Any] = {}
            assert process.stdin is not None
            assert process.stdout is not None
            _write(process, msgspec.json.encode(request))
            import scapy.layers.inet6  # noqa: F401 - the judge takes hits apart; loaded while the lab is built

            for line in process.stdout:
                said = msgspec.json.decode(line)
                if "progress" in said:
                    progress(*said["progress"])
                elif "planned" in said:
                    closing = stack.enter_context(act(str(said["planned"])))
                    _write(process, b"go")
                elif "error" in said:
                    error = said["error"]
                    kind_of = FormatError if error["code"] == "isolation.lab.rules" else SystemPartError
                    raise kind_of(error["code"], error["message"], hint=error["hint"], where=error["where"])
                elif "done" in said:
                    return _finish(said, closing, signer, clock, began)
            raise SystemPartError("isolation.lab.died", f"the lab ended without a result: {_last_words(process)}")
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _write(process: "subprocess.Popen[bytes]", line: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # a host that ended says why on its output
        process.stdin.write(line + b"\n")
        process.stdin.flush()


def _last_words(process: "subprocess.Popen[bytes]") -> str:
    assert process.stderr is not None
    process.kill()
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no reason given"


def _finish(
    said: Mapping[str, Any], closing: dict[str, Any], signer: Signer | None, clock: Clock | None, began: float
) -> LabResult:
    result = conclude(
        str(said["plan"]).encode(),
        [str(text).encode() for text in said["reports"]],
        [parse_key(said["key"])],
        clock=clock,
        signer=signer or generate(Algorithm.ED25519),
    )
    closing.update(result.summary())
    problems = list(dict.fromkeys([*said["problems"], *result.problems]))
    return replace(result, seconds=round(time.monotonic() - began, 3), problems=problems)
