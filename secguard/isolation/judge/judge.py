"""The judge: plan + observations -> a result for every case, a verdict, and the matrix of zones. Pure functions.

A is an authenticated token at the destination, R an answer at the source.

| A | R | result |
|---|---|---|
| yes | SYN-ACK, authenticated reply of a listener, echo | open |
| yes | RST, port unreachable, authenticated reply of the agent | closed (but reachable) |
| yes | none | one-way |
| yes, inside a tunnel, a fragment, an ICMP error's quote | any | tunnel, fragment, quote |
| yes, with other addresses, or behind a published one | any | translated, or relay after a handshake |
| yes, in a third zone | any | stray |
| no | SYN-ACK, echo, a datagram | accepted: something between answered; never a pass |
| no | RST, ICMP error | rejected, if both ends are healthy |
| unheard of: no sensor covers the target | RST, ICMP error, none | unheard: silence proves nothing |
| no | none | filtered, if both ends are healthy; else inconclusive |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from secguard.core import Axis, Outcome, Verdict, finding
from secguard.core import judge as conclude
from secguard.isolation.agent.observations import Observations
from secguard.isolation.judge.cases import CaseResults, against, result_of
from secguard.isolation.judge.codes import findings, strangers
from secguard.isolation.judge.evidence import Evidence
from secguard.isolation.judge.matrix import Cell, matrix_of
from secguard.isolation.plan.plan import Plan
from secguard.isolation.sweep.judging import SweepJudgement, SweepResult, judge_sweeps

__all__ = ["AXES", "CaseResults", "Cell", "Judgement", "judge"]

AXES = (Axis.CONFORMANCE, Axis.COVERAGE, Axis.INTEGRITY)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything the judge says."""

    verdict: Verdict
    results: CaseResults
    matrix: list[Cell]
    sweeps: list[SweepResult] = field(default_factory=list)


def judge(
    plan: Plan, digest: str, seen: Sequence[Observations], at: datetime, *, require: Sequence[Axis] = ()
) -> Judgement:
    """Judge a run.

    Args:
        plan: what was to be done.
        digest: SHA-256 of the plan, the verdict's subject.
        seen: observations, each already checked by `open_observations`; a missing agent is a finding.
        at: time of judgement, aware.
        require: narrows the axes that decide.

    Returns:
        Verdict over conformance (nothing passes that may not, what may does), coverage (every silence is backed by
        proof of health) and integrity (no forged or foreign tokens), with results and matrix.
    """
    evidence = Evidence(plan, seen)
    results = CaseResults()
    outcomes: list[str] = []
    for case, expect in enumerate(plan.cases.expect):
        result, detail = result_of(evidence, case)
        outcome = against(expect, result, evidence.words.get(case, set()))
        if outcome == "unanswered" and (reason := evidence.unhealthy(case)):
            outcome, result, detail = "unknown", "inconclusive", reason  # nobody was there to hear the answer
        outcomes.append(outcome)
        results.result.append(result)
        results.detail.append(detail)
        results.outcome.append(outcome if outcome in {"pass", "unknown"} else "fail")
    sweeps = (
        judge_sweeps(plan, seen, evidence.lost_canaries, evidence.apart) if plan.sweeps else SweepJudgement([], [], {})
    )
    found, kinds = findings(plan, results, outcomes)
    found += sweeps.findings
    found += strangers(plan, evidence)
    found += [
        finding("isolation.coverage.family", f"{src} -> {dst}", src=src, dst=dst, family=f"IPv{family}")
        for src, dst, family in plan.uncovered
    ]
    found += [finding("isolation.policy.expired", name, flow=name) for name in plan.expired]
    if plan.hostile:
        found.append(finding("isolation.policy.hostile"))
    found += [
        finding("isolation.coverage.sampled", name, flow=name, named=named, probed=probed)
        for name, (named, probed) in plan.sampled.items()
    ]
    examined = {Axis.COVERAGE}
    if len(evidence.by_agent) == len(plan.agents):
        examined.add(Axis.INTEGRITY)
    if Outcome.UNKNOWN.value not in results.outcome and not sweeps.unknown:
        examined.add(Axis.CONFORMANCE)
    order = {Outcome.FAIL: 0, Outcome.UNKNOWN: 1, Outcome.PASS: 2}
    found.sort(key=lambda item: order[item.outcome])
    verdict = conclude(f"plan sha256:{digest}", at, examined=examined, findings=found, default=AXES, require=require)
    return Judgement(verdict, results, matrix_of(plan, results, kinds, evidence, sweeps.tallies), sweeps.results)
