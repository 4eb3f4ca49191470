"""Scopes, names, DER, PEM: what is written is read back; what is not in its one form is refused, never a traceback."""

import contextlib
import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, SecguardError, UsageError
from secguard.gbid import GbId, Scope
from secguard.trust import (
    MAX_CERTIFICATES,
    Purpose,
    chain_pem,
    decode_scope,
    der,
    encode_scope,
    gbid_of,
    hardware_module_name,
    oids_of,
    parse_certificates,
    parse_crls,
    permanent_identifier,
    read_certificates,
    read_crls,
    scope_of,
    stated_purposes,
    title,
)
from secguard.trust.oids import GBID_ASSIGNER

digits = st.text("0123456789", min_size=1)
areas = st.lists(st.text("0123", min_size=1, max_size=4).map(lambda t: "".join(f"3{c}" for c in t)), max_size=4)
types = st.lists(st.text("123", min_size=1, max_size=3), max_size=3)
networks = st.lists(st.sampled_from("0123456789"), max_size=3)
scopes = st.builds(lambda a, t, n: Scope(tuple(a), tuple(t), tuple(n)), areas, types, networks)
ids = st.builds(
    lambda a, t, n: GbId(f"{''.join(f'3{c}' for c in a)}00{t}{n}000001"),
    st.text("0123", min_size=4, max_size=4),
    st.text("123", min_size=3, max_size=3),
    st.sampled_from("0123456789"),
)


@given(scopes)
def test_scope_round_trip(scope):
    assert decode_scope(encode_scope(scope)) == scope


@given(scopes, scopes, ids)
def test_a_scope_within_another_covers_nothing_more(child, parent, gbid):
    if child.within(parent) and child.covers(gbid):
        assert parent.covers(gbid)


@given(st.binary(max_size=64))
def test_scope_from_anything(data):
    try:
        scope = decode_scope(data)
    except FormatError:
        return
    assert encode_scope(scope) == data


@given(scopes, st.data())
def test_scope_with_one_byte_changed_is_another_scope_or_refused(scope, data):
    encoded = bytearray(encode_scope(scope))
    index = data.draw(st.integers(0, len(encoded) - 1))
    encoded[index] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(FormatError):
        assert decode_scope(bytes(encoded)) != scope


def test_scope_has_one_encoding_only():
    unsorted = der.sequence(
        der.sequence(der.encode(der.PRINTABLE_STRING, b"33"), der.encode(der.PRINTABLE_STRING, b"32")),
        der.sequence(),
        der.sequence(),
    )
    for data in (unsorted, b"\x30\x81\x06\x30\x00\x30\x00\x30\x00", encode_scope(Scope()) + b"\x00", b"\x30" * 9000):
        with pytest.raises(FormatError):
            decode_scope(data)


@given(st.binary(max_size=80))
def test_der_children_of_anything(data):
    try:
        found = list(der.children(data))
    except FormatError:
        return
    assert b"".join(der.encode(tag, content) for tag, content in found) == data


@given(st.lists(st.integers(0, 2**130), max_size=5))
def test_object_identifiers_of_any_size(arcs):
    dotted = ".".join(map(str, [2, 25, *arcs]))
    # X.690, 8.19: read back by hand
    content = der.single(der.oid(dotted), der.OID)
    values, value = [], 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            values.append(value)
            value = 0
    assert values == [105, *arcs]


def test_der_lengths():
    for size in (0, 127, 128, 255, 256, 65535):
        assert der.single(der.encode(4, bytes(size)), 4) == bytes(size)
    with pytest.raises(ValueError, match="65535"):
        der.encode(4, bytes(65536))


def test_our_arcs_fit_where_others_read_them():
    # Go's crypto/x509 refuses a certificate for an arc of more than 31 bits.
    for purpose in Purpose:
        for oid in (oids_of(purpose).eku, oids_of(purpose).policy):
            assert all(int(arc) < 1 << 28 for arc in oid.dotted_string.split("."))
    assert len({oids_of(purpose).eku for purpose in Purpose}) == len(Purpose)
    assert len({oids_of(purpose).policy for purpose in Purpose}) == len(Purpose)


def test_identifier_is_read_from_the_certificate(pki, good):
    assert gbid_of(good.leaf.certificate) == pki.camera
    assert stated_purposes(good.leaf.certificate) == [Purpose.MEDIA_SIGNING]
    assert scope_of(good.issuing.certificate) == pki.district
    assert scope_of(good.leaf.certificate) is None
    assert gbid_of(good.root.certificate) is None


def other_name(value: bytes) -> x509.OtherName:
    return x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.3"), value)


def test_another_assigners_identifier_is_not_an_id(pki, good):
    makers = der.sequence(der.encode(der.UTF8_STRING, b"32011600001320000009"), der.oid("1.3.6.1.4.1.4890"))
    bare = der.sequence(der.encode(der.UTF8_STRING, b"32011600001320000008"))
    names = [other_name(makers), other_name(bare), hardware_module_name("132", "SN 1")]
    assert gbid_of(pki.leaf(good.issuing, "x", gbid=None, sans=names).certificate) is None
    assert gbid_of(pki.leaf(good.issuing, "x", sans=names).certificate) == pki.camera


def test_identifiers_that_cannot_be_read(pki, good):
    assigner = der.oid(GBID_ASSIGNER.dotted_string)
    for value in (
        der.sequence(der.encode(der.UTF8_STRING, b"123"), assigner),
        der.sequence(der.encode(der.PRINTABLE_STRING, b"32011600001320000001"), assigner),
        der.sequence(der.encode(der.UTF8_STRING, "３２".encode()), assigner),
    ):
        leaf = pki.leaf(good.issuing, "x", gbid=None, sans=[other_name(value)])
        with pytest.raises(FormatError, match="identifier"):
            gbid_of(leaf.certificate)
    twice = pki.leaf(good.issuing, "x", sans=[permanent_identifier(GbId("32011600001320000002"))])
    with pytest.raises(FormatError, match="two IDs"):
        gbid_of(twice.certificate)


def test_title_is_short_and_printable(pki):
    assert title(pki.root("a\u202eb\nc" + "x" * 50).certificate) == "a?b?c" + "x" * 50


def test_pem_and_der_files(pki, good, tmp_path: Path):
    path = tmp_path / "chain.pem"
    path.write_bytes(b"# a comment\n" + chain_pem(good.chain))
    assert read_certificates(path) == good.chain
    path.write_bytes(good.leaf.certificate.public_bytes(Encoding.DER))
    assert read_certificates(path) == good.chain[:1]
    lists = tmp_path / "lists.pem"
    lists.write_bytes(b"\n".join(item.public_bytes(Encoding.PEM) for item in good.crls))
    assert read_crls([lists]) == good.crls
    folder = tmp_path / "crl"
    folder.mkdir()
    for number, item in enumerate(good.crls):
        (folder / f"{number}.crl").write_bytes(item.public_bytes(Encoding.DER))
    (folder / "note.txt").write_text("not a list")
    assert read_crls([folder]) == good.crls
    for number in range(4100):
        (folder / f"x{number}.crl").write_bytes(b"")
    with pytest.raises(UsageError, match="more than"):
        read_crls([folder])


def test_too_many_certificates_in_a_file(good):
    with pytest.raises(FormatError) as caught:
        parse_certificates(chain_pem(good.chain * MAX_CERTIFICATES))
    assert caught.value.code == "trust.chain.too-many"


@given(st.binary(max_size=200))
def test_files_of_anything(data):
    for parse in (parse_certificates, parse_crls):
        for body in (data, b"-----BEGIN CERTIFICATE-----\n" + data, b"-----BEGIN X509 CRL-----\n" + data):
            with pytest.raises(SecguardError):
                parse(body)


def test_no_such_file(tmp_path: Path):
    with pytest.raises(UsageError):
        read_certificates(tmp_path / "none.pem")
    with pytest.raises(UsageError):
        read_crls([tmp_path / "none.crl"])


def test_certificate_with_an_extension_twice_is_refused(pki, good):
    data = good.leaf.certificate.public_bytes(Encoding.DER)
    usage, policies = b"\x55\x1d\x25", b"\x55\x1d\x20"  # 2.5.29.37 and 2.5.29.32: two names of one length
    assert usage in data
    assert policies in data
    with pytest.raises(FormatError):
        parse_certificates(data.replace(usage, policies))


def test_dates_beyond_2049(pki):
    root = pki.root(end=dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC))
    assert parse_certificates(chain_pem([root.certificate]))[0].not_valid_after_utc.year == 9999
