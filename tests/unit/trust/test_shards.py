"""Sharded lists (RFC 5280, 5.2.5): the shard that the certificate names says good; no other does."""

from datetime import timedelta

import pytest
from cryptography import x509

from secguard.trust import Purpose, TrustPolicy

DAY = timedelta(days=1)
DEVICE = Purpose.DEVICE
SHARDS = 4


def url(shard: int) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(f"http://crl.example/devices.{shard}.crl")


@pytest.fixture
def fleet(pki):
    """An issuing CA with cameras on four shards."""
    root = pki.root()
    ca = pki.issuing(root, purposes=(DEVICE,))

    def camera(shard: int):
        points = x509.CRLDistributionPoints([x509.DistributionPoint([url(shard)], None, None, None)])
        return pki.leaf(ca, purposes=(DEVICE,), extra=[(points, False)])

    def shard(number: int, revoked=(), **values):
        point = x509.IssuingDistributionPoint([url(number)], None, False, False, None, False, False)
        return pki.crl(ca, [pki.revoked(item, pki.now - DAY) for item in revoked], extra=[(point, True)], **values)

    def judge(leaf, *lists):
        policy = TrustPolicy([root.certificate], [pki.crl(root), *lists])
        found = policy.judge_chain([leaf.certificate, ca.certificate], DEVICE, pki.now)
        return [(item.code, str(item.outcome)) for item in found.findings]

    fleet = type("Fleet", (), {})()
    fleet.ca, fleet.camera, fleet.shard, fleet.judge = ca, camera, shard, judge
    return fleet


def test_each_camera_by_its_own_shard(fleet):
    cameras = [fleet.camera(number) for number in range(SHARDS)]
    lists = [fleet.shard(number, [cameras[2]] if number == 2 else []) for number in range(SHARDS)]
    for number, camera in enumerate(cameras):
        expected = [("trust.certificate.revoked", "fail")] if number == 2 else []
        assert fleet.judge(camera, *lists) == expected
        assert fleet.judge(camera, *reversed(lists)) == expected


def test_missing_shard(fleet):
    lists = [fleet.shard(number) for number in range(SHARDS) if number != 1]
    assert fleet.judge(fleet.camera(1), *lists) == [("trust.crl.unsupported", "unknown")]


def test_entry_in_a_shard_of_others_says_nothing(fleet):
    """A serial number on the wrong shard is not this certificate's: what it covers is decided by its point."""
    camera = fleet.camera(1)
    assert fleet.judge(camera, fleet.shard(0, [camera])) == [("trust.crl.unsupported", "unknown")]


def test_full_list_beats_a_stale_shard(pki, fleet):
    camera = fleet.camera(1)
    stale = fleet.shard(1, start=pki.now - 9 * DAY, end=pki.now - DAY)
    assert fleet.judge(camera, stale) == [("trust.crl.stale", "unknown")]
    for lists in ([stale, pki.crl(fleet.ca)], [pki.crl(fleet.ca), stale]):
        assert fleet.judge(camera, *lists) == []
    revoked = pki.crl(fleet.ca, [pki.revoked(camera, pki.now - DAY)])
    assert fleet.judge(camera, stale, revoked) == [("trust.certificate.revoked", "fail")]


def test_stale_shard_says_more_than_the_fresh_ones_of_others(pki, fleet):
    stale = fleet.shard(1, start=pki.now - 9 * DAY, end=pki.now - DAY)
    assert fleet.judge(fleet.camera(1), fleet.shard(0), stale) == [("trust.crl.stale", "unknown")]


def test_camera_that_names_no_point_is_on_no_shard(pki, fleet):
    plain = pki.leaf(fleet.ca, purposes=(DEVICE,))
    assert fleet.judge(plain, fleet.shard(0)) == [("trust.crl.unsupported", "unknown")]
    assert fleet.judge(plain, fleet.shard(0), pki.crl(fleet.ca)) == []


def test_delta_list_is_said_to_be_one(pki, fleet):
    delta = pki.crl(fleet.ca, extra=[(x509.DeltaCRLIndicator(1), True)])
    assert fleet.judge(fleet.camera(0), delta) == [("trust.crl.unsupported", "unknown")]
    assert fleet.judge(fleet.camera(0), delta, fleet.shard(0)) == []
