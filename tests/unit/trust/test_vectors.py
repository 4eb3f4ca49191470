"""The ONVIF test vectors: a foreign root, a version 1 leaf without extensions, valid until 2025-11-13."""

import re
from pathlib import Path

import pytest

from secguard.core import parse_time
from secguard.trust import Purpose, TrustPolicy, parse_certificates, read_certificates

VECTORS = Path(__file__).parents[2] / "vectors" / "onvif"


@pytest.fixture(scope="module")
def chain():
    # The chain stands in the video as PEM, which needs no emulation prevention.
    data = (VECTORS / "test_signed_h264.mp4").read_bytes()
    found = re.search(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", data, re.DOTALL)
    assert found is not None
    return parse_certificates(found.group())


@pytest.mark.parametrize(
    ("at", "codes"),
    [
        ("2025-06-01T00:00:00Z", ["trust.purpose.unstated", "trust.crl.missing"]),
        ("2026-11-01T00:00:00Z", ["trust.certificate.expired", "trust.purpose.unstated", "trust.crl.missing"]),
        ("2024-01-01T00:00:00Z", None),
    ],
)
def test_judged_for_a_time(chain, at, codes):
    policy = TrustPolicy(read_certificates(VECTORS / "ca.pem"))
    found = policy.judge_chain(chain, Purpose.MEDIA_SIGNING, parse_time(at))
    assert found.foreign
    assert found.believed == (at.startswith("2025"))
    if codes is not None:
        assert [item.code for item in found.findings] == codes
