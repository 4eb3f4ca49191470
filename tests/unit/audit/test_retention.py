"""The retention policy and holds, apart from the disk."""

import contextlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.audit.retention import (
    RetentionPolicy,
    add_hold,
    load_policy,
    plan_prune,
    prune,
    read_holds,
    release_hold,
)
from secguard.audit.retention.holds import hold_query
from secguard.core import describe, finding, hint
from secguard.core.errors import FormatError, RefusedError, SecguardError, UsageError
from secguard.events import Actor, Assurance, Event
from secguard.ledger import Ledger

POLICY = Path(__file__).parents[3] / "policies" / "retention.yaml"
NOW = datetime(2026, 11, 1, 8, tzinfo=UTC)


def policy(days: int = 190, rules: tuple[tuple[str, int], ...] = (), keep: tuple[str, ...] = ()) -> RetentionPolicy:
    return RetentionPolicy(days, rules, keep, "0" * 64)


def test_the_policy_that_is_shipped() -> None:
    shipped = load_policy(POLICY)
    assert shipped.days == 190
    assert shipped.short is None
    assert shipped.days_of("video.viewed") == 190
    assert shipped.days_of("video.exported") == 1095
    assert shipped.days_of("evidence.exported") == 3650
    assert shipped.days_of("certificate.issued") is None
    assert all(shipped.days_of(kind) is None for kind in ("audit.pruned", "audit.held", "audit.released"))


def test_records_of_deletion_are_kept_whatever_the_policy_says() -> None:
    everything = policy(1, (("*", 1), ("audit.*", 1)))
    assert everything.days_of("audit.pruned") is None
    assert everything.days_of("audit.searched") == 1
    assert everything.short == 1
    told = finding("audit.retention.short", days=1, minimum=184)
    assert "1 days" in describe(told)
    assert hint(told, "zh")


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_file_is_a_policy_or_refused_with_its_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("policy") / "retention.yaml"
    for content in (data, b"retention: 1\ndays: " + data, b"retention: 1\nkinds: [" + data + b"]\n"):
        path.write_bytes(content)
        with contextlib.suppress(FormatError):
            load_policy(path)


def test_expired_by_kind_and_time(log, make) -> None:
    old, fresh = NOW - timedelta(days=200), NOW - timedelta(days=189)
    log.record(
        [
            make(0, time=old),
            make(1, time=fresh),
            make(2, time=old, kind="video.exported"),
            make(3, time=NOW - timedelta(days=1200), kind="video.exported"),
            make(4, time=old, kind="config.changed"),
        ]
    )
    rules = policy(190, (("video.exp*", 1095),), ("config.*",))
    plan = plan_prune(log, rules, NOW)
    assert (list(plan.expired), list(plan.unfinished), plan.gone) == ([0, 3], [], 0)
    assert (plan.kinds, plan.oldest) == ({"video.viewed": 1, "video.exported": 1}, NOW - timedelta(days=1200))
    log.bodies[0] = None
    record = Event(id="r", kind="audit.pruned", time=NOW, actor=Actor(name="a"), data={"indexes": [[0, 0], [3, 99]]})
    log.record([record])
    plan = plan_prune(log, rules, NOW)
    assert (list(plan.expired), list(plan.unfinished), list(plan.stale), plan.gone) == ([], [3], [0, 3], 1)
    assert list(plan_prune(log, rules, NOW, settled=6).stale) == [3]
    nonsense = Event(id="s", kind="audit.pruned", time=NOW, actor=Actor(name="a"), data={"indexes": "all"})
    log.record([nonsense])
    assert list(plan_prune(log, rules, NOW).unfinished) == [3]


def test_a_time_that_a_source_states_has_nothing_deleted_early(log, make, clock, auditor) -> None:
    ages = (400, 300, 100)
    mark, received, late = (NOW - timedelta(days=days) for days in ages)
    forged = NOW - timedelta(days=4000)
    auditor = msgspec.structs.replace(auditor, assurance=Assurance.OS_USER)
    own = Event(id="own", kind="import.started", time=mark, actor=auditor)

    def came(number: int, via: object) -> Event:
        return make(number, time=forged, data={"via": via})

    log.record([make(0, time=forged), own, make(1, time=forged), make(2, time=NOW + timedelta(days=9))])
    log.record([came(3, {"received": received.isoformat()}), came(4, {"received": late.isoformat()})])
    log.record([came(5, "x"), came(6, {"received": 7}), came(7, {"received": forged.isoformat()})])
    log.record([Event(id="own-2", kind="audit.searched", time=late, actor=auditor), make(8, time=forged)])
    log.record([Event(id="own-3", kind="audit.searched", time=NOW, actor=auditor)])  # else the clock would be doubted
    assert list(plan_prune(log, policy(), NOW).expired) == [0, 1, 2, 4, 6, 7, 8]
    stated = msgspec.structs.replace(policy(), stated=True)
    assert list(plan_prune(log, stated, NOW).expired) == [0, 1, 2, 4, 5, 6, 7, 8, 10]


def test_holds_come_and_go(log, make, clock, auditor) -> None:
    log.record([make(k, time=NOW - timedelta(days=300), case="案7" if k == 2 else "") for k in range(4)])
    hold = add_hold(log, clock, auditor, hold_query(case="案7"), case="案7", reason="侦办", approver="局长")
    relative = add_hold(log, clock, auditor, "id:e-3 AND time<=now-1d", case="案8", zone=480)
    assert [one.id for one in read_holds(log)] == [hold.id, relative.id]
    assert (hold.approver, relative.zone) == ("局长", 480)
    assert list(plan_prune(log, policy(), NOW).expired) == [0, 1]
    ended = release_hold(log, clock, auditor, hold.id, reason="结案")
    assert ended.released == NOW
    assert [one.released for one in read_holds(log)] == [NOW, None]
    plan = plan_prune(log, policy(), NOW)
    assert (list(plan.expired), plan.held, list(plan.holds)) == ([0, 1, 2], {relative.id: 1}, [relative.id])
    with pytest.raises(UsageError) as again:
        release_hold(log, clock, auditor, hold.id, reason="x")
    assert again.value.code == "audit.hold.unknown"
    for wrong in (
        lambda: release_hold(log, clock, auditor, relative.id, reason=""),
        hold_query,
        lambda: hold_query(query="a) OR (b", camera="x"),
        lambda: hold_query(period="2026-10 OR *", camera="x"),
    ):
        with pytest.raises(UsageError):
            wrong()


@settings(max_examples=80)
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=10))
def test_any_words_are_a_hold_or_refused(case: str, camera: str, period: str) -> None:
    from secguard.audit import parse

    with contextlib.suppress(SecguardError):
        parse(hold_query(case=case, camera=camera, period=period), now=NOW, zone=UTC)


def test_a_hold_that_is_set_while_a_run_goes_on_keeps_its_events(
    tmp_path: Path, clock, auditor, make, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["secguard.audit.retention.prune"]
    plan = module.plan_prune

    def planned(log: Ledger, *args: Any, **options: Any) -> Any:
        made = plan(log, *args, **options)
        add_hold(log, clock, auditor, "id:e-1", case="案7")
        return made

    told: list[int] = []
    index: Any = type("Index", (), {"forget": staticmethod(lambda seqs: told.extend(seqs) or len(seqs))})
    with Ledger.create(tmp_path / "log", "log.example/1", anchor=tmp_path / "anchor") as log:
        log.record([make(k, time=clock.now() - timedelta(days=300)) for k in range(3)])
        with monkeypatch.context() as patch:
            patch.setattr(module, "plan_prune", planned)
            done = prune(log, index, policy(), clock, auditor, state=tmp_path / "state.json")
        assert (done.deleted, told, sum(done.plan.held.values())) == (2, [0, 2], 1)
        assert [body is None for body in next(log.scan(0, 3)).bodies] == [True, False, True]
        (hold,) = read_holds(log)
        assert prune(log, index, policy(), clock, auditor, state=tmp_path / "state.json").deleted == 0
        release_hold(log, clock, auditor, hold.id, reason="结案")
        assert prune(log, index, policy(), clock, auditor, state=tmp_path / "state.json").deleted == 1


def test_what_the_index_could_not_forget_is_said_and_told_again(tmp_path: Path, clock, auditor, make) -> None:
    """As with a search server whose account may not delete."""

    class Deaf:
        def __init__(self) -> None:
            self.told: list[list[int]] = []

        def forget(self, seqs: list[int]) -> int:
            self.told.append(list(seqs))
            if len(self.told) < 3:
                raise RefusedError("audit.elastic.forbidden", "the account may not delete documents")
            return len(seqs)

    state, index = tmp_path / "state.json", Deaf()
    with Ledger.create(tmp_path / "log", "log.example/1", anchor=tmp_path / "anchor") as log:
        log.record([make(k, time=clock.now() - timedelta(days=300)) for k in range(3)])
        for turn in range(4):
            done = prune(log, index, policy(), clock, auditor, state=state)
            assert done.deleted == (0 if turn else 3)
            assert [item.code for item in done.findings] == (["audit.prune.index"] if turn < 2 else [])
        assert next(log.scan(0, 3)).bodies == [None] * 3
    assert index.told == [[0, 1, 2]] * 3, "until it has been told, and not again"
    told = finding("audit.prune.index", reason="the account may not delete")
    assert "may not delete" in describe(told)
    assert "audit reindex" in hint(told, "zh")


def test_a_record_of_a_day_with_a_wrong_clock_neither_stops_nor_frees_a_later_run(log, make, auditor) -> None:
    auditor = msgspec.structs.replace(auditor, assurance=Assurance.OS_USER)
    wrong = NOW + timedelta(days=9000)
    log.record([make(0, time=NOW - timedelta(days=300))])
    for number, time in enumerate((NOW, wrong, NOW)):
        log.record([Event(id=f"own-{number}", kind="audit.searched", time=time, actor=auditor)])
    assert list(plan_prune(log, policy(), NOW).expired) == [0]
    with pytest.raises(RefusedError) as doubted:
        plan_prune(log, policy(), wrong)
    assert doubted.value.code == "audit.prune.clock"
