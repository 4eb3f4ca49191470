"""The parser of OCSP requests: what others build is read, everything else is refused without a traceback."""

import contextlib
import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core import FormatError
from secguard.identity.status.der import integer, sequence, tlv
from secguard.identity.status.request import MAX_CERTIFICATES, MAX_REQUEST, parse_request
from secguard.trust.der import oid

NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"
SHA1 = oid("1.3.14.3.2.26")
NONCE = oid("1.3.6.1.5.5.7.48.1.2")


def cert_id(serial: bytes = b"\x01", algorithm: bytes = SHA1 + b"\x05\x00") -> bytes:
    return sequence(sequence(algorithm), tlv(4, bytes(20)), tlv(4, bytes(20)), tlv(2, serial))


def request(
    *ids: bytes, version: bytes = b"", name: bytes = b"", extensions: bytes = b"", signature: bytes = b""
) -> bytes:
    wanted = sequence(*(sequence(one) for one in ids))
    tail = tlv(0xA2, sequence(extensions)) if extensions else b""
    return sequence(sequence(version, name, wanted, tail), signature)


def nonce(value: bytes, critical: bytes = b"") -> bytes:
    return sequence(NONCE, critical, tlv(4, tlv(4, value)))


def refused(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        parse_request(data)
    assert caught.value.code == "identity.ocsp.format"


@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256()])
def test_what_cryptography_builds(digest):
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"n" * digest.digest_size, b"k" * digest.digest_size,
                                                                0xFEDC << 112, digest)  # fmt: skip
    built = builder.add_extension(x509.OCSPNonce(b"0123456789abcdef"), critical=False).build()
    data = built.public_bytes(Encoding.DER)
    parsed = parse_request(data)
    (one,) = parsed.certificates
    assert one.serial == built.serial_number
    assert one.issuer[1:] == (built.issuer_name_hash, built.issuer_key_hash)
    assert one.raw in data
    assert parsed.nonce == b"0123456789abcdef"
    assert parse_request(builder.build().public_bytes(Encoding.DER)).nonce is None


def test_many_certificates_and_all_optional_fields():
    ids = [cert_id(bytes((n,))) for n in range(1, 101)]
    data = request(
        *ids,
        version=tlv(0xA0, integer(0)),
        name=tlv(0xA1, tlv(0x82, b"camera.example")),
        extensions=nonce(b"x" * 32, critical=b"\x01\x01\xff") + sequence(oid("1.2.3"), tlv(4, b"")),
        signature=tlv(0xA0, b"whatever"),
    )
    parsed = parse_request(data)
    assert [one.serial for one in parsed.certificates] == list(range(1, 101))
    assert [one.raw for one in parsed.certificates] == ids
    assert parsed.nonce == b"x" * 32


@pytest.mark.parametrize("size", [1, 32, 33, 128])
def test_nonces_of_rfc_9654(size):
    assert parse_request(request(cert_id(), extensions=nonce(bytes(size)))).nonce == bytes(size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",  # BER
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x81\x05\x02\x01\x00\x05\x00",  # a longer length than needed
        sequence(),
        b"GET /ocsp HTTP/1.1",
        request(),
        request(*[cert_id()] * (MAX_CERTIFICATES + 1)),
        request(cert_id()) + b"\x00",
        request(cert_id(), version=tlv(0xA0, integer(1))),
        request(cert_id(), signature=tlv(0xA1, b"")),
        request(cert_id(serial=b"")),
        request(cert_id(serial=b"\x00\x01")),
        request(cert_id(serial=b"\x01" * 22)),
        request(cert_id(algorithm=b"")),
        request(cert_id(algorithm=SHA1 + b"\x02\x01\x00")),
        request(sequence(tlv(4, b""))),
        request(cert_id(), extensions=nonce(b"")),
        request(cert_id(), extensions=nonce(bytes(129))),
        request(cert_id(), extensions=nonce(b"a") + nonce(b"b")),
        request(cert_id(), extensions=sequence(NONCE, tlv(4, b"raw"))),
        request(cert_id(), extensions=sequence(oid("1.2.3"), b"\x01\x01\xff", tlv(4, b""))),
        request(cert_id(), extensions=b"".join(sequence(oid(f"1.2.{n}"), tlv(4, b"")) for n in range(17))),
        sequence(sequence(sequence(sequence(cert_id())), sequence(sequence(cert_id())))),
        bytes(MAX_REQUEST + 1),
    ],
)
def test_refused(data):
    refused(data)


@settings(max_examples=20_000 if NIGHTLY else 300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data):
    with contextlib.suppress(FormatError):
        parse_request(data)


@settings(max_examples=50_000 if NIGHTLY else 600, deadline=None)
@given(st.data())
def test_damaged_requests_are_refused_or_read_as_what_they_say(data):
    """Whatever is believed must also be what `cryptography` reads, when it reads it at all."""
    good = request(cert_id(b"\x12\x34"), extensions=nonce(b"0123456789abcdef"))
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(
        changed[: data.draw(st.sampled_from([len(changed), len(changed), data.draw(st.integers(0, len(changed)))]))]
    )
    try:
        parsed = parse_request(cut)
    except FormatError:
        return
    try:
        theirs = ocsp.load_der_ocsp_request(cut)
        serial, name = theirs.serial_number, theirs.issuer_name_hash
    except Exception:  # noqa: BLE001 - it refuses unknown hash algorithms and more; we answer "unknown" to those
        return
    assert (parsed.certificates[0].serial, parsed.certificates[0].issuer[1]) == (serial, name)
