"""The report on many verdicts: a table of all recordings, and the part on each that is not proven."""

from collections.abc import Sequence

from secguard.core import Outcome
from secguard.report import Findings, Paragraph, Report, Table, Text
from secguard.report.model import Section
from secguard.video.recording import RecordingVerdict
from secguard.video.story import problem_sections
from secguard.video.workers import Answer

__all__ = ["make_overview"]

_MAX_ROWS = 5000
_MAX_PROBLEMS = 40
_WORDS = {
    Outcome.PASS: Text("All recordings are what their cameras signed.", "所有录像均与摄像机签名时一致。"),
    Outcome.FAIL: Text(
        "At least one recording is not what its camera signed, or not complete; each is shown below.",
        "至少有一个录像与签名时不一致或不完整，详见下文。",
    ),
    Outcome.UNKNOWN: Text(
        "Nothing wrong was found, and not everything could be proven; see below what is needed.",
        "未发现问题，但有事项无法证明；下文说明还需要什么。",
    ),
}


def _outcome(answer: Answer) -> Outcome:
    return answer.verdict.verdict.outcome if answer.verdict is not None else Outcome.UNKNOWN


def make_overview(answers: Sequence[Answer], chains: Sequence[tuple[str, RecordingVerdict]] = ()) -> Report:
    """The report on many verdicts, for `secguard.report.write_report`.

    Args:
        answers: what `judge_files` answered.
        chains: recordings judged by their chains, each with its folder.
    """
    order = (Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS)
    outcomes = [_outcome(answer) for answer in answers]
    judged = [*outcomes, *(chain.verdict.outcome for _, chain in chains)]
    worst = next((item for item in order if item in judged), Outcome.UNKNOWN)
    rows = []
    for answer, outcome in sorted(zip(answers, outcomes, strict=True), key=lambda row: order.index(row[1])):
        verdict, error = answer.verdict, answer.error
        told = Text(f"cannot be read: {error.message}", f"无法读取：{error.message}") if error is not None else None
        rows.append(
            [
                str(answer.job.path),
                outcome,
                verdict.frames if verdict else None,
                verdict.gops if verdict else None,
                verdict.device.value if verdict and verdict.device else None,
                told,
            ]
        )
    problems = [answer for answer, outcome in zip(answers, outcomes, strict=True) if outcome is not Outcome.PASS]
    problems = [answer for answer in problems if answer.verdict is not None]
    problems.sort(key=lambda answer: order.index(_outcome(answer)))
    # First the chains: what is missing stands in no row of the table.
    sections: list[Section] = [
        Findings(chain.verdict.findings, Text(f"Recording: {folder}", f"录像链：{folder}")) for folder, chain in chains
    ]
    sections.append(
        Table(
            Text("Recordings", "录像"),
            [
                Text("file", "文件"),
                Text("outcome", "结论"),
                Text("frames", "帧数"),
                Text("GOPs", "画面组数"),
                Text("camera", "摄像机"),
                Text("remark", "备注"),
            ],
            rows[:_MAX_ROWS],
            total=len(rows),
        )
    )
    for answer in problems[:_MAX_PROBLEMS]:
        assert answer.verdict is not None
        sections += problem_sections(answer.verdict, answer.job.path, str(answer.job.path))
    if len(problems) > _MAX_PROBLEMS:
        more = len(problems) - _MAX_PROBLEMS
        sections.append(
            Paragraph(
                [
                    Text(
                        f"{more} more recordings are not proven; verify each with a report of its own.",
                        f"另有 {more} 个录像无法证明，请分别生成报告。",
                    )
                ]
            )
        )
    counts = [(Text("Recordings", "录像"), len(answers))]
    names = (Text("Proven", "已证明"), Text("With violations", "有违规"), Text("Not proven", "无法证明"))
    for item, words in zip((Outcome.PASS, Outcome.FAIL, Outcome.UNKNOWN), names, strict=True):
        counts.append((words, outcomes.count(item)))
    broken = sum(chain.verdict.outcome is Outcome.FAIL for _, chain in chains)
    if broken:
        counts.append((Text("Chains with violations", "有违规的录像链"), broken))
    return Report(
        Text("Video verification", "视频验证"),
        sections,
        outcome=worst,
        summary=_WORDS[worst],
        facts=counts,
        made=answers[0].job.at if answers else None,
    )
