"""Lint: every problem with its line, and the JSON Schema for editors says what the reader says."""

import copy
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, describe, hint
from secguard.isolation.policy.lint import lint_policy, unreadable, worst
from secguard.isolation.policy.policy import load_policy, read_policy
from secguard.isolation.policy.schema import policy_schema
from tests.support.schema_kit import fits

ROOT = Path(__file__).parents[3]
TODAY = date(2026, 11, 23)
GOOD = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  a: {ipBlocks: [{cidr: 10.1.0.0/16}, {cidr: "fd00:1::/64"}], agents: [a-a]}
  b: {ipBlocks: [{cidr: 10.2.0.0/16}], agents: [{name: a-b, addresses: [10.2.0.9]}], published: [10.2.0.1]}
  c: {ipBlocks: [{cidr: "fd00:3::/64"}], agents: [{name: a-c, addresses: ["fd00:3::9"]}]}
flows:
- {name: sip, src: a, dst: b, ports: [{protocol: UDP, port: 5060, endPort: 5070}], owner: 张伟}
- {name: web, src: a, dst: b, ports: [{protocol: TCP, port: 80}, {protocol: ICMP}], expect: one-way}
exceptions:
- name: vendor
  src: b
  dst: a
  ports: [{protocol: TCP, port: 22}]
  owner: 李娜
  expires: 2027-06-30
  reason: 设备升级
  case: C-17
limits: {ratePps: 500, exclude: [10.1.0.5/32]}
probes: {tcp: [22], udp: []}
"""


def _lint(text: str) -> set[tuple[str, int]]:
    policy = load_policy(text.encode(), "p")
    return {(found.code, int(found.where.rpartition(":")[2])) for found in lint_policy(policy, TODAY)}


def test_a_good_policy_has_nothing_to_say() -> None:
    assert _lint(GOOD) == set()
    flow = load_policy(GOOD.encode()).flows[-1]
    assert (flow.name, flow.owner, getattr(flow, "case", "")) == ("vendor", "李娜", "C-17")


@pytest.mark.parametrize(
    ("old", "new", "code", "line"),
    [
        ("  owner: 李娜\n", "", "isolation.lint.owner", 11),
        ("  expires: 2027-06-30\n", "", "isolation.lint.expiry", 11),
        ("2027-06-30", "2026-11-22", "isolation.lint.expired", 11),
        ("2027-06-30", "2026-11-23", "isolation.lint.expires-soon", 11),
        ("owner: 张伟", "expires: 2020-01-01", "isolation.lint.expired", 8),
        ("- {name: web, src: a, dst: b", "- {name: web, src: b, dst: c", "isolation.lint.family", 9),
        ("exclude: [10.1.0.5/32]", "exclude: [10.2.0.0/15]", "isolation.lint.excluded", 8),
        ("limits:", "profiles: [l4]\nlimits:", "isolation.lint.profile", 9),
        ("{protocol: TCP, port: 80}, {protocol: ICMP}", "{protocol: UDP, port: 5061}", "isolation.lint.conflict", 9),
        (
            "port: 80}, {protocol: ICMP}], expect: one-way",
            "port: 80}]}\n- {name: again, src: a, dst: b, ports: [{protocol: TCP, port: 80}]",
            "isolation.lint.shadowed",
            10,
        ),
    ],
)
def test_each_finding_stands_at_its_line(old: str, new: str, code: str, line: int) -> None:
    assert old in GOOD
    assert (code, line) in _lint(GOOD.replace(old, new, 1))


def test_texts_are_whole_in_both_languages() -> None:
    text = GOOD.replace("  owner: 李娜\n  expires: 2027-06-30\n", "")
    for found in lint_policy(load_policy(text.encode(), "p"), TODAY):
        for lang in ("en", "zh"):
            assert "<" not in describe(found, lang) + hint(found, lang)
    assert worst(lint_policy(load_policy(text.encode()), TODAY)) == "fail"
    assert worst(lint_policy(load_policy(GOOD.replace("2027-06-30", "2026-12-01").encode()), TODAY)) == "pass"


def test_adjacent_ranges_shadow_together() -> None:
    flows = "".join(
        f"- {{name: f{n}, src: a, dst: b, ports: [{{protocol: TCP, port: {low}, endPort: {high}}}]}}\n"
        for n, (low, high) in enumerate([(1, 10), (11, 20), (5, 15), (5, 21)])
    )
    start, rest = GOOD.split("flows:\n")
    text = f"{start}flows:\n{flows}exceptions:{rest.partition('exceptions:')[2]}"
    assert {line for code, line in _lint(text) if code == "isolation.lint.shadowed"} == {10}


def test_several_problems_at_once_each_with_its_line() -> None:
    text = GOOD
    for old, new in (
        ("agents: [a-a]", "agents: [a-a], colour: red"),
        ("cidr: 10.2.0.0/16", "cidr: 10.2.0.0/99"),
        ("port: 5060, endPort: 5070", "port: 70000"),
        ("expect: one-way", "expect: maybe"),
        ("src: b\n", "src: nowhere\n"),
        ("ratePps: 500", "ratePps: fast"),
        ("udp: []", "udp: [0], sctp: [1]"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    policy, problems = read_policy(text.encode(), "p")
    assert policy is None
    lines = [int(problem.where.rpartition(":")[2]) for problem in problems]
    assert lines == sorted(lines) == [4, 5, 8, 9, 12, 19, 20, 20]
    found = unreadable(problems)
    assert {item.code for item in found} == {"isolation.lint.invalid"}
    assert "colour" in describe(found[0])
    with pytest.raises(FormatError, match="7 more: secguard isolation lint"):
        load_policy(text.encode(), "p")


def test_the_number_of_problems_is_bounded() -> None:
    flows = "".join("- {name: 1, src: 2}\n" for _ in range(200))
    _, problems = read_policy(GOOD.replace("exceptions:", f"{flows}exceptions:").encode(), "p")
    assert len(problems) == 100


def test_a_bomb_of_ten_megabytes_is_refused_at_once(tmp_path: Path) -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join('*' + chr(97 + n) for _ in range(9))}]\n" for n in range(9)
    )
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(laughs + "#" * (10 << 20))
    began = time.process_time()
    with pytest.raises(FormatError, match="larger than"):
        read_policy(bomb)
    assert time.process_time() - began < 5
    with pytest.raises(FormatError, match="aliases are not allowed"):
        read_policy(laughs.encode())


# --- the schema ----------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A YAML tree as JSON has it: dates are strings."""
    return json.loads(json.dumps(value, default=str))


SCHEMA = policy_schema()
# What a schema cannot say: how values relate to each other.
_BEYOND = {"address", "block-wide", "except", "agent-outside", "agent-twice", "overlap", "zone-unknown", "flow", "port"}
_BEYOND |= {"flow-twice", "targets", "target", "published"}


@pytest.mark.parametrize(
    "path", [*sorted((ROOT / "policies/isolation").glob("*.yaml")), ROOT / "secguard/isolation/rules/lab.yaml"], ids=str
)
def test_shipped_policies_fit_the_schema_and_lint_well(path: Path) -> None:
    assert fits(_plain(yaml.safe_load(path.read_text())), SCHEMA)
    assert worst(lint_policy(load_policy(path), TODAY)) == "pass"


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += _places(item, (*path, key))
    return found


DOCUMENT = yaml.safe_load(GOOD)
_ODD = st.sampled_from(
    [None, True, 0, 1, -1, 65535, 65536, 1.5, "", "a", "open", "TCP", "10.1.0.0/16", "x" * 300, [], ["a"], [1], {}]
)


@given(st.sampled_from(_places(DOCUMENT)), st.sampled_from(["set", "drop", "add"]), _ODD)
def test_schema_and_reader_agree_on_changed_policies(path: tuple[Any, ...], how: str, value: Any) -> None:
    changed = copy.deepcopy(DOCUMENT)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    if how == "set":
        holder[path[-1]] = value
    elif how == "drop":
        del holder[path[-1]]
    elif isinstance(holder, dict):
        holder["added"] = value
    else:
        holder.append(value)
    text = yaml.safe_dump(changed, allow_unicode=True)
    _, problems = read_policy(text.encode(), "p")
    codes = {problem.code.removeprefix("isolation.policy.") for problem in problems}
    read = not codes - _BEYOND
    assert fits(_plain(yaml.safe_load(text)), SCHEMA) == read, (text, problems)
