"""EST on the wire: bodies in, messages out, and what a request claims."""

import base64
import contextlib
import subprocess

import est_kit as kit
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, RefusedError, SecguardError
from secguard.gbid import GbId
from secguard.identity.enrol.claims import check_binding, check_identity, check_same_subject, read_claims
from secguard.identity.enrol.limits import Buckets, Flood
from secguard.identity.enrol.wire import (
    MAX_BODY,
    Base64,
    certs_only,
    csr_attributes,
    decode_request,
    encode_body,
    layout_for,
    multipart,
)
from secguard.identity.profiles import load_profiles
from secguard.trust import permanent_identifier

from .conftest import PROFILES

DER = kit.Device().request()
GBID = GbId.parse(kit.CAMERA)


@pytest.mark.parametrize(
    "body",
    [
        base64.b64encode(DER),
        base64.encodebytes(DER),
        base64.encodebytes(DER).replace(b"\n", b"\r\n"),
        b"\n  " + base64.b64encode(DER) + b"\n\n",
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(DER) + b"-----END CERTIFICATE REQUEST-----\n",
        b"-----BEGIN NEW CERTIFICATE REQUEST-----\r\n"
        + base64.b64encode(DER)
        + b"\r\n-----END NEW CERTIFICATE REQUEST-----",
        DER,
    ],
    ids=["one line", "lines", "CRLF", "blanks", "PEM", "PEM of old", "DER"],
)
def test_a_request_is_read_in_every_layout(body):
    assert decode_request(body) == DER


@pytest.mark.parametrize(
    "body", [b"", b"\n", b"hello", b"!" * 100, b"AAA", base64.b64encode(DER) + b"=AAAA", b"A" * 70000]
)
def test_what_is_no_request_is_refused(body):
    with pytest.raises(FormatError):
        read_claims(decode_request(body))


def test_a_body_is_bounded():
    with pytest.raises(FormatError):
        decode_request(b"0" * (MAX_BODY + 1))


@pytest.mark.parametrize(
    ("label", "agent", "wrapped"),
    [("", "", False), ("", "curl/8", True), ("camera", "", True), ("nvr", "x", False), ("platform", "x", True)],
)
def test_the_layout_follows_client_and_label(label, agent, wrapped):
    chosen = {"camera": Base64.WRAPPED, "nvr": Base64.UNWRAPPED, "platform": Base64.AUTO}
    assert layout_for(label, agent, chosen) is wrapped


def test_the_default_layout_can_be_chosen():
    assert layout_for("camera", "", {"default": Base64.WRAPPED})


def test_openssl_reads_wrapped_base64_and_the_message(tmp_path):
    certificate = kit.Maker().root
    message = certs_only([certificate.public_bytes(Encoding.DER)] * 20)
    body = encode_body(message, wrapped=True)
    assert max(map(len, body.splitlines())) <= 76
    plain = subprocess.run(["openssl", "base64", "-d"], input=body, capture_output=True, check=True).stdout
    assert plain == message
    shown = subprocess.run(
        ["openssl", "pkcs7", "-inform", "DER", "-print_certs"], input=plain, capture_output=True, check=True
    )
    assert shown.stdout.count(b"BEGIN CERTIFICATE") == 20
    assert kit.certificates_in(message) == [certificate] * 20
    assert b"\n" not in encode_body(message, wrapped=False)


def test_a_long_message_is_der():
    certificate = kit.Maker().root.public_bytes(Encoding.DER)
    assert len(kit.certificates_in(certs_only([certificate] * 250))) == 250


@pytest.mark.parametrize("name", ["camera", "media-signing", "platform"])
def test_attributes_name_key_and_device(name):
    profile = load_profiles(PROFILES)[name]
    data = csr_attributes(profile, GBID)
    shown = subprocess.run(["openssl", "asn1parse", "-inform", "DER"], input=data, capture_output=True, check=True)
    for word in (b"id-ecPublicKey", b"prime256v1", b"ecdsa-with-SHA256", b"Extension Request", b"Alternative Name"):
        assert word in shown.stdout
    assert kit.CAMERA.encode() in data
    assert kit.CAMERA.encode() not in csr_attributes(profile, None)


def test_multipart_is_read_by_a_mail_parser():
    import email

    body = multipart([("application/pkcs8", b"QUJD\n"), ("application/pkcs7-mime", b"REVG")], "xyz")
    message = email.message_from_bytes(b"Content-Type: multipart/mixed; boundary=xyz\r\n\r\n" + body)
    assert [part.get_payload(decode=True) for part in message.get_payload()] == [b"ABC", b"DEF"]


OTHERS = [
    kit.Device().request(kit.OTHER),
    kit.Device().request("", extra=[(NameOID.SERIAL_NUMBER, kit.OTHER)]),
    kit.Device().request(extra=[(NameOID.COMMON_NAME, kit.OTHER)]),
    kit.Device().request("", names=[permanent_identifier(GbId.parse(kit.OTHER))]),
    kit.Device().request(names=[permanent_identifier(GbId.parse(kit.OTHER))]),
    kit.Device().request(" " + kit.OTHER),
    kit.Device().request(kit.CAMERA.translate({ord("0"): "\uff10"})),
    kit.Device().request("", names=[x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.3"), b"\x05\x00")]),
]


@pytest.mark.parametrize("request_", OTHERS)
def test_a_request_that_names_another_device_is_refused(request_):
    with pytest.raises(RefusedError) as caught:
        check_identity(read_claims(request_), GBID, "")
    assert caught.value.code == "identity.enrol.other"


@pytest.mark.parametrize("subject", [None, "", "camera 5", "3201160000132000000"])
def test_a_request_may_name_no_device(subject):
    check_identity(read_claims(kit.Device().request(subject)), GBID, "SN1")


def test_another_makers_serial_number_is_refused():
    claims = read_claims(kit.Device().request(extra=[(NameOID.SERIAL_NUMBER, "SN2")]))
    check_identity(claims, GBID, "")
    check_identity(claims, GBID, "SN2")
    with pytest.raises(RefusedError):
        check_identity(claims, GBID, "SN1")


def test_a_renewal_repeats_the_subject(site):
    device = kit.Device().enrolled(site.open())
    certificate = x509.load_der_x509_certificate(device.certificate)
    full = [(item.oid, item.value) for item in certificate.subject if item.oid != NameOID.COMMON_NAME]
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    for good in (device.request(), device.request(extra=full, names=names)):
        check_same_subject(read_claims(good), certificate, GBID)
    for bad in (
        device.request(""),
        device.request(extra=[(NameOID.ORGANIZATION_NAME, "somebody else")]),
        device.request(names=[x509.DNSName("other.example")]),
    ):
        with pytest.raises(RefusedError) as caught:
            check_same_subject(read_claims(bad), certificate, GBID)
        assert caught.value.code == "identity.enrol.subject"


def test_a_channel_binding_must_be_the_connections():
    bound = read_claims(kit.Device().request(challenge=base64.b64encode(b"finished")))
    check_binding(bound, b"finished")
    check_binding(read_claims(DER), None)
    for other in (b"another", None, b""):
        with pytest.raises(RefusedError) as caught:
            check_binding(bound, other)
        assert caught.value.code == "identity.enrol.binding"


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(SecguardError):
        read_claims(decode_request(data))


@given(st.data())
def test_a_broken_request_is_read_or_refused(data):
    broken = bytearray(DER)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(DER) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SecguardError):
        check_identity(read_claims(bytes(broken)), GBID, "")


def test_buckets_refill_and_forget():
    now = [0.0]
    buckets = Buckets(2, 0.5, lambda: now[0])
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    assert buckets.take("b")
    assert buckets.wait("a") == pytest.approx(2)
    assert buckets.wait("never seen") == 0
    now[0] = 2
    assert buckets.wait("a") == 0
    assert buckets.take("a")
    for number in range(10_010):
        buckets.take(str(number))
    assert buckets.take("a")
    assert len(buckets._buckets) == 10_000


def test_a_flood_is_counted_and_bounded():
    flood = Flood()
    for number in range(30_000):
        flood.add("identity.enrol.secret", f"10.0.{number // 256}.{number % 256}", "est")
    facts = flood.facts()
    assert facts["count"] == 30_000
    assert facts["codes"] == {"identity.enrol.secret": 30_000}
    assert len(facts["addresses"]) == 16
    assert len(flood.addresses) == 10_000
