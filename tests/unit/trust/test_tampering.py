"""Every byte of a certificate and of a revocation list, changed: never believed as something else.

One change may be no change: the octet that counts the unused bits of the signature's BIT STRING, when the bits that it
would drop are zero. What was signed is the same then, to the byte.
"""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.trust import MALFORMED, Purpose, TrustPolicy

MEDIA = Purpose.MEDIA_SIGNING
_FLIPS = (0x01, 0x80, 0xFF)
# A changed serial number may be negative, which the parser remarks upon.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")


def test_every_byte_of_a_certificate(pki, good):
    original = good.leaf.certificate.public_bytes(Encoding.DER)
    policy = good.policy
    judged = 0
    for index in range(len(original)):
        for flip in _FLIPS:
            data = bytearray(original)
            data[index] ^= flip
            try:
                changed = x509.load_der_x509_certificate(bytes(data))
            except MALFORMED:
                continue
            found = policy.judge_chain([changed, good.issuing.certificate], MEDIA, pki.now)
            judged += 1
            same = changed.tbs_certificate_bytes == good.leaf.certificate.tbs_certificate_bytes
            assert not found.believed or same, index
    assert judged > len(original)  # most changes still parse, so they were really judged


def test_every_byte_of_an_issuing_ca(pki, good):
    original = good.issuing.certificate.public_bytes(Encoding.DER)
    for index in range(len(original)):
        data = bytearray(original)
        data[index] ^= 0x01
        try:
            changed = x509.load_der_x509_certificate(bytes(data))
        except MALFORMED:
            continue
        found = good.policy.judge_chain([good.leaf.certificate, changed], MEDIA, pki.now)
        assert not found.believed or changed.tbs_certificate_bytes == good.issuing.certificate.tbs_certificate_bytes


def test_every_byte_of_a_revocation_list(pki, good):
    crl = pki.crl(good.issuing, [pki.revoked(good.leaf, pki.now - pki.now.resolution)])
    original = crl.public_bytes(Encoding.DER)
    judged = 0
    for index in range(len(original)):
        for flip in _FLIPS:
            data = bytearray(original)
            data[index] ^= flip
            try:
                changed = x509.load_der_x509_crl(bytes(data))
            except MALFORMED:
                continue
            found = TrustPolicy([good.root.certificate], [good.crls[0], changed]).judge_chain(
                good.chain, MEDIA, pki.now
            )
            judged += 1
            assert not found.unrevoked, index
            # A list that was changed says nothing at all, so it takes no certificate out of service either.
            revoked = "trust.certificate.revoked" in {item.code for item in found.findings}
            assert not revoked or changed.tbs_certlist_bytes == crl.tbs_certlist_bytes, index
    assert judged > len(original)
