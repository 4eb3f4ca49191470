"""Sweeps judged: the table, health round by round, what findings name; packed columns, the journal, their bounds."""

import zlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import Outcome, RefusedError, describe
from secguard.isolation.agent.observations import Answers, Arrivals, Beacons, Observations, Strange, open_observations
from secguard.isolation.judge.judge import Judgement, judge
from secguard.isolation.plan.compiler import compile_plan
from secguard.isolation.plan.plan import AgentInfo, Plan
from secguard.isolation.plan.sweeps import rounds
from secguard.isolation.policy.policy import load_policy
from secguard.isolation.sweep.grid import Grid
from secguard.isolation.sweep.journal import Journal, Record, Slice, journal_path
from secguard.isolation.sweep.names import name_probes, port_text
from secguard.isolation.sweep.seen import (
    ANSWERS,
    CHANGED,
    HEALTHY,
    HINT,
    Round,
    Swept,
    SweptColumns,
    check_swept,
    pack,
    unpack,
)
from secguard.keys import Algorithm, generate

NOW = datetime(2026, 10, 1, tzinfo=UTC)
KEYS = [generate(Algorithm.ED25519) for _ in range(3)]
INT, EXT, DMZ = 0, 1, 2
POLICY = load_policy(
    b"""\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  int:
    ipBlocks: [{cidr: 10.1.0.0/16}]
    agents: [{name: a-int, covers: [10.1.1.0/24]}]
    targets: [{cidr: 10.1.1.0/24, tcp: [22, 80, 8000-8009], udp: [161], icmp: true}, {cidr: 10.1.2.0/28, tcp: [22]}]
  ext: {ipBlocks: [{cidr: 10.2.0.0/16}], agents: [a-ext]}
  dmz: {ipBlocks: [{cidr: 10.3.0.0/16}], agents: [a-dmz]}
profiles: []
limits: {attempts: 2, ratePps: 1000}
"""
)
AGENTS = tuple(
    AgentInfo(f"a-{zone}", zone, (f"10.{number + 1}.0.2",), "k") for number, zone in enumerate(("int", "ext", "dmz"))
)


class World:
    """A run of sweeps in which everything is healthy and nothing passes, until a test changes it."""

    def __init__(self) -> None:
        self.plan: Plan = compile_plan(POLICY, AGENTS, NOW)
        self.rounds = rounds(self.plan.sweeps, self.plan.attempts, self.plan.rate)
        marks = {"4": HEALTHY}
        self.swept = {
            agent: Swept(rounds=[Round(number=n, began=0, marks=dict(marks)) for n in range(len(self.rounds))])
            for agent in (INT, EXT, DMZ)
        }
        sizes = [sweep.size for sweep in self.plan.sweeps]
        self.left = [np.ones(size, np.bool_) for size in sizes]
        self.answers = [np.zeros(size, np.uint8) for size in sizes]
        self.heard = {agent: [np.zeros(size, np.uint16) for size in sizes] for agent in (INT, EXT, DMZ)}
        self.silent: set[int] = set()

    def sweep(self, protocol: str = "tcp", src: int = EXT, covered: bool = True) -> int:
        return next(
            number
            for number, sweep in enumerate(self.plan.sweeps)
            if (sweep.protocol, sweep.src, bool(sweep.hearing)) == (protocol, src, covered)
        )

    def number(self, index: int, host: str, port: int = 0) -> int:
        from secguard.isolation.probes.headers import packed

        grid = Grid(self.plan.sweeps[index], bytes.fromhex(self.plan.secret), bytes.fromhex(self.plan.run))
        found = int(grid.find(np.frombuffer(packed(host), np.uint8)[None], np.array([port]))[0])
        assert found >= 0
        return found

    def observations(self) -> list[Observations]:
        seen = []
        for agent, swept in self.swept.items():
            if agent in self.silent:
                continue
            swept.columns = []
            for index, sweep in enumerate(self.plan.sweeps):
                if sweep.src == agent:
                    item = SweptColumns(sweep=index, left=pack(self.left[index]), answers=pack(self.answers[index]))
                else:
                    item = SweptColumns(sweep=index, heard=pack(self.heard[agent][index]))
                swept.columns.append(item)
            check_swept(swept, self.plan, agent)
            seen.append(
                Observations(
                    run=self.plan.run, plan="d", agent=agent, started=0, ended=1, egress=[], arrivals=Arrivals(),
                    answers=Answers(), hints=[], strange=Strange(), beacons={"4": Beacons([4] * 3, [4] * 3, [4] * 3)},
                    drops=0, problems=[], packets=[], swept=swept,
                )
            )  # fmt: skip
        return seen

    def judge(self) -> Judgement:
        judgement = judge(self.plan, "d", self.observations(), NOW)
        for finding in judgement.verdict.findings:
            for lang in ("en", "zh"):
                assert "<" not in describe(finding, lang), "every value that a text names is there"
        return judgement


def _codes(judgement: Judgement) -> set[str]:
    told = {"isolation.coverage.one-sided", "isolation.coverage.swept"}
    codes = {finding.code for finding in judgement.verdict.findings}
    assert told <= codes, "10.1.2.0/28 has no sensor: said every time"
    return codes - told


def test_silence_where_all_is_healthy_is_filtered() -> None:
    judgement = World().judge()
    assert _codes(judgement) == set()
    covered = [item for item in judgement.sweeps if item.covered]
    assert all(set(item.counts) == {"filtered"} for item in covered)
    assert judgement.verdict.outcome is Outcome.UNKNOWN, "the block without a sensor stays unknown"
    assert [item.counts for item in judgement.sweeps if not item.covered] == [{"unheard": 14}] * 2


TABLE = [
    # arrived (attempt bits), answers, result, code
    (1, ["syn-ack"], "open", "isolation.leak.open"),
    (2, ["rst"], "closed", "isolation.leak.closed"),
    (3, [], "one-way", "isolation.leak.one-way"),
    (3, ["unreachable"], "one-way", "isolation.leak.one-way"),
    (1, ["rst", "syn-ack"], "open", "isolation.leak.open"),
    (CHANGED, [], "translated", "isolation.leak.translated"),
    (0, ["reply-open"], "open", "isolation.leak.open"),
    (0, ["reply-closed"], "closed", "isolation.leak.closed"),
    (0, ["syn-ack"], "accepted", "isolation.case.accepted"),
    (0, ["echo"], "accepted", "isolation.case.accepted"),
    (0, ["rst"], "rejected", ""),
    (0, ["prohibited"], "rejected", ""),
    (HINT, [], "inconclusive", "isolation.case.hint"),
    (HINT, ["rst"], "inconclusive", "isolation.case.hint"),
    (HINT | 1, [], "one-way", "isolation.leak.one-way"),
]


@pytest.mark.parametrize(("heard", "answers", "result", "code"), TABLE)
def test_the_table(heard: int, answers: list[str], result: str, code: str) -> None:
    world = World()
    index = world.sweep()
    number = world.number(index, "10.1.1.7", 80)
    world.heard[INT][index][number] = heard
    world.answers[index][number] = sum(ANSWERS[word] for word in answers)
    judgement = world.judge()
    assert judgement.sweeps[index].counts.get(result) == 1
    assert _codes(judgement) == ({code} if code else set())
    if code:
        finding = next(item for item in judgement.verdict.findings if item.code == code)
        assert finding.data["probes"] == "10.1.1.7 TCP 80"
        assert (finding.data["src"], finding.data["dst"], finding.data["cases"]) == ("ext", "int", 1)
        kind = code.removeprefix("isolation.")
        assert kind in next(cell for cell in judgement.matrix if cell.src == "ext").kinds


def test_nothing_silent_is_a_pass_once_something_answered_for_it() -> None:
    world = World()
    index = world.sweep()
    world.answers[index][:] = ANSWERS["syn-ack"]
    judgement = world.judge()
    assert set(judgement.sweeps[index].counts) == {"accepted"}
    assert judgement.verdict.outcome is Outcome.UNKNOWN


def test_who_answers_where_no_sensor_is() -> None:
    world = World()
    index = world.sweep(covered=False)
    world.answers[index][:3] = ANSWERS["syn-ack"], ANSWERS["rst"], ANSWERS["echo"]
    judgement = world.judge()
    assert judgement.sweeps[index].counts == {"answered": 2, "unheard": 12}
    assert _codes(judgement) == {"isolation.leak.answered"}
    assert judgement.verdict.outcome is Outcome.FAIL


def test_icmp_and_strays_are_named() -> None:
    world = World()
    index = world.sweep("icmp")
    world.heard[INT][index][5] = 1
    assert _codes(world.judge()) == {"isolation.leak.icmp"}
    world = World()
    index = world.sweep("udp")
    world.heard[DMZ][index][5] = 1
    judgement = world.judge()
    assert _codes(judgement) == {"isolation.leak.stray"}
    assert "dmz" in describe(next(f for f in judgement.verdict.findings if f.code == "isolation.leak.stray"))


HEALTH = {
    "next hop": (INT, {"marks": {"4": 14}}, "isolation.health.next-hop"),
    "next hop at the end": (EXT, {"marks": {"4": 11}}, "isolation.health.next-hop"),
    "beacon": (INT, {"marks": {"4": 13}}, "isolation.health.beacon"),
    "drops": (INT, {"drops": 1}, "isolation.health.drops"),
    "the sender's drops": (EXT, {"drops": 1}, "isolation.health.drops"),
}


@pytest.mark.parametrize("name", HEALTH)
def test_an_outage_makes_its_round_inconclusive_and_no_other(name: str) -> None:
    agent, change, code = HEALTH[name]
    world = World()
    assert len(world.rounds) > 1
    world.swept[agent].rounds[1] = msgspec.structs.replace(world.swept[agent].rounds[1], **change)
    judgement = world.judge()
    assert _codes(judgement) == {code}
    lost = sum(item.counts.get("inconclusive", 0) for item in judgement.sweeps)
    pieces = [piece for src, mine in world.rounds[1].items() for piece in mine if agent in (INT, src)]
    assert lost == sum(piece.last - piece.first for piece in pieces if world.plan.sweeps[piece.sweep].hearing)


def test_a_leak_stays_a_leak_in_a_bad_round() -> None:
    world = World()
    index = world.sweep()
    world.swept[INT].rounds = []
    world.heard[INT][index][:] = 1
    judgement = world.judge()
    assert judgement.sweeps[index].counts == {"one-way": world.plan.sweeps[index].size}


def test_what_did_not_leave_and_who_did_not_report() -> None:
    world = World()
    index = world.sweep()
    world.left[index][:10] = False
    judgement = world.judge()
    assert judgement.sweeps[index].counts["inconclusive"] == 10
    assert _codes(judgement) == {"isolation.health.egress"}
    world = World()
    world.silent = {INT}
    judgement = world.judge()
    assert "isolation.health.agent" in _codes(judgement)
    assert not any("filtered" in item.counts for item in judgement.sweeps)


def test_repeated_arrivals_are_told() -> None:
    world = World()
    world.swept[INT].repeated = 4
    assert _codes(world.judge()) == {"isolation.token.replayed"}


def test_names_are_short_whatever_was_found() -> None:
    world = World()
    index = world.sweep()
    grid = Grid(world.plan.sweeps[index], bytes.fromhex(world.plan.secret), bytes.fromhex(world.plan.run))
    table = np.zeros((len(grid.addresses), len(grid.ports)), np.bool_)
    table[:, 2:] = True
    assert name_probes(grid, table.ravel()) == ["10.1.1.1-254 TCP 8000-8009"]
    table[10, :] = True
    assert name_probes(grid, table.ravel()) == [
        "10.1.1.1-10, 10.1.1.12-254 TCP 8000-8009", "10.1.1.11 TCP 22, 80, 8000-8009",
    ]  # fmt: skip
    noise = np.random.default_rng(1).integers(0, 2, table.size).astype(np.bool_)
    assert sum(map(len, name_probes(grid, noise))) < 1500
    assert port_text([(1, 1), (3, 4)], 1) == "1 (+1)"


# Packed columns.


@given(st.integers(1, 200), st.sampled_from(["?", "u1", "<u2"]), st.integers(0, 2**32))
def test_columns_come_back(count: int, kind: str, seed: int) -> None:
    column = np.random.default_rng(seed).integers(0, 2 if kind == "?" else 200, count).astype(kind)
    assert unpack(pack(column), count, kind).tolist() == column.tolist()
    assert unpack(b"", count, kind).tolist() == [0] * count


@given(st.binary(max_size=100))
def test_bent_columns_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="column"):
        unpack(data + b"x", 1000, "u1")


@pytest.mark.parametrize("count", [99, 101])
def test_a_column_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="column of another length"):
        unpack(zlib.compress(bytes(100)), count, "u1")


def test_a_bomb_inflates_no_further_than_its_column() -> None:
    bomb = zlib.compress(bytes(1 << 26), 1)
    with pytest.raises(ValueError, match="column of another length"):
        unpack(bomb, 1000, "u1")


REFUSED = {
    "a round twice": Swept(rounds=[Round(number=0, began=0)] * 2),
    "a round too far": Swept(rounds=[Round(number=10_000, began=0)]),
    "a round of no family": Swept(rounds=[Round(number=0, began=0, marks={"5": 1})]),
    "a sweep twice": Swept(columns=[SweptColumns(sweep=0)] * 2),
    "no such sweep": Swept(columns=[SweptColumns(sweep=99)]),
    "answers at the listener": Swept(columns=[SweptColumns(sweep=0, answers=b"x")]),
    "too many packets": Swept(packets=[(0, 0, False, "")] * 20_001),
    "a long packet": Swept(packets=[(0, 0, False, "00" * 600)]),
    "a packet of no sweep": Swept(packets=[(1 << 30, 0, False, "")]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_observations_that_do_not_fit_the_plan_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_swept(REFUSED[name], World().plan, INT)


def test_a_column_that_does_not_fit_is_refused_with_its_observations() -> None:
    world = World()
    seen = world.observations()[0]
    seen.swept.columns[0].heard = zlib.compress(bytes(3))
    key = KEYS[0]
    with pytest.raises(Exception, match="column") as caught:
        open_observations(seen.seal(key), world.plan, "d", {"a-int": key.public_key()})
    assert getattr(caught.value, "code", "") == "isolation.observations.format"


# The journal.


def _record(number: int) -> Record:
    heard = pack(np.arange(4, dtype=np.uint16))
    return Record(
        Round(number=number, began=1, marks={"4": 15}), [Slice(0, 0, 4, heard=heard)], 1, [(0, 5, True, "00")]
    )


def test_a_journal_comes_back_and_a_torn_end_is_cut_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state", "ab" * 32, "a-int")
    for number in range(3):
        journal.append(_record(number))
    journal.close()
    path = journal_path(tmp_path / "state", "ab" * 32, "a-int")
    whole = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    for cut in range(len(whole), 0, -7):
        path.write_bytes(whole[:cut])
        again = Journal(tmp_path / "state", "ab" * 32, "a-int")
        assert again.records == [_record(number) for number in range(len(again.records))]
        assert len(again.records) <= 3
        again.append(_record(9))
        again.close()
        third = Journal(tmp_path / "state", "ab" * 32, "a-int")
        assert third.records[-1] == _record(9), "what is appended after a torn end can be read"
        third.close()


def test_a_journal_of_another_run_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path, "ab" * 32, "a-int").close()
    path = journal_path(tmp_path, "ab" * 32, "a-int")
    path.rename(journal_path(tmp_path, "ab" * 8 + "cd" * 24, "a-ext"))
    with pytest.raises(RefusedError) as caught:
        Journal(tmp_path, "ab" * 8 + "cd" * 24, "a-ext")
    assert caught.value.code == "isolation.resume.other"


@given(st.data())
def test_a_bent_journal_gives_only_what_was_written(data: st.DataObject) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = Journal(folder, "ab" * 32, "a")
        journal.append(_record(0))
        journal.close()
        path = journal_path(folder, "ab" * 32, "a")
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        again = Journal(folder, "ab" * 32, "a")
        assert again.records in ([], [_record(0)])
        again.close()


def test_kept_packets_of_sweeps_stand_in_the_captures() -> None:
    from secguard.isolation.evidence.captures import captures

    world = World()
    index = world.sweep()
    case = world.plan.sweeps[index].start + world.number(index, "10.1.1.7", 80)
    world.swept[INT].packets = [(case, 5, False, "45" + "00" * 39)]
    (capture,) = captures(world.plan, world.observations(), {}).values()
    assert f"case {case}, heard: ext -> int, IPv4 tcp 10.1.1.7 80".encode() in capture
