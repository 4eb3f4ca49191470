"""Profiles: the shipped ones load; whatever is not a profile is refused with the file, the line or the field."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, SecguardError, UsageError
from secguard.core.yamltree import load
from secguard.identity.profiles import load_profile, load_profiles
from secguard.trust import Purpose

PROFILES = Path(__file__).parents[3] / "certs"


def test_shipped_profiles():
    profiles = load_profiles(PROFILES)
    assert {"camera", "nvr", "platform", "media-signing", "operator", "log"} <= set(profiles)
    assert profiles["camera"].companions == ("media-signing",)
    assert profiles["log"].purpose is Purpose.LOG


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("purpose: device\ndays: 1\ncolour: red\n", "colour"),
        ("purpose: device\ndays: 1\nname: x\n", "name"),
        ("purpose: toaster\ndays: 1\n", "toaster"),
        ("purpose: device\n", "days"),
        ("purpose: device\ndays: 0\n", ">= 1"),
        ("purpose: device\ndays: 1\ntypes: [131]\n", "types"),
        ("purpose: device\ndays: 1\ndays: 2\n", "twice"),
        ("purpose: log\nholder: name\ndns: true\ndays: 1\n", "dns"),
        ("a: &x 1\nb: *x\n", "anchors"),
        ("[" * 20 + "1" + "]" * 20, "deeper"),
        ("purpose: !!python/object/apply:os.system [id]\ndays: 1\n", "tag"),
        ("- a\n", "object"),
        ("purpose: [unclosed\n", "not YAML"),
        ("", "empty"),
        ("purpose: device\ndays: 1\nkey: ecdsa-p256\naccept: [dsa]\n", "dsa"),
    ],
)
def test_refused(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(FormatError, match=r".") as caught:
        load_profile(path)
    assert caught.value.code.startswith("identity.profile.")
    assert message in caught.value.message
    assert str(path) in caught.value.where


def test_alias_bomb_and_size(tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text("a: &a [x,x]\n" + "".join(f"{c}: &{c} [*a,*a]\n" for c in "bcdefgh"))
    with pytest.raises(FormatError, match="anchors"):
        load_profile(path)
    path.write_bytes(b"# " + bytes(1 << 17))
    with pytest.raises(FormatError, match="larger"):
        load_profile(path)


def test_companions_must_fit(tmp_path):
    (tmp_path / "a.yaml").write_text("purpose: device\ndays: 1\ncompanions: [b]\n")
    with pytest.raises(FormatError, match="companion"):
        load_profiles(tmp_path)
    (tmp_path / "b.yaml").write_text("purpose: operator\nholder: name\ndays: 1\n")
    with pytest.raises(FormatError, match="companion"):
        load_profiles(tmp_path)


def test_no_profiles(tmp_path):
    with pytest.raises(UsageError, match="no certificate profiles"):
        load_profiles(tmp_path)


@given(st.binary(max_size=200))
def test_anything(data):
    try:
        load(data, "x", "identity.profile")
    except SecguardError as error:
        assert error.code  # noqa: PT017 - the other way out is a plain value
