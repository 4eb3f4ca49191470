"""Drift: what became worse, what was closed, what can no longer be said."""

import contextlib
from base64 import b64encode

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, Outcome, describe
from secguard.isolation.agent.observations import Observations
from secguard.isolation.drift.compare import Drift, compare
from secguard.isolation.drift.leaks import cases_of, leak_id, leaks_of
from secguard.isolation.judge.result import ScanResult, open_result
from secguard.isolation.runs.conclude import RunResult
from secguard.isolation.sweep.judging import WORDS
from secguard.isolation.sweep.seen import pack
from tests.support.isolation_kit import NOW, POLICY, make_run

SSH, WEB = ("c", "a", "tcp", 22), ("c", "a", "tcp", 80)
DNS = ("b", "a", "udp", 53)


def _read(run: RunResult) -> ScanResult:
    assert run.signer is not None
    return open_result(run.envelopes["result.json"], [run.signer.public_key()])


@pytest.fixture(scope="module")
def tight() -> ScanResult:
    return _read(make_run())


@pytest.fixture(scope="module")
def leaky() -> ScanResult:
    return _read(make_run([SSH, DNS]))


def _codes(drift: Drift) -> dict[str, Outcome]:
    return {found.code: found.outcome for found in drift.verdict.findings}


def test_nothing_changed_between_two_runs_of_one_policy(tight: ScanResult, leaky: ScanResult) -> None:
    for one, other in ((tight, _read(make_run())), (leaky, _read(make_run([DNS, SSH])))):
        drift = compare(one, other, NOW)
        assert drift.verdict.outcome is Outcome.PASS
        assert _codes(drift) == {}
        assert drift.compared == len(cases_of(one)) > 100
    assert len(drift.same) == 2


def test_a_new_leak_is_worse_and_a_closed_one_better(tight: ScanResult, leaky: ScanResult) -> None:
    drift = compare(tight, leaky, NOW)
    assert drift.verdict.outcome is Outcome.FAIL
    assert {(found.code, found.where) for found in drift.verdict.findings} == {
        ("isolation.drift.new", "c -> a"),
        ("isolation.drift.new", "b -> a"),
    }
    assert drift.new == [leak.id for leak in leaks_of(leaky).values()]
    text = describe(next(found for found in drift.verdict.findings if found.where == "c -> a"))
    assert text == "New: open, c -> a: TCP 22."
    back = compare(leaky, tight, NOW)
    assert (back.verdict.outcome, set(_codes(back))) == (Outcome.PASS, {"isolation.drift.closed"})
    assert set(back.closed) == set(drift.new)


def test_more_ports_through_a_known_hole_are_worse(leaky: ScanResult) -> None:
    wider = _read(make_run([SSH, WEB, DNS]))
    drift = compare(leaky, wider, NOW)
    assert _codes(drift) == {"isolation.drift.wider": Outcome.FAIL}
    assert drift.verdict.findings[0].data["probes"] == "TCP 80"
    back = compare(wider, leaky, NOW)
    assert _codes(back) == {"isolation.drift.narrower": Outcome.PASS}
    assert back.verdict.outcome is Outcome.PASS
    assert set(leaks_of(wider)) == set(leaks_of(leaky)), "a leak keeps its ID while ports come and go"


def test_a_leak_that_reaches_further_is_worse(leaky: ScanResult) -> None:
    def shut(seen: list[Observations]) -> None:
        seen[2].answers.word = ["rst" for _ in seen[2].answers.word]

    closed = _read(make_run([SSH, DNS], change=shut))
    assert _codes(compare(closed, leaky, NOW)).get("isolation.drift.changed") is Outcome.FAIL
    drift = compare(leaky, closed, NOW)
    assert _codes(drift)["isolation.drift.changed"] is Outcome.PASS
    assert set(_codes(drift)) == {"isolation.drift.changed", "isolation.drift.turned"}, (
        "another kind, but nothing new and nothing closed"
    )
    assert (drift.new, drift.closed, drift.verdict.outcome) == ([], [], Outcome.PASS)


def test_what_is_no_longer_answered_cannot_be_compared(leaky: ScanResult) -> None:
    drift = compare(leaky, _read(make_run(silent=["c"])), NOW)
    assert drift.verdict.outcome is Outcome.UNKNOWN
    assert {"isolation.drift.lost", "isolation.drift.unsure"} <= set(_codes(drift))
    assert drift.closed == [leak_id("b", "a", "leak.open", "")], "where c is not concerned, all is known"


def test_a_port_that_is_drawn_is_the_same_case_in_each_run(leaky: ScanResult) -> None:
    """Also where the port is one that a flow of another protocol names: UDP 30000 here."""
    columns = {name: list(values) for name, values in leaky.cases.items()}
    rows = zip(columns["profile"], columns["protocol"], columns["dport"], strict=True)
    drawn = [
        n for n, (profile, kind, port) in enumerate(rows) if (profile, kind) == ("source-port", "tcp") and port > 19_999
    ]
    assert drawn
    for row in drawn:
        columns["dport"][row] = 30_000
    assert cases_of(msgspec.structs.replace(leaky, cases=columns)).keys() == cases_of(leaky).keys()


def test_a_policy_that_probes_less_hides_nothing(leaky: ScanResult) -> None:
    less = _read(make_run([DNS], policy=POLICY.replace("tcp: [22, 80]", "tcp: [80]")))
    drift = compare(leaky, less, NOW)
    assert drift.verdict.outcome is Outcome.UNKNOWN
    assert {"isolation.drift.untested", "isolation.drift.policy", "isolation.drift.unsure"} <= set(_codes(drift))
    assert _codes(compare(less, leaky, NOW)) == {
        "isolation.drift.new": Outcome.FAIL,
        "isolation.drift.added": Outcome.PASS,
        "isolation.drift.policy": Outcome.PASS,
    }


def test_a_leak_that_the_policy_allows_now_is_not_called_closed(leaky: ScanResult) -> None:
    flow = "- {name: web, src: c, dst: a, ports: [{protocol: TCP, port: 22}]}\nprobes:"
    allowed = _read(make_run([DNS], policy=POLICY.replace("probes:", flow)))
    codes = _codes(compare(leaky, allowed, NOW))
    assert codes["isolation.drift.allowed"] is Outcome.PASS
    assert "isolation.drift.closed" not in codes


def test_scans_of_other_zones_are_not_compared(leaky: ScanResult) -> None:
    other = ScanResult(
        run="0" * 32, plan="p", policy="q", at=NOW, outcome="pass",
        cases={name: [] for name in leaky.cases},
    )  # fmt: skip
    drift = compare(leaky, other, NOW)
    assert drift.verdict.outcome is Outcome.UNKNOWN
    assert "isolation.drift.incomparable" in _codes(drift)


def _swept(codes: list[int], *, probed: int = 0, target: str = "10.1.0.0/30") -> ScanResult:
    """A scan with one sweep; codes are positions in `WORDS`: 0 filtered, 2 open, 10 inconclusive."""
    column = np.array(codes, np.uint8)
    counts = {WORDS[code]: codes.count(code) for code in set(codes)}
    sweep = {
        "src": "c", "dst": "a", "target": target, "family": 4, "protocol": "tcp", "ports": "22",
        "named": 2 * len(codes) if probed else len(codes),
        "probed": probed or len(codes), "covered": True, "counts": counts, "results": b64encode(pack(column)).decode(),
    }  # fmt: skip
    return ScanResult(run=f"{len(codes):032x}", plan="p", policy="q", at=NOW, outcome="pass", sweeps=[sweep])


def test_sweeps_are_compared_probe_by_probe() -> None:
    old = _swept([0, 0, 2, 0, 0])
    assert _codes(compare(old, _swept([0, 0, 2, 0, 0]), NOW)) == {}
    moved = compare(old, _swept([0, 2, 0, 0, 0]), NOW)
    assert _codes(moved) == {"isolation.drift.swept": Outcome.FAIL, "isolation.drift.swept-fewer": Outcome.PASS}, (
        "one opened while one was closed"
    )
    assert _codes(compare(old, _swept([0, 0, 0, 0, 0]), NOW)) == {"isolation.drift.swept-fewer": Outcome.PASS}
    assert _codes(compare(old, _swept([0, 10, 2, 10, 0]), NOW)) == {"isolation.drift.swept-lost": Outcome.UNKNOWN}
    assert _codes(compare(old, _swept([0], target="10.1.0.4/32"), NOW)) == {
        "isolation.drift.swept-gone": Outcome.UNKNOWN,
        "isolation.drift.swept-added": Outcome.PASS,
        "isolation.drift.incomparable": Outcome.UNKNOWN,
    }


def test_samples_are_compared_by_their_numbers() -> None:
    old, new = _swept([2, 0, 0, 0, 0], probed=2), _swept([0, 0, 0, 0, 2], probed=2)
    assert _codes(compare(old, new, NOW)) == {}, "other hosts were drawn"
    more = compare(old, _swept([2, 2, 0, 0, 0], probed=2), NOW)
    assert _codes(more) == {"isolation.drift.swept": Outcome.PASS}, "may be chance"
    first = compare(_swept([0, 0, 0, 0, 0], probed=2), old, NOW)
    assert _codes(first) == {"isolation.drift.swept": Outcome.FAIL}


def test_texts_are_whole_in_both_languages(tight: ScanResult, leaky: ScanResult) -> None:
    less = _read(make_run([SSH, WEB], policy=POLICY.replace("udp: [53]", "udp: []"), silent=["b"]))
    for old, new in ((tight, leaky), (leaky, tight), (leaky, less), (less, leaky)):
        for found in compare(old, new, NOW).verdict.findings:
            assert "<" not in describe(found, "en") + describe(found, "zh"), found


_ODD = st.sampled_from([None, True, -1, 2**70, 1.5, "", "x", "fail", [], ["a"], {}, {"a": 1}])


_COLUMN = st.tuples(
    st.sampled_from(["src", "family", "dport", "outcome", "kind", "result", "detail"]), st.integers(0, 50), _ODD
)
_PART = st.tuples(st.sampled_from(["counts", "results", "named", "probed", "covered", "target"]), _ODD)


@given(_COLUMN, _PART)
def test_any_result_is_compared_or_refused(
    leaky: ScanResult, change: tuple[str, int, object], swap: tuple[str, object]
) -> None:
    """Whoever writes a folder signs it with a key of their own: what a result says may be anything."""
    column, row, value = change
    cases = {**leaky.cases, column: [*leaky.cases[column][:row], value, *leaky.cases[column][row + 1 :]]}
    swept = _swept([0, 2, 0]).sweeps
    odd = msgspec.structs.replace(leaky, cases=cases, sweeps=[{**swept[0], swap[0]: swap[1]}])
    for old, new in ((odd, leaky), (msgspec.structs.replace(leaky, sweeps=swept), odd)):
        with contextlib.suppress(FormatError):
            assert compare(old, new, NOW).verdict.outcome in set(Outcome)


def test_ids_are_stable() -> None:
    assert leak_id("c", "a", "leak.open", "") == leak_id("c", "a", "leak.open", "")
    assert leak_id("c", "a", "leak.open", "") != leak_id("a", "c", "leak.open", "")
    assert leak_id("ab", "c", "k", "") != leak_id("a", "bc", "k", "")


def test_two_runs_of_one_policy_ask_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ports a run draws, inside of a flow's range, too: nothing is new, and nothing is no longer probed."""
    asked = []
    for first in (0, 9_990, 10_060, 10_099, 38_999):
        monkeypatch.setattr("secguard.isolation.plan.compiler.secrets.randbelow", lambda _, first=first: first)
        asked.append(cases_of(_read(make_run())).keys())
    assert all(cases == asked[0] for cases in asked), [sorted(cases ^ asked[0]) for cases in asked]
