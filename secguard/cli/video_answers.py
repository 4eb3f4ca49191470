"""What `secguard video verify` says: one verdict as a document, and many as one answer, the worst."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secguard.cli.frame import Context, Result, Table
from secguard.core.findings import finding
from secguard.core.verdict import Axis, Finding, Outcome

if TYPE_CHECKING:
    from secguard.events import Receipt
    from secguard.report import Report
    from secguard.video.recording import RecordingVerdict
    from secguard.video.workers import Answer

__all__ = ["Chain", "one_result", "print_answer", "print_chain", "receipt_document", "several_results", "worst"]

_MAX_ROWS = 20
_MAX_FINDINGS = 1000
_WORST = (Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS)


@dataclass(frozen=True, slots=True)
class Chain:
    """The judged chain of a recording: its folder, the answer, and the files that it proves byte for byte."""

    home: Path
    answer: "RecordingVerdict"
    intact: frozenset[Path]


def receipt_document(receipt: "Receipt | None") -> dict[str, Any] | None:
    """A receipt, as the frame prints it."""
    if receipt is None:
        return None
    return {"event_id": receipt.event_id, "index": receipt.index, "origin": receipt.origin}


def _values(answer: "Answer") -> dict[str, Any]:
    """What `--json` tells of one recording beside its verdict."""
    verdict = answer.verdict
    assert verdict is not None
    named = answer.job.expectation.manifest_name
    return {
        "device": verdict.device.value if verdict.device else None,
        "manifest": named if answer.job.expectation.manifest is not None else None,
        "sha256": answer.sha256 or None,
        "codec": verdict.codec,
        "frames": verdict.frames,
        "gops": verdict.gops,
        "nals": verdict.nals,
        "seis": verdict.seis,
        "valid_seis": verdict.valid_seis,
        "slices": verdict.slices,
        "proven": verdict.proven,
        "timeline": list(verdict.timeline.rows()),
        "nal_status": verdict.nal_status,
        **({"clip": verdict.clip.record.summary()} if verdict.clip is not None else {}),
    }


def print_answer(ctx: Context, answer: "Answer", receipt: "Receipt | None") -> None:
    """One verdict as one line of JSON, as soon as it is there."""
    from secguard.cli import render

    line = {"schema": ctx.schema, **_document(answer, ctx.lang), "receipt": receipt_document(receipt)}
    render.write_json(line)


def print_chain(ctx: Context, chain: Chain) -> None:
    """What a recording's chain says, as one more line behind those of its files."""
    from secguard.cli import render

    verdict = chain.answer.verdict
    said = {"exit": verdict.outcome.exit_code, "findings": _findings(verdict.findings, ctx.lang)}
    render.write_json({"schema": ctx.schema, **_told(chain), **said})


def _findings(findings: Iterable[Finding], lang: str) -> list[dict[str, Any]]:
    from secguard.cli.render import finding_document

    return [finding_document(item, lang) for item in findings]


def _document(answer: "Answer", lang: str) -> dict[str, Any]:
    path, error = str(answer.job.path), answer.error
    if answer.verdict is None or error is not None:
        assert error is not None
        said = {"code": error.code, "message": error.message, "hint": error.hint, "where": error.where}
        return {"file": path, "outcome": None, "exit": 2, "axes": {}, "findings": [], "error": said}
    verdict = answer.verdict.verdict
    return {
        "file": path,
        "outcome": verdict.outcome,
        "exit": verdict.outcome.exit_code,
        "axes": verdict.axes,
        "findings": _findings(verdict.findings, lang),
        "data": {"at": verdict.at, **_values(answer)},
    }


def one_result(answer: "Answer", receipt: "Receipt | None", *, streamed: bool) -> Result:
    """The answer about one recording."""
    from secguard.video.story import make_report

    verdict = answer.verdict
    assert verdict is not None
    rows = list(verdict.timeline.rows())
    wrong = [row for row in rows if row["state"] not in {"intact", "sealed"}]
    title = f"{len(rows)} GOPs, {len(wrong)} not as signed" if wrong else f"{len(rows)} GOPs as signed"
    shown = wrong[:_MAX_ROWS] if wrong else rows if len(rows) <= _MAX_ROWS else []
    hidden = f"{len(rows) - len(shown)} GOPs are not listed here; --json and --report FILE.html list all"
    columns = ("gop", "first_frame", "frames", "start", "end", "state", "sei")
    return Result.of(
        verdict.verdict,
        data=_values(answer),
        receipt=receipt_document(receipt),
        tables=[Table(title, columns, [[row[name] for name in columns] for row in shown])] if shown else [],
        lines=[*([] if shown else [title]), *([hidden] if len(shown) < len(rows) else [])],
        jsonl=() if streamed else None,
        report=lambda _: make_report(verdict, path=answer.job.path),
    )


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Fail before unknown before pass; unknown where there is none."""
    seen = set(outcomes)
    return next((item for item in _WORST if item in seen), Outcome.UNKNOWN)


def _outcome(answer: "Answer") -> Outcome:
    return answer.verdict.verdict.outcome if answer.verdict is not None else Outcome.UNKNOWN


def several_results(
    answers: Sequence["Answer"], receipts: "dict[int, Receipt]", chains: "Sequence[Chain]", *, streamed: bool
) -> Result:
    """One answer over many recordings: the worst, and which."""
    findings: list[Finding] = []
    axes: dict[Axis, list[Outcome]] = {}
    sealed = {path for chain in chains for path in chain.intact}
    for answer in answers:
        path = str(answer.job.path)
        if answer.verdict is None and answer.job.path in sealed:
            continue  # a format that is not read here, proven by its hash
        if answer.verdict is None:
            assert answer.error is not None
            findings.append(finding("video.file.unjudged", path, reason=str(answer.error.message)))
            continue
        verdict = answer.verdict.verdict
        for axis, outcome in verdict.axes.items():
            axes.setdefault(axis, []).append(outcome)
        findings += [
            replace(item, where=f"{path}: {item.where}" if item.where else path)
            for item in verdict.findings
            if item.outcome is not Outcome.PASS
        ]
    for item in findings:
        if item.code == "video.file.unjudged":
            axes.setdefault(item.axis, []).append(item.outcome)
    for chain in chains:
        verdict = chain.answer.verdict
        findings += [replace(item, where=f"{chain.home}: {item.where}") for item in verdict.findings]
        for axis, outcome in verdict.axes.items():
            axes.setdefault(axis, []).append(outcome)
    outcomes = [
        Outcome.PASS if answer.verdict is None and answer.job.path in sealed else _outcome(answer) for answer in answers
    ]
    counts = {item.value: outcomes.count(item) for item in _WORST}
    counts["unreadable"] = sum(1 for answer in answers if answer.verdict is None)
    rows = [
        [
            answer.job.path,
            _outcome(answer).value if answer.verdict is not None else "unreadable",
            answer.verdict.frames if answer.verdict else "",
            answer.verdict.gops if answer.verdict else "",
            f"{answer.seconds:.1f}",
        ]
        for answer in answers
    ]
    bad = [row for row in rows if row[1] != Outcome.PASS.value]
    shown = (bad or rows)[: 5 * _MAX_ROWS]
    summary = (
        f"{len(answers)} recordings: {counts['pass']} proven, {counts['fail']} with violations, "
        f"{counts['unknown']} not proven ({counts['unreadable']} of them cannot be read)"
    )
    findings.sort(key=lambda item: _WORST.index(item.outcome))
    return Result(
        outcome=worst([*outcomes, *(chain.answer.verdict.outcome for chain in chains)]),
        axes={axis: worst(axes[axis]) for axis in Axis if axis in axes},
        findings=findings[:_MAX_FINDINGS],
        data={
            "counts": counts,
            "recordings": [_told(chain) for chain in chains],
            "files": [
                {**_document(answer, "en"), "receipt": receipt_document(receipts.get(answer.number))}
                for answer in answers
            ],
        },
        tables=[Table("recordings", ("file", "outcome", "frames", "gops", "seconds"), shown)],
        lines=[summary],
        jsonl=() if streamed else None,
        report=lambda _: _overview(answers, chains),
    )


def _overview(answers: Sequence["Answer"], chains: "Sequence[Chain]") -> "Report":
    from secguard.video.overview import make_overview

    return make_overview(answers, [(str(chain.home), chain.answer) for chain in chains])


def _told(chain: Chain) -> dict[str, Any]:
    """What `--json` tells of one chain beside its verdict."""
    answer = chain.answer
    return {
        "folder": chain.home,
        "recording": answer.recording,
        "device": answer.device or None,
        "outcome": answer.verdict.outcome,
        "axes": answer.verdict.axes,
        "closed": answer.closed,
        "until": answer.until,
        "imported": answer.imported,
        "segments": [
            {"number": item.number, "name": item.name, "file": item.file, "state": item.state}
            for item in answer.segments
        ],
    }
