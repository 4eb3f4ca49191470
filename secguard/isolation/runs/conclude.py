"""Concluding: a signed plan and the agents' signed observations, wherever they were made, become a verdict."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import Axis, Clock, RefusedError, SystemClock, Verdict
from secguard.isolation.agent.keys import parse_key
from secguard.isolation.agent.observations import Observations, open_observations
from secguard.isolation.judge.judge import Cell, judge
from secguard.isolation.judge.result import recorded_codes
from secguard.isolation.judge.sealing import case_columns, seal_result
from secguard.isolation.plan.plan import Plan, open_plan
from secguard.isolation.sweep.judging import SweepResult
from secguard.keys import Signer, public_pem

__all__ = ["RunResult", "conclude"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run.

    Attributes:
        verdict: what follows.
        plan: the plan (holds the run's secret).
        digest: SHA-256 of the plan's payload.
        columns: cases and results as columns (`secguard.isolation.judge.sealing.case_columns`).
        matrix: ordered pairs of zones.
        observations: by agent.
        envelopes: signed documents by file name: `plan.json`, `observations-AGENT.json`, `result.json`, and
            `signer.pem`, the public key of the plan's signer.
        seconds: wall time of the run.
        sweeps: results of the sweeps.
        signer: what signed the result, to sign the list of the run's files when they are kept; None if nothing did.
    """

    verdict: Verdict
    plan: Plan
    digest: str
    columns: dict[str, list[Any]]
    matrix: list[Cell]
    observations: list[Observations]
    envelopes: dict[str, bytes]
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    sweeps: list[SweepResult] = field(default_factory=list)
    signer: Signer | None = field(default=None, repr=False)

    def summary(self) -> dict[str, Any]:
        """What the closing event of the run says."""
        result = self.envelopes.get("result.json", b"")
        return {
            "outcome": self.verdict.outcome.value,
            "cases": len(self.plan.cases),
            "swept": sum(item.size for item in self.plan.sweeps),
            "findings": recorded_codes((item.code, item.outcome) for item in self.verdict.findings),
            "result_sha256": hashlib.sha256(result).hexdigest(),
        }


def conclude(
    envelope: bytes,
    reports: Sequence[bytes],
    keys: Iterable[PublicKeyTypes],
    *,
    clock: Clock | None = None,
    signer: Signer | None = None,
    require: Sequence[Axis] = (),
) -> RunResult:
    """Judge a signed plan and the agents' signed observations, wherever they were made.

    Args:
        envelope: the plan.
        reports: one envelope an agent; a missing one makes its cases inconclusive.
        keys: whose signature on the plan counts; the agents' keys stand in the plan.
        clock: the time of the verdict.
        signer: signs the result; without it there is no `result.json`.
        require: narrows the axes that decide.

    Raises:
        FormatError: not a plan, not observations.
        RefusedError: a wrong signature, observations of another run, or two of one agent.
    """
    keys = list(keys)
    plan, digest = open_plan(envelope, keys)
    agent_keys = {item.name: parse_key(item.key) for item in plan.agents if item.key}
    envelopes = {"plan.json": envelope}
    seen: list[Observations] = []
    digests: dict[str, str] = {}
    for data in reports:
        item, item_digest = open_observations(data, plan, digest, agent_keys)
        name = plan.agents[item.agent].name
        if name in digests:
            raise RefusedError(
                "isolation.observations.twice", f"two observations of agent {name}", hint="give one file an agent"
            )
        seen.append(item)
        digests[name] = item_digest
        envelopes[f"observations-{name}.json"] = data
    judgement = judge(plan, digest, seen, (clock or SystemClock()).now(), require=require)
    if len(keys) == 1:
        envelopes["signer.pem"] = public_pem(keys[0])
    if signer is not None:
        envelopes["result.json"] = seal_result(plan, digest, digests, judgement, signer)
    return RunResult(
        verdict=judgement.verdict,
        plan=plan,
        digest=digest,
        columns=case_columns(plan, judgement),
        matrix=judgement.matrix,
        observations=seen,
        envelopes=envelopes,
        problems=[f"{plan.agents[item.agent].name}: {text}" for item in seen for text in item.problems],
        sweeps=judgement.sweeps,
        signer=signer,
    )
