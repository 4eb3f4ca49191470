"""The matrix: what is said of each ordered pair of zones."""

from collections.abc import Mapping

from secguard.isolation.judge.cases import REACHED, CaseResults
from secguard.isolation.judge.codes import pair_of
from secguard.isolation.judge.evidence import Evidence
from secguard.isolation.judge.result import Cell
from secguard.isolation.plan.plan import Plan
from secguard.isolation.sweep.judging import Tally

__all__ = ["Cell", "matrix_of"]


def matrix_of(
    plan: Plan,
    results: CaseResults,
    kinds: Mapping[tuple[str, str], set[str]],
    evidence: Evidence,
    swept: Mapping[tuple[str, str], Tally],
) -> list[Cell]:
    """One cell an ordered pair of zones: counts of cases and sweeps, kinds, outcome, chance of a miss."""
    cells: dict[tuple[str, str], Cell] = {}
    for case in range(len(plan.cases)):
        pair = pair_of(plan, case)
        cell = cells.setdefault(pair, Cell(*pair))
        cell.cases += 1
        cell.failed += results.outcome[case] == "fail"
        cell.unknown += results.outcome[case] == "unknown"
        cell.reached += results.result[case] in REACHED
        loss = max(evidence.loss(plan.cases.src[case]), evidence.loss(plan.cases.dst[case]))
        cell.miss = max(cell.miss, loss**plan.attempts)
    for pair, tally in swept.items():
        cell = cells.setdefault(pair, Cell(*pair))
        cell.cases += tally.cases
        cell.failed += tally.failed
        cell.unknown += tally.unknown
        cell.reached += tally.reached
    for sweep in plan.sweeps:
        cell = cells[plan.agents[sweep.src].zone, sweep.zone]
        loss = max(evidence.loss(agent) for agent in (sweep.src, *sweep.hearing))
        cell.miss = max(cell.miss, loss**plan.attempts)
    for src, dst, _ in plan.uncovered:
        cells.setdefault((src, dst), Cell(src, dst)).unknown += 1
    for pair, cell in cells.items():
        cell.outcome = "fail" if cell.failed else "unknown" if cell.unknown else "pass"
        cell.kinds = sorted({*kinds.get(pair, ()), *(swept[pair].kinds if pair in swept else ())})
    return list(cells.values())
