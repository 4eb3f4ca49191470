"""The signed result: what a run concluded, without its secret; safe to hand out and to keep in the ledger's blobs."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core import FormatError, RefusedError, rfc3339
from secguard.isolation.judge.judge import Judgement
from secguard.isolation.judge.matrix import Cell
from secguard.isolation.plan.plan import Plan
from secguard.isolation.sweep.seen import pack
from secguard.keys import Signer, seal, unseal

__all__ = ["RESULT_TYPE", "SavedFinding", "ScanResult", "case_columns", "open_result", "seal_result"]

RESULT_TYPE = "application/vnd.secguard.isolation.result+json"


class SavedFinding(msgspec.Struct, frozen=True):
    """A finding of a result."""

    code: str
    axis: str
    outcome: str
    where: str
    data: dict[str, Any]


class ScanResult(msgspec.Struct, frozen=True, kw_only=True):
    """A signed result, read again; keys that a later version adds are passed over.

    Attributes:
        run: run ID.
        plan: SHA-256 of the plan's payload.
        policy: SHA-256 of the policy file.
        at: when it was judged.
        outcome: pass, fail or unknown.
        findings: what was found.
        matrix: ordered pairs of zones.
        cases: cases and results as columns (`case_columns`).
        uncovered: (source zone, destination zone, family) that was not probed.
        sweeps: what each sweep was, its probes by result, and in `results` a byte a probe, a position in
            `secguard.isolation.sweep.judging.WORDS`, deflated, base64.
    """

    run: str
    plan: str
    policy: str
    at: datetime
    outcome: Literal["pass", "fail", "unknown"]
    findings: list[SavedFinding] = []
    matrix: list[Cell] = []
    cases: dict[str, list[Any]] = {}
    uncovered: list[tuple[str, str, int]] = []
    sweeps: list[dict[str, Any]] = []


def open_result(data: bytes, keys: Iterable[PublicKeyTypes]) -> ScanResult:
    """Check a signed result.

    Raises:
        FormatError: not a result.
        RefusedError: not signed by one of `keys`.
    """
    payload, key = unseal(data, RESULT_TYPE, keys)
    if key is None:
        raise RefusedError("isolation.result.signature", "the result is not signed by a trusted key")
    try:
        result = msgspec.json.decode(payload, type=ScanResult)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError("isolation.result.format", f"not a result: {str(error)[:160]}") from None
    if result.at.tzinfo is None or len({len(column) for column in result.cases.values()}) > 1:
        raise FormatError("isolation.result.format", "not a result: columns of different length")
    return result


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
