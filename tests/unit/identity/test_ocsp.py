"""The OCSP responder: what it says of whom, read by `cryptography`, and by whose key."""

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from secguard.core import FixedClock
from secguard.identity import Registry, Request
from secguard.identity.issuing.issue import new_serial
from secguard.identity.records import CaStatus
from secguard.identity.status.delegate import delegates, obtain
from secguard.identity.status.der import sequence
from secguard.identity.status.ocsp import LIFETIME, Responder, ResponseStatus
from secguard.identity.status.request import parse_request
from secguard.trust import Purpose

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
CAMERA = "32011600001320000001"
OTHER = "32011600001320000002"


@pytest.fixture
def responder(site):
    opened = Registry.open(site.registry.path)
    made = Responder(opened, site.clock)
    authority = site.open()
    found, failed = delegates(authority)
    assert not failed
    made.serve(authority.certificates.items(), found)
    yield made
    opened.close()


def ask(certificate, issuer, digest=None, nonce=b"") -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, digest or hashes.SHA256())
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def ask_many(*requests: bytes) -> bytes:
    return sequence(sequence(sequence(*(sequence(parse_request(one).certificates[0].raw) for one in requests))))


def read(answer) -> ocsp.OCSPResponse:
    assert answer.status is ResponseStatus.SUCCESSFUL
    response = ocsp.load_der_ocsp_response(answer.der)
    (signer,) = response.certificates
    signer.public_key().verify(response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
    return response


def statuses(answer) -> list[str]:
    return [item.certificate_status.name for item in read(answer).responses]


@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA256()])
def test_good_then_revoked(site, responder, digest):
    authority = site.open()
    leaf = authority.issue([Request(CAMERA, "camera")])[0].certificate
    issuer = authority.certificates["devices"]
    request = ask(leaf, issuer, digest, nonce=b"n" * 32)
    response = read(responder.respond(request))
    assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert response.serial_number == leaf.serial_number
    assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
    assert response.this_update_utc == response.produced_at_utc == NOW
    assert response.next_update_utc == NOW + LIFETIME
    (signer,) = response.certificates
    signer.verify_directly_issued_by(issuer)
    assert ExtendedKeyUsageOID.OCSP_SIGNING in signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert signer.extensions.get_extension_for_class(x509.OCSPNoCheck)
    assert response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(signer.public_key()).digest
    since = NOW - timedelta(days=3)
    authority.revoke(CAMERA, "keyCompromise", since=since)
    (single,) = read(responder.respond(request)).responses
    assert single.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert single.revocation_time_utc == NOW
    assert single.revocation_reason is x509.ReasonFlags.key_compromise


@pytest.mark.parametrize("plain", [True, False])
def test_revocation_by_another_process_is_told_at_once(site, responder, plain):
    """Also to those whose answer was kept."""
    authority = site.open()
    leaf = authority.issue([Request(CAMERA, "camera")])[0].certificate
    request = ask(leaf, authority.certificates["devices"], nonce=b"" if plain else b"n" * 16)
    first = responder.respond(request)
    assert statuses(first) == ["GOOD"]
    assert (responder.respond(request) is first) == plain
    script = """import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("UPDATE certificates SET status = 'revoked', revoked = '2026-11-01T12:00:00Z', reason = 'superseded', "
           "revocation = 7 WHERE serial = ?", (sys.argv[2],))
db.commit()
"""
    words = [sys.executable, "-c", script, str(site.registry.path), f"{leaf.serial_number:032x}"]
    subprocess.run(words, check=True)
    assert statuses(responder.respond(request)) == ["REVOKED"]


def test_never_good_for_what_was_not_handed_out(site, responder):
    """RFC 6960, 2.2: neither a forged serial number, nor one that is reserved, signed or void."""
    authority = site.open()
    leaf = authority.issue([Request(CAMERA, "camera")])[0].certificate
    issuer = authority.certificates["devices"]
    forged = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(issuer.subject)
        .public_key(leaf.public_key())
        .serial_number(int(new_serial(), 16))
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    assert statuses(responder.respond(ask(forged, issuer))) == ["UNKNOWN"]
    row = authority.registry.active(CAMERA, "camera")
    for status in ("signed", "void", "reserved"):
        with sqlite3.connect(site.registry.path) as db:
            db.execute("UPDATE certificates SET status = ? WHERE serial = ?", (status, row.serial))
        db.close()
        assert statuses(responder.respond(ask(leaf, issuer))) == ["UNKNOWN"], status


def test_renewed_certificate_stays_good(site, responder):
    first = site.open().issue([Request(CAMERA, "camera")])[0]
    site.open().renew(CAMERA, "camera")
    assert site.registry.by_serial(first.record.serial).status == "superseded"
    assert statuses(responder.respond(ask(first.certificate, site.open().certificates["devices"]))) == ["GOOD"]


def test_many_certificates_at_one_point_in_time(site, responder):
    authority = site.open()
    leaves = [authority.issue([Request(gbid, "camera")])[0].certificate for gbid in (CAMERA, OTHER)]
    authority.revoke(OTHER, "unspecified")
    issuer = authority.certificates["devices"]
    requests = [ask(leaf, issuer) for leaf in leaves]
    answer = responder.respond(ask_many(*requests, requests[0]))
    assert statuses(answer) == ["GOOD", "REVOKED", "GOOD"]
    responses = list(read(answer).responses)
    assert [one.serial_number for one in responses] == [leaf.serial_number for leaf in (*leaves, leaves[0])]
    assert len({one.this_update_utc for one in responses}) == 1
    assert responses[1].revocation_reason is None


def test_who_may_answer_for_whom(site, responder):
    authority = site.open()
    camera, media = authority.issue([Request(CAMERA, "camera")])
    cas = authority.certificates
    both = ask_many(ask(camera.certificate, cas["devices"]), ask(media.certificate, cas["media"]))
    assert responder.respond(both).status is ResponseStatus.UNAUTHORIZED
    stranger = ask(camera.certificate, camera.certificate)
    assert responder.respond(stranger).status is ResponseStatus.UNAUTHORIZED
    assert statuses(responder.respond(ask_many(ask(camera.certificate, cas["devices"]), stranger))) == [
        "GOOD",
        "UNKNOWN",
    ]
    assert responder.respond(ask(cas["devices"], cas["root"])).status is ResponseStatus.UNAUTHORIZED
    seen = set()
    for row in [
        row for row in authority.registry.certificates() if row.issuer != "root"
    ]:  # those of the responders are among them
        signer = read(responder.respond(ask(row.x509(), cas[row.issuer]))).certificates[0]
        signer.verify_directly_issued_by(cas[row.issuer])
        seen.add(row.issuer)
    assert seen == set(cas) - {"root"}
    assert responder.respond(b"\x30\x00").status is ResponseStatus.MALFORMED_REQUEST
    for status in (ResponseStatus.UNAUTHORIZED, ResponseStatus.MALFORMED_REQUEST):
        data = {ResponseStatus.UNAUTHORIZED: stranger, ResponseStatus.MALFORMED_REQUEST: b"?"}[status]
        assert ocsp.load_der_ocsp_response(responder.respond(data).der).response_status.value == status


def test_expired_certificate_has_an_archive_cutoff(site, responder):
    authority = site.open()
    leaf = authority.issue([Request(CAMERA, "camera")])[0].certificate
    site.clock = FixedClock(NOW + timedelta(days=1000))
    later = site.open()
    registry = Registry.open(site.registry.path)
    late = Responder(registry, site.clock)
    late.serve(later.certificates.items(), delegates(later)[0])
    response = read(late.respond(ask(leaf, authority.certificates["devices"])))
    assert response.certificate_status is ocsp.OCSPCertStatus.GOOD
    cutoff = response.single_extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.48.1.6"))
    start = authority.certificates["devices"].not_valid_before_utc
    assert cutoff.value.value == b"\x18\x0f" + start.strftime("%Y%m%d%H%M%SZ").encode()
    registry.close()


def test_invalidity_date_is_a_single_extension(site, responder):
    authority = site.open()
    leaf = authority.issue([Request(CAMERA, "camera")])[0].certificate
    authority.revoke(CAMERA, "keyCompromise", since=datetime(2026, 10, 1, tzinfo=UTC))
    found = b"\x06\x03\x55\x1d\x18\x04\x11\x18\x0f20261001000000Z"
    assert found in responder.respond(ask(leaf, authority.certificates["devices"])).der


def test_delegates_are_kept_and_renewed(site):
    first = obtain(site.open(), "devices")
    again = obtain(site.open(), "devices")
    assert again.certificates == first.certificates
    assert site.registry.active("ocsp/devices", "ocsp").purpose == Purpose.OCSP
    key = site.state / "keys" / "ocsp.devices.key.pem"
    assert key.stat().st_mode & 0o777 == 0o600
    late = FixedClock(NOW + timedelta(days=16))
    renewed = obtain(site.open(clock=late), "devices")
    assert renewed.not_after > first.not_after
    assert site.recorder.kinds[-1] == "certificate.renewed"
    key.unlink()  # lost: another key takes over
    other = obtain(site.open(clock=late), "devices")
    assert other.responder != renewed.responder


def test_revoked_delegate_gets_another_key(site):
    first = obtain(site.open(), "devices")
    site.open().revoke("ocsp/devices", "keyCompromise")
    assert obtain(site.open(), "devices").responder != first.responder


def test_retiring_ca_still_answers_and_a_lapsed_delegate_does_not(site):
    authority = site.open()
    leaf = authority.issue([Request(CAMERA, "camera")])[0].certificate
    record = authority.registry.authorities()["devices"]
    with authority.registry.transaction():
        authority.registry.set_authority(msgspec.structs.replace(record, status=CaStatus.RETIRING))
    later = site.open()
    registry = Registry.open(site.registry.path)
    made = Responder(registry, site.clock)
    made.serve(later.certificates.items(), delegates(later)[0])
    assert statuses(made.respond(ask(leaf, authority.certificates["devices"]))) == ["GOOD"]
    lapsed = Responder(registry, FixedClock(NOW + timedelta(days=31)))
    lapsed.serve(later.certificates.items(), delegates(later)[0])
    assert lapsed.respond(ask(leaf, authority.certificates["devices"])).status is ResponseStatus.TRY_LATER
    registry.close()


def test_without_a_passphrase_nobody_answers(site):
    found, failed = delegates(site.open(None))
    assert not found
    assert {error.code for error in failed.values()} == {"keys.passphrase.missing"}
