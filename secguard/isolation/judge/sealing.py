"""Writes the signed result of a run; `secguard.isolation.judge.result` reads it."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from secguard.core import rfc3339
from secguard.isolation.judge.judge import Judgement
from secguard.isolation.judge.result import RESULT_TYPE
from secguard.isolation.plan.plan import Plan
from secguard.isolation.sweep.seen import pack
from secguard.keys import Signer, seal

__all__ = ["case_columns", "seal_result"]


def case_columns(plan: Plan, judgement: Judgement) -> dict[str, list[Any]]:
    """Cases and results as columns: zones, family, protocol, ports, profile, expectation, result, outcome, detail."""
    cases, results = plan.cases, judgement.results
    return {
        "src": [plan.agents[index].zone for index in cases.src],
        "dst": [plan.agents[index].zone for index in cases.dst],
        "family": cases.family,
        "profile": cases.profile,
        "protocol": cases.protocol,
        "sport": cases.sport,
        "dport": cases.dport,
        "target": cases.target,
        "expect": cases.expect,
        "flow": cases.flow,
        "result": results.result,
        "outcome": results.outcome,
        "detail": results.detail,
        "kind": results.kind,
    }


def seal_result(
    plan: Plan, digest: str, observations: Mapping[str, str], judgement: Judgement, signer: Signer
) -> bytes:
    """Sign a result.

    Args:
        plan: the plan.
        digest: SHA-256 of its payload.
        observations: agent -> SHA-256 of its observations' payload.
        judgement: what the judge said.
        signer: the operator's key, or the run's.
    """
    verdict = judgement.verdict
    document = {
        "v": 1,
        "run": plan.run,
        "plan": digest,
        "policy": plan.policy,
        "not_before": rfc3339(plan.not_before),
        "not_after": rfc3339(plan.not_after),
        "observations": dict(observations),
        "at": rfc3339(verdict.at),
        "outcome": verdict.outcome,
        "axes": verdict.axes,
        "findings": [
            {"code": f.code, "axis": f.axis, "outcome": f.outcome, "where": f.where, "data": dict(f.data)}
            for f in verdict.findings
        ],
        "matrix": judgement.matrix,
        "cases": case_columns(plan, judgement),
        "sweeps": [{**item.row(), "results": pack(item.codes)} for item in judgement.sweeps],
        "agents": [{"name": a.name, "zone": a.zone, "addresses": a.addresses} for a in plan.agents],
        "uncovered": plan.uncovered,
        "cases_sha256": hashlib.sha256(msgspec.json.encode(plan.cases)).hexdigest(),
    }
    return seal(msgspec.json.encode(document), RESULT_TYPE, signer)
