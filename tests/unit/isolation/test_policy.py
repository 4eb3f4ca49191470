"""The policy: what is right, what is refused and on which line, and hostile documents."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, UsageError
from secguard.core.yamltree import MAX_BYTES, load
from secguard.isolation.policy.policy import load_policy

GOOD = """\
apiVersion: secguard/v1alpha1
kind: IsolationPolicy
zones:
  a: {ipBlocks: [{cidr: 10.1.0.0/16}], agents: [a-a]}
  b: {ipBlocks: [{cidr: 10.2.0.0/16}], agents: [{name: a-b, addresses: [10.2.0.9]}]}
flows:
- name: sip
  src: a
  dst: b
  ports: [{protocol: UDP, port: 5060, endPort: 5070}]
  expect: open
  expires: 2030-01-31
"""


def test_good() -> None:
    policy = load_policy(GOOD.encode())
    assert [zone.name for zone in policy.zones] == ["a", "b"]
    assert policy.flows[0].ports[0].end_port == 5070
    assert policy.limits.rate == 1000
    assert len(policy.digest) == 64


def test_the_shipped_policies_are_good() -> None:
    root = Path(__file__).parents[3]
    assert load_policy(root / "policies/isolation/example.yaml").flows
    assert load_policy(root / "secguard/isolation/rules/lab.yaml").zones


@pytest.mark.parametrize(
    ("old", "new", "line", "code"),
    [
        ("kind: IsolationPolicy", "kind: Policy", 2, "kind"),
        ("flows:", "flow:", 6, "key-unknown"),
        ("10.1.0.0/16", "10.1.0.0/33", 4, "address"),
        ("10.1.0.0/16", "10.1.0.1/16", 4, "address"),
        ("10.1.0.0/16", "0.0.0.0/0", 4, "block-wide"),
        ("10.1.0.0/16", "127.0.0.0/8", 4, "block-kind"),
        ("10.1.0.0/16", "239.1.0.0/16", 4, "block-kind"),
        ("10.1.0.0/16", "'::ffff:10.2.0.0/112'", 4, "block-kind"),
        ("{name: a-b,", "{name: a-c, addresses: [10.2.0.9]}, {name: a-b,", 5, "address-twice"),
        ("10.2.0.0/16", "10.1.5.0/24", 5, "agent-outside"),
        ("10.2.0.0/16}], agents: [{name: a-b, addresses: [10.2.0.9]}]", "10.1.5.0/24}], agents: [a-b]", 5, "overlap"),
        ("agents: [a-a]", "agents: []", 4, "zone"),
        ("agents: [a-a]", "agents: [a-b]", 5, "agent-twice"),
        ("agents: [a-a]", "agents: [a-a], colour: red", 4, "field"),
        ("{cidr: 10.1.0.0/16}", "{cidr: 10.1.0.0/16, except: [10.3.0.0/24]}", 4, "except"),
        ("addresses: [10.2.0.9]", "sensor: tap", 5, "field"),
        ("src: a", "src: c", 8, "zone-unknown"),
        ("src: a", "src: b", 7, "flow"),
        ("expect: open", "expect: maybe", 11, "field"),
        ("port: 5060", "port: 70000", 10, "field"),
        ("port: 5060, endPort: 5070", "port: 5060, endPort: 50", 10, "port"),
        ("protocol: UDP, port: 5060, endPort: 5070", "protocol: ICMP, port: 5", 10, "port"),
        ("protocol: UDP, port: 5060, endPort: 5070", "protocol: TCP", 10, "port"),
        ("flows:", "default: allow\nflows:", 6, "default"),
        ("flows:", "profiles: [l4, teleport]\nflows:", 6, "profile"),
        ("flows:", "limits: {ratePps: 0}\nflows:", 6, "field"),
        ("flows:", "limits: {exclude: [x]}\nflows:", 6, "address"),
        ("flows:", "kind: IsolationPolicy\nflows:", 6, "duplicate-key"),
        ("kind: IsolationPolicy", "kind: &x IsolationPolicy", 2, "alias"),
        ("kind: IsolationPolicy", "kind: !!python/object:os.system IsolationPolicy", 2, "value"),
        ("kind: IsolationPolicy", "kind: [IsolationPolicy", 3, "yaml"),
        ("expires: 2030-01-31", "expires: 2030-13-31", 12, "value"),
        ("expires: 2030-01-31", "owner: \x01", 1, "yaml"),
    ],
)
def test_errors_name_their_line(old: str, new: str, line: int, code: str) -> None:
    assert old in GOOD
    with pytest.raises(FormatError) as error:
        load_policy(GOOD.replace(old, new).encode(), "p.yaml")
    assert error.value.code == f"isolation.policy.{code}"
    assert error.value.where == f"p.yaml:{line}"


def test_missing_and_oversized_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_policy(tmp_path / "none.yaml")
    big = tmp_path / "big.yaml"
    big.write_bytes(b"a: b\n" * (10 << 20 // 5))
    with pytest.raises(FormatError):
        load_policy(big)


def test_bombs_are_refused_at_once() -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join('*' + chr(97 + n) for _ in range(9))}]\n" for n in range(9)
    )
    for text, code in (
        (laughs, "alias"),
        ("[" * 5000, "depth"),
        ("{a: " * 5000, "depth"),
        ("- " * 5000 + "x", "depth"),
        ("[" + "x," * 30_000 + "x]", "too-many"),
        ("x: " + "9" * 5000, "value"),
        ("<<: {a: 1}", "key-unknown"),
        ("? [a, b]\n: c", "key"),
        ("", "empty"),
        ("\ufeff---\n...\n", "empty"),
    ):
        with pytest.raises(FormatError) as error:
            load_policy(text.encode(), "p")
        assert error.value.code in {f"isolation.policy.{code}", "isolation.policy.kind"}, text[:20]
    with pytest.raises(FormatError, match="not UTF-8"):
        load(b"a: \xff", "p", "x")
    with pytest.raises(FormatError, match="larger than"):
        load(b" " * (MAX_BYTES + 1), "p", "x")


@given(st.text(max_size=400) | st.binary(max_size=400))
def test_any_bytes_are_a_policy_or_one_clear_error(data: str | bytes) -> None:
    raw = data.encode(errors="ignore") if isinstance(data, str) else data
    with pytest.raises(FormatError) as error:
        load_policy(raw, "p")
    assert error.value.where.startswith("p:")


def _place_of_error(data: bytes) -> str:
    """Where a document is wrong; `p:` if nothing is."""
    try:
        load_policy(data, "p")
    except FormatError as error:
        return error.where
    return "p:"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.sampled_from(GOOD.split("\n")[:-1]),
    st.sampled_from([": ", "[", "]", "{", "}", ",", "-", "a"]),
    st.integers(0, 60),
)
def test_a_changed_policy_is_read_or_refused(line: str, piece: str, at: int) -> None:
    changed = GOOD.replace(line, line[:at] + piece + line[at:], 1)
    assert _place_of_error(changed.encode()).startswith("p:")


@given(st.sampled_from(["zones", "flows", "limits", "probes", "profiles", "default"]), _VALUES)
def test_any_value_under_any_key_is_read_or_refused(key: str, value: object) -> None:
    import yaml

    document = {**yaml.safe_load(GOOD), key: value}
    assert _place_of_error(yaml.safe_dump(document, allow_unicode=True).encode(errors="ignore")).startswith("p:")
