"""Judging chains: every way a chain can be wrong is named, and nothing wrong is believed."""

import warnings
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from secguard.core import Axis, Outcome, UsageError, judge
from secguard.gbid import GbId, Scope
from secguard.trust import Purpose, TrustPolicy, scope_extension

MEDIA = Purpose.MEDIA_SIGNING


def codes(judgement) -> list[str]:
    return [item.code for item in judgement.findings]


def test_good_chain_is_believed_and_unrevoked(pki, good):
    found = good.policy.judge_chain(good.chain, MEDIA, pki.now, gbid=pki.camera)
    assert found.findings == ()
    assert found.believed
    assert found.unrevoked
    assert found.gbid == pki.camera
    assert found.path == (*good.chain, good.root.certificate)
    assert not found.foreign
    assert found.examined == {Axis.PROVENANCE, Axis.REVOCATION}


def test_order_of_intermediates_and_a_root_among_them_do_not_matter(pki, good):
    other = pki.issuing(pki.root("other"), "stranger")
    chain = [good.leaf.certificate, good.root.certificate, other.certificate, good.issuing.certificate]
    assert good.policy.judge_chain(chain, MEDIA, pki.now).findings == ()


def test_naive_time_is_a_programming_error(pki, good):
    with pytest.raises(ValueError, match="aware"):
        good.policy.judge_chain(good.chain, MEDIA, pki.now.replace(tzinfo=None))


def test_empty_chain(pki, good):
    found = good.policy.judge_chain([], MEDIA, pki.now)
    assert codes(found) == ["trust.chain.empty"]
    assert not found.believed
    assert found.leaf is None


def test_tons_of_certificates_are_refused(pki, good):
    found = good.policy.judge_chain([good.leaf.certificate, *[good.issuing.certificate] * 5000], MEDIA, pki.now)
    assert codes(found) == ["trust.chain.too-long"]
    assert not found.believed


def test_missing_intermediate(pki, good):
    found = good.policy.judge_chain([good.leaf.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.chain.incomplete"]
    assert found.examined == {Axis.PROVENANCE}  # so that a required revocation reads unknown
    verdict = judge(
        "x",
        pki.now,
        examined=found.examined,
        findings=found.findings,
        default=(Axis.PROVENANCE, Axis.REVOCATION),
    )
    assert verdict.outcome is Outcome.FAIL
    assert verdict.axes[Axis.REVOCATION] is Outcome.UNKNOWN


def test_self_signed_leaf(pki, good):
    leaf = pki.make(pki.camera.value, None, ca=False, purposes=(MEDIA,), gbid=pki.camera)
    assert codes(good.policy.judge_chain([leaf.certificate], MEDIA, pki.now)) == ["trust.chain.untrusted"]


def test_another_root_of_the_same_name(pki, good):
    root = pki.root()
    issuing = pki.issuing(root)
    leaf = pki.leaf(issuing)
    chain = [leaf.certificate, issuing.certificate, root.certificate]
    found = good.policy.judge_chain(chain, MEDIA, pki.now)
    assert codes(found)[0] in {"trust.chain.untrusted", "trust.chain.signature", "trust.chain.incomplete"}
    assert not found.believed


def test_forged_signature(pki, good):
    forger = type(good.issuing)(good.issuing.certificate, pki.key())
    leaf = pki.leaf(forger)
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.chain.signature"]


def test_path_too_long(pki, good):
    below = pki.issuing(good.issuing, "below", path_length=None)
    leaf = pki.leaf(below)
    chain = [leaf.certificate, below.certificate, good.issuing.certificate]
    assert codes(good.policy.judge_chain(chain, MEDIA, pki.now)) == ["trust.path.length"]


def test_device_that_signs_certificates(pki, good):
    below = pki.leaf(good.leaf, "evil")
    chain = [below.certificate, good.leaf.certificate, good.issuing.certificate]
    assert codes(good.policy.judge_chain(chain, MEDIA, pki.now)) == ["trust.ca.invalid"]


def test_unknown_critical_extension_is_rejected(pki, good):
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    leaf = pki.leaf(good.issuing, extra=[(unknown, True)])
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.chain.rejected"]


def test_name_constraints(pki, good):
    constraint = x509.NameConstraints([x509.DNSName("cam.320116.example")], None)
    issuing = pki.issuing(good.root, "limited", extra=[(constraint, True)])
    policy = TrustPolicy([good.root.certificate], [*good.crls, pki.crl(issuing)])
    inside = pki.leaf(issuing, sans=[x509.DNSName("d1.cam.320116.example")])
    assert policy.judge_chain([inside.certificate, issuing.certificate], MEDIA, pki.now).findings == ()
    outside = pki.leaf(issuing, sans=[x509.DNSName("d1.cam.320117.example")])
    found = policy.judge_chain([outside.certificate, issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.names.violated"]


def test_expired_and_not_yet_valid(pki, good):
    later = pki.now + timedelta(days=266)
    assert codes(good.policy.judge_chain(good.chain, MEDIA, later))[0] == "trust.certificate.expired"
    earlier = pki.now - timedelta(days=101)
    found = good.policy.judge_chain(good.chain, MEDIA, earlier)
    assert set(codes(found)) >= {"trust.certificate.not-yet-valid"}
    assert not found.believed


def test_validity_includes_both_ends(pki, good):
    leaf = good.leaf.certificate
    for at in (leaf.not_valid_before_utc, leaf.not_valid_after_utc):
        assert good.policy.judge_chain(good.chain, MEDIA, at).believed
    assert not good.policy.judge_chain(good.chain, MEDIA, leaf.not_valid_after_utc + timedelta(seconds=1)).believed


def test_expired_root_and_issuing_ca_are_named(pki):
    root = pki.root(end=pki.now - timedelta(days=1))
    issuing = pki.issuing(root, end=pki.now - timedelta(days=2))
    leaf = pki.leaf(issuing)
    found = TrustPolicy([root.certificate]).judge_chain([leaf.certificate, issuing.certificate], MEDIA, pki.now)
    assert [i.where for i in found.findings if i.code == "trust.certificate.expired"] == ["issuing", "root"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ekus": [ExtendedKeyUsageOID.SERVER_AUTH]}, "TLS server"),
        ({"ekus": []}, "no extended key usage"),
        ({"purposes": (Purpose.LOG,)}, "log"),
        ({"usage": False}, "digitalSignature"),
        ({"ekus": [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]}, "2.5.29.37.0"),
    ],
)
def test_wrong_purpose(pki, good, values, reason):
    leaf = pki.leaf(good.issuing, **values)
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.purpose.wrong"]
    assert reason in found.findings[0].data["reason"]


def test_server_only_certificate_is_no_client(pki, good, server_auth):
    leaf = pki.leaf(good.issuing, purposes=(Purpose.DEVICE,), ekus=[server_auth])
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], Purpose.DEVICE, pki.now)
    assert codes(found) == ["trust.purpose.wrong"]


def test_right_eku_without_the_policy_is_not_enough(pki, good):
    # An operator's certificate may hold clientAuth too; it is still no device.
    leaf = pki.leaf(good.issuing, purposes=(Purpose.LOG,), ekus=[ExtendedKeyUsageOID.CLIENT_AUTH])
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], Purpose.DEVICE, pki.now)
    assert codes(found) == ["trust.purpose.wrong"]


def test_issuing_ca_cannot_hand_out_a_purpose_it_was_not_given(pki, good):
    issuing = pki.issuing(good.root, "devices only", purposes=(Purpose.DEVICE,))
    leaf = pki.leaf(issuing)
    policy = TrustPolicy([good.root.certificate], [*good.crls, pki.crl(issuing)])
    found = policy.judge_chain([leaf.certificate, issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.purpose.wrong"]
    assert found.findings[0].where == "devices only"


def test_ca_certificate_is_no_end_entity(pki, good):
    found = good.policy.judge_chain([good.issuing.certificate], MEDIA, pki.now)
    assert codes(found)[0] == "trust.purpose.wrong"


def test_weak_keys_and_hashes(pki, good):
    short = rsa.generate_private_key(65537, 1024)
    leaf = pki.leaf(good.issuing, key=short)
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.certificate.weak"]
    curve = pki.leaf(good.issuing, key=ec.generate_private_key(ec.SECP256K1()))
    found = good.policy.judge_chain([curve.certificate, good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.certificate.weak"]


# GB scope


def test_camera_of_another_district(pki, good):
    other = GbId("32011700001320000001")
    leaf = pki.leaf(good.issuing, other.value, gbid=other)
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.scope.device", "trust.scope.device"]  # outside the issuing CA's and the root's
    assert not found.believed


def test_child_scope_wider_than_its_parent(pki, good):
    issuing = pki.issuing(good.root, "greedy", scope=Scope(("3201",)))
    leaf = pki.leaf(issuing)
    policy = TrustPolicy([good.root.certificate], [*good.crls, pki.crl(issuing)])
    assert codes(policy.judge_chain([leaf.certificate, issuing.certificate], MEDIA, pki.now)) == [
        "trust.scope.exceeded"
    ]


def test_ca_without_a_scope(pki, good):
    issuing = pki.issuing(good.root, "unlimited", scope=None)
    leaf = pki.leaf(issuing)
    policy = TrustPolicy([good.root.certificate], [*good.crls, pki.crl(issuing)])
    assert codes(policy.judge_chain([leaf.certificate, issuing.certificate], MEDIA, pki.now)) == ["trust.scope.missing"]


def test_unreadable_scope(pki, good):
    broken = x509.UnrecognizedExtension(scope_extension(pki.district).oid, b"\x30\x80\x00\x00")
    issuing = pki.issuing(good.root, "broken", scope=None, extra=[(broken, False)])
    leaf = pki.leaf(issuing)
    found = good.policy.judge_chain([leaf.certificate, issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.certificate.malformed"]
    assert not found.believed


def test_wrong_device(pki, good):
    other = GbId("32011600001320000002")
    found = good.policy.judge_chain(good.chain, MEDIA, pki.now, gbid=other)
    assert codes(found) == ["trust.gbid.mismatch"]


def test_no_device_named(pki, good):
    leaf = pki.leaf(good.issuing, gbid=None)
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.gbid.absent"]  # the CN alone does not count under a root of ours
    assert found.gbid is None


def test_common_name_that_contradicts_the_identifier(pki, good):
    leaf = pki.leaf(good.issuing, "32011600001320000009")
    found = good.policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.certificate.malformed"]


# Foreign roots: the user's own choice of trust anchor


def test_foreign_root_purpose_may_be_unstated(pki):
    root = pki.root("maker", scope=None)
    leaf = pki.leaf(root, "Some camera", purposes=(), gbid=None)
    found = TrustPolicy([root.certificate]).judge_chain([leaf.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.purpose.unstated", "trust.crl.missing"]
    assert found.believed
    assert found.foreign
    assert not found.unrevoked


def test_foreign_root_stated_purpose_must_fit(pki, server_auth):
    root = pki.root("maker", scope=None)
    policy = TrustPolicy([root.certificate], [pki.crl(root)])
    server = pki.leaf(root, "Some camera", purposes=(), ekus=[server_auth], gbid=None)
    assert codes(policy.judge_chain([server.certificate], MEDIA, pki.now)) == ["trust.purpose.wrong"]
    signing = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
    signer = pki.leaf(root, "Some camera", purposes=(), ekus=[signing], gbid=None)
    assert codes(policy.judge_chain([signer.certificate], MEDIA, pki.now)) == []


@pytest.mark.parametrize("purpose", [Purpose.LOG, Purpose.OPERATOR, Purpose.WITNESS, Purpose.TSA, Purpose.OCSP])
def test_foreign_root_certifies_no_log_or_operator_in_silence(pki, purpose):
    root = pki.root("maker", scope=None)
    policy = TrustPolicy([root.certificate], [pki.crl(root)])
    for ekus in ([], [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]):
        leaf = pki.leaf(root, "some key", purposes=(), ekus=ekus, gbid=None)
        assert codes(policy.judge_chain([leaf.certificate], purpose, pki.now)) == ["trust.purpose.wrong"]


def test_foreign_certificate_without_an_id_is_unknown_not_wrong(pki):
    root = pki.root("maker", scope=None)
    policy = TrustPolicy([root.certificate], [pki.crl(root)])
    leaf = pki.leaf(root, "Some camera", gbid=None)
    found = policy.judge_chain([leaf.certificate], MEDIA, pki.now, gbid=pki.camera)
    assert [(i.code, i.outcome) for i in found.findings] == [("trust.gbid.absent", Outcome.UNKNOWN)]
    assert not found.believed
    named = pki.leaf(root, pki.camera.value, gbid=None)
    assert policy.judge_chain([named.certificate], MEDIA, pki.now, gbid=pki.camera).gbid == pki.camera


def test_foreign_root_beside_ours_does_not_loosen_our_rules(pki, good):
    maker = pki.root("maker", scope=None)
    policy = TrustPolicy([maker.certificate, good.root.certificate], good.crls)
    leaf = pki.leaf(good.issuing, ekus=[])
    assert codes(policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now)) == [
        "trust.purpose.wrong"
    ]


# Roots


def test_no_root_and_no_self_signed_root(good):
    with pytest.raises(UsageError, match="no trust anchor"):
        TrustPolicy([])
    with pytest.raises(UsageError, match="not a root"):
        TrustPolicy([good.leaf.certificate])


# Keys of logs


def test_log_keys(pki, good):
    key = ed25519.Ed25519PrivateKey.generate()
    log = pki.leaf(good.issuing, "video.example/log", key=key, purposes=(Purpose.LOG,), gbid=None)
    chain = [log.certificate, good.issuing.certificate]
    keys = good.policy.log_keys([chain], pki.now)
    assert [(item.name, item.public_key) for item in keys.keys] == [("video.example/log", key.public_key())]
    assert keys.findings == ()
    assert good.policy.log_keys([good.chain], pki.now).keys == ()  # a camera's key signs no checkpoints
    stale = TrustPolicy([good.root.certificate]).log_keys([chain], pki.now)
    assert stale.keys == ()
    assert {item.code for item in stale.findings} == {"trust.crl.missing"}


def test_log_certificate_without_an_ed25519_key(pki, good):
    log = pki.leaf(good.issuing, "video.example/log", purposes=(Purpose.LOG,), gbid=None)
    keys = good.policy.log_keys([[log.certificate, good.issuing.certificate]], pki.now)
    assert keys.keys == ()
    assert [item.code for item in keys.findings] == ["trust.log.key"]


def test_sha1_signature_is_not_believed(pki, good):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyOpenSSL would rather not
        again = crypto.X509.from_cryptography(good.leaf.certificate)
        again.sign(crypto.PKey.from_cryptography_key(good.issuing.key), "sha1")
    found = good.policy.judge_chain([again.to_cryptography(), good.issuing.certificate], MEDIA, pki.now)
    assert codes(found) == ["trust.certificate.weak"]
    assert "hash" in found.findings[0].data["reason"]
