"""Verifying a whole log, from the bodies up; nothing that is stored is believed.

Every body is held against its commitment, every commitment and hash against the tiles, the tree against the signed
checkpoint, the checkpoint against the anchor, and every stored file against what it must hold.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from secguard.core import Axis, Progress, Throttle, Verdict, finding, judge, silent
from secguard.core.errors import RefusedError, SecguardError
from secguard.ledger.integrate import State, load_state
from secguard.ledger.journal import Journal, Retired
from secguard.ledger.layout import Layout, read_config
from secguard.ledger.note import Checkpoint, NoteKey
from secguard.ledger.tiles import BUNDLE, body_path
from secguard.ledger.verify.check import Check, Mark
from secguard.ledger.verify.ids import check_ids
from secguard.ledger.verify.notes import judge_notes

__all__ = ["verify_log"]

_ATTEMPTS = 10
"""Looks at a log that grows meanwhile."""


def _count_bundles(layout: Layout) -> int:
    number = 0
    while (layout.bodies / body_path(number)).exists():
        number += 1
    return number


def _load(check: Check, journal: Journal) -> State:
    """The state, and the journal from there on; an integrator may move on between the two."""
    layout = check.layout
    state = _state(check)
    for attempt in range(_ATTEMPTS):
        try:
            journal.load(state.size)
        except (RefusedError, Retired) as error:
            latest = _state(check)
            if latest.size == state.size or attempt == _ATTEMPTS - 1:
                where = error.where if isinstance(error, RefusedError) else check.name(layout.journal)
                check.say("ledger.journal.damaged", where, reason=str(getattr(error, "message", error)))
                break
            state = latest
        else:
            break
    return state


def _state(check: Check) -> State:
    try:
        return load_state(check.layout)
    except SecguardError as error:
        found = finding("ledger.state.damaged", check.name(check.layout.state), reason=error.message)
        if found not in check.findings:
            check.findings.append(found)
        return State(_count_bundles(check.layout) * BUNDLE)


def verify_log(
    root: Path,
    keys: Sequence[NoteKey] = (),
    *,
    at: datetime,
    witnessed: Mapping[str, Checkpoint] | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Verify a whole log: tiles, bundles, bodies, journal, checkpoint and anchor; takes no lock and changes nothing.

    Args:
        root: the log's folder.
        keys: keys that the caller believes to be the log's; without any, provenance is unknown.
        at: time of judgement, aware.
        witnessed: the last checkpoints that witnesses cosigned, by witness; their signatures are verified already.
        progress: told the entries done.

    Returns:
        A verdict over integrity, completeness and provenance; every finding names file and index.

    Raises:
        UsageError: there is no log here.
        FormatError: its configuration is damaged.
    """
    layout = Layout(root)
    config = read_config(layout)
    check = Check(layout, str(layout.root))
    report = Throttle(progress)
    signed = list(judge_notes(check, config, keys))
    for name, seen in (witnessed or {}).items():
        check.marks[seen.size].append(Mark(seen, name, witness=True))
    # What is listed before the sizes are read lies within them, also while a writer and an integrator go on.
    public, bodies = list(check.files(layout.public)), list(check.files(layout.bodies))
    journal = Journal(layout.journal)
    try:
        state = _load(check, journal)
        if journal.garbage:
            check.say("ledger.journal.torn", journal.place(), bytes=journal.garbage)
        total = max(journal.size, state.size)
        check.list_files(public, bodies, total)
        done = 0
        for attempt in range(_ATTEMPTS):
            for number in range(done, state.size // BUNDLE):
                check.bundle(number)
                report((number + 1) * BUNDLE, total, "entries")
            done = state.size // BUNDLE
            if state.rows and check.tree.rows != state.rows:
                check.say("ledger.state.damaged", check.name(layout.state), reason="it does not match the tree")
            try:
                check.tail(journal)
            except Retired as error:
                if attempt == _ATTEMPTS - 1:
                    check.say("ledger.journal.damaged", check.name(layout.journal), reason=str(error))
                    break
                state = _load(check, journal)
                total = max(journal.size, state.size)
            else:
                break
        check_ids(check, state.size)
        report(total, total, "entries")
    finally:
        journal.close()
    for size, notes in check.marks.items():
        for _, where, witness in notes:
            code = "ledger.witness.ahead" if witness else "ledger.checkpoint.rollback"
            check.say(code, where, size=size, have=total)
    if signed:
        check.need_partials(min(total, signed[0].size))
    check.findings += check.pruned.judge()
    examined = {Axis.INTEGRITY, Axis.COMPLETENESS}
    if signed and keys:
        examined.add(Axis.PROVENANCE)
    elif not signed:
        check.say("ledger.checkpoint.none", check.name(layout.checkpoint))
    else:
        check.say("ledger.checkpoint.unverified", check.name(layout.checkpoint))
    default = (Axis.INTEGRITY, Axis.COMPLETENESS, Axis.PROVENANCE)
    return judge(f"{config.origin} ({total} entries)", at, examined=examined, findings=check.findings, default=default)
