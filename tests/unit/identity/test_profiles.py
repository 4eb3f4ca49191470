"""Profiles: the shipped ones load; whatever is not a profile is refused with the file, the line or the field."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, SecguardError, UsageError
from secguard.core.yamltree import load
from secguard.identity.profiles import load_ca_profiles, load_profile, load_profiles, profile_schemas
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
        ("purpose: device\ndays: 1\nkey: ecdsa-p256\naccept: [dsa]\n", "accept: Invalid enum value 'dsa'"),
        ("purpose: device\nholder: name\ndays: 1\n", "holder: device"),
        ("purpose: operator\nholder: name\ndays: 1\ntypes: ['131']\n", "types"),
        ("purpose: operator\nholder: name\ndays: 1\nusages: [client-auth]\n", "never serves TLS"),
        ("purpose: operator\nholder: name\ndays: 1\nno_check: true\n", "no_check"),
        ("purpose: ocsp\nholder: name\ndays: 400\nno_check: true\n", "cannot be revoked"),
        ("purpose: device\ndays: 1\ncompanions: [x]\n", "itself"),
        ("3: 4\n", "unknown key '3'"),
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


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("# a comment\npurpose: device\n\ndayz: 730\n", 4, "did you mean days?"),
        ("days: 1\npurpose: devise\n", 2, "did you mean device?"),
        ("purpose: device\ndays: 1\nusages:\n- server-auth\n- client-auht\n", 5, "did you mean client-auth?"),
        ("purpose: device\ndays: 730\ntypes:\n  - '131'\n  - 'abc'\n", 5, "docs/identity.md"),
        ("days: 730\nusages: [client-auth]\npurpose: log\nholder: name\n", 2, "docs/identity.md"),
        ("purpose: device\ndays: 730\nname: x\n", 3, "the file's name"),
    ],
)
def test_errors_name_the_line_and_what_to_do(tmp_path, text, line, hint):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(FormatError) as caught:
        load_profile(path)
    assert caught.value.where == f"{path}:{line}"
    assert hint in caught.value.hint


def test_a_file_that_cannot_name_a_profile(tmp_path):
    path = tmp_path / "My camera.yaml"
    path.write_text("purpose: device\ndays: 1\n")
    with pytest.raises(FormatError, match="file's name"):
        load_profiles(tmp_path)


def test_no_profile_is_left_out_silently(tmp_path):
    for number in range(65):
        (tmp_path / f"p{number}.yaml").write_text("purpose: device\ndays: 1\n")
    with pytest.raises(FormatError, match="more than 64"):
        load_profiles(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("days: 1\n", "purposes"),
        ("days: 1\npurposes: [log, log]\n", "twice"),
        ("days: 1\npurposes: [log]\ndomains: all\n", "domains"),
        ("days: 90000\npurposes: [log]\n", "days"),
    ],
)
def test_ca_profiles_refused(tmp_path, text, message):
    (tmp_path / "root.yaml").write_text("days: 1\n")
    (tmp_path / "logs.yaml").write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        load_ca_profiles(tmp_path)
    assert f"{tmp_path / 'logs.yaml'}:" in caught.value.where


def test_the_root_has_no_purpose(tmp_path):
    (tmp_path / "root.yaml").write_text("days: 1\npurposes: [log]\n")
    with pytest.raises(FormatError, match="purposes"):
        load_ca_profiles(tmp_path)
    (tmp_path / "root.yaml").unlink()
    with pytest.raises(UsageError, match="root"):
        load_ca_profiles(tmp_path)


def test_schemas_name_every_key_that_the_shipped_profiles_use():
    schemas = profile_schemas()
    for name, folder in (("profile", PROFILES), ("ca-profile", PROFILES / "ca")):
        schema = schemas[name]
        assert schema["additionalProperties"] is False
        assert "name" not in schema["properties"]
        assert all(item["description"].endswith((".", "`")) for item in schema["properties"].values())
        for path in folder.glob("*.yaml"):
            value = load(path.read_bytes(), path.name, "x").value
            assert set(schema["required"]) <= set(value) <= set(schema["properties"])
            for key, item in value.items():
                allowed = schema["properties"][key]
                allowed = schema["$defs"][allowed["$ref"].rpartition("/")[2]] if "$ref" in allowed else allowed
                assert "enum" not in allowed or item in allowed["enum"]


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
