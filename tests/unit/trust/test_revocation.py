"""Revocation: only a fresh list of the right issuer says `good`; whatever else there is reads as unknown."""

from datetime import timedelta

import pytest
from cryptography import x509

from secguard.core import Axis, Outcome, TimeSource, judge
from secguard.trust import EXPIRED_CERTS_ON_CRL, Purpose, TrustPolicy

MEDIA = Purpose.MEDIA_SIGNING
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def judged(pki, good, crls, at=None, **values):
    return TrustPolicy([good.root.certificate], crls).judge_chain(good.chain, MEDIA, at or pki.now, **values)


def outcomes(judgement) -> list[tuple[str, str]]:
    return [(item.code, str(item.outcome)) for item in judgement.findings]


def test_no_list(pki, good):
    found = judged(pki, good, [])
    assert outcomes(found) == [("trust.crl.missing", "unknown")] * 2
    assert found.believed
    assert not found.unrevoked
    verdict = judge(
        "x", pki.now, examined=found.examined, findings=found.findings, default=(Axis.PROVENANCE, Axis.REVOCATION)
    )
    assert verdict.outcome is Outcome.UNKNOWN


def test_list_of_the_issuing_ca_alone_does_not_cover_that_ca(pki, good):
    assert outcomes(judged(pki, good, [good.crls[1]])) == [("trust.crl.missing", "unknown")]


def test_revoked_before(pki, good):
    crl = pki.crl(good.issuing, [pki.revoked(good.leaf, pki.now - HOUR, x509.ReasonFlags.key_compromise)])
    found = judged(pki, good, [good.crls[0], crl])
    assert outcomes(found) == [("trust.certificate.revoked", "fail")]
    assert found.findings[0].data["reason"] == "keyCompromise"
    assert found.believed  # provenance holds; it is the revocation axis that fails
    assert not found.unrevoked


def test_revoked_at_this_very_second(pki, good):
    crl = pki.crl(good.issuing, [pki.revoked(good.leaf, pki.now)])
    assert outcomes(judged(pki, good, [good.crls[0], crl])) == [("trust.certificate.revoked", "fail")]


def test_revoked_later_passes_with_a_remark(pki, good):
    crl = pki.crl(good.issuing, [pki.revoked(good.leaf, pki.now - HOUR)])
    found = judged(pki, good, [pki.crl(good.root), crl], pki.now - DAY)
    assert outcomes(found) == [("trust.certificate.revoked-later", "pass")]
    assert found.unrevoked


@pytest.mark.parametrize(
    ("source", "reason", "outcome"),
    [
        (TimeSource.CLAIMED, x509.ReasonFlags.key_compromise, "unknown"),
        (TimeSource.LEDGER, x509.ReasonFlags.key_compromise, "pass"),
        (TimeSource.CLAIMED, x509.ReasonFlags.superseded, "pass"),
    ],
)
def test_a_claimed_time_proves_nothing_once_the_key_is_stolen(pki, good, source, reason, outcome):
    crl = pki.crl(good.issuing, [pki.revoked(good.leaf, pki.now - HOUR, reason)])
    found = judged(pki, good, [good.crls[0], crl], pki.now - DAY, source=source)
    assert outcomes(found) == [("trust.certificate.revoked-later", outcome)]


def test_invalidity_date_counts(pki, good):
    entry = pki.revoked(good.leaf, pki.now - HOUR, x509.ReasonFlags.key_compromise, invalid=pki.now - 10 * DAY)
    found = judged(pki, good, [good.crls[0], pki.crl(good.issuing, [entry])], pki.now - 5 * DAY)
    assert outcomes(found) == [("trust.certificate.revoked", "fail")]


def test_issuing_ca_revoked(pki, good):
    crl = pki.crl(good.root, [pki.revoked(good.issuing, pki.now - HOUR, x509.ReasonFlags.ca_compromise)])
    found = judged(pki, good, [crl, good.crls[1]])
    assert outcomes(found) == [("trust.certificate.revoked", "fail")]
    assert found.findings[0].where == "issuing"


def test_stale(pki, good):
    stale = pki.crl(good.issuing, start=pki.now - 10 * DAY, end=pki.now - HOUR)
    assert outcomes(judged(pki, good, [good.crls[0], stale])) == [("trust.crl.stale", "unknown")]
    assert judged(pki, good, [good.crls[0], stale], pki.now - 2 * HOUR).unrevoked


def test_stale_list_still_names_what_it_holds(pki, good):
    entry = pki.revoked(good.leaf, pki.now - 11 * DAY)
    stale = pki.crl(good.issuing, [entry], start=pki.now - 10 * DAY, end=pki.now - HOUR)
    assert outcomes(judged(pki, good, [good.crls[0], stale])) == [("trust.certificate.revoked", "fail")]


def test_fresh_list_wins_over_a_stale_one_in_any_order(pki, good):
    stale = pki.crl(good.issuing, start=pki.now - 10 * DAY, end=pki.now - HOUR)
    for crls in ([stale, *good.crls], [*good.crls, stale]):
        assert judged(pki, good, crls).findings == ()


def test_newer_list_is_not_hidden_by_an_older_fresh_one(pki, good):
    older = pki.crl(good.issuing, start=pki.now - 2 * DAY, end=pki.now + DAY)
    newer = pki.crl(good.issuing, [pki.revoked(good.leaf, pki.now - 2 * HOUR)], start=pki.now - HOUR)
    for crls in ([older, newer], [newer, older]):
        assert outcomes(judged(pki, good, [good.crls[0], *crls])) == [("trust.certificate.revoked", "fail")]


def test_wrong_signer(pki, good):
    forged = pki.crl(good.issuing, key=pki.key())
    assert outcomes(judged(pki, good, [good.crls[0], forged])) == [("trust.crl.signature", "unknown")]
    # Beside a true list it changes nothing.
    assert judged(pki, good, [*good.crls, forged]).findings == ()


def test_issuer_that_may_not_sign_lists(pki, good):
    issuing = pki.issuing(good.root, "no lists", crl_sign=False)
    leaf = pki.leaf(issuing)
    policy = TrustPolicy([good.root.certificate], [good.crls[0], pki.crl(issuing)])
    found = policy.judge_chain([leaf.certificate, issuing.certificate], MEDIA, pki.now)
    assert outcomes(found) == [("trust.crl.signature", "unknown")]


def point(full_name=None, **flags) -> x509.IssuingDistributionPoint:
    values = {
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
        **flags,
    }
    return x509.IssuingDistributionPoint(full_name=full_name, relative_name=None, **values)


@pytest.mark.parametrize(
    "extension",
    [
        point(only_contains_ca_certs=True),
        point(indirect_crl=True),
        point([x509.UniformResourceIdentifier("http://crl.example/2.crl")]),
        x509.DeltaCRLIndicator(1),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
    ],
)
def test_list_that_does_not_cover_the_certificate(pki, good, extension):
    crl = pki.crl(good.issuing, extra=[(extension, True)])
    assert outcomes(judged(pki, good, [good.crls[0], crl])) == [("trust.crl.unsupported", "unknown")]


def test_shard_of_the_certificate(pki, good):
    url = x509.UniformResourceIdentifier("http://crl.example/1.crl")
    where = x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)])
    leaf = pki.leaf(good.issuing, extra=[(where, False)])
    crl = pki.crl(good.issuing, extra=[(point([url], only_contains_user_certs=True), True)])
    policy = TrustPolicy([good.root.certificate], [good.crls[0], crl])
    assert policy.judge_chain([leaf.certificate, good.issuing.certificate], MEDIA, pki.now).findings == ()


def test_list_made_after_the_certificate_expired(pki, good):
    leaf = pki.leaf(good.issuing, end=pki.now - 10 * DAY)
    chain = [leaf.certificate, good.issuing.certificate]
    at = pki.now - 20 * DAY
    root_list = pki.crl(good.root)
    policy = TrustPolicy([good.root.certificate], [root_list, pki.crl(good.issuing)])
    assert outcomes(policy.judge_chain(chain, MEDIA, at)) == [("trust.crl.after-expiry", "unknown")]
    # A list that says that it keeps expired certificates answers.
    stamp = good.issuing.certificate.not_valid_before_utc.strftime("%Y%m%d%H%M%SZ").encode()
    keeps = x509.UnrecognizedExtension(EXPIRED_CERTS_ON_CRL, b"\x18\x0f" + stamp)
    policy = TrustPolicy([good.root.certificate], [root_list, pki.crl(good.issuing, extra=[(keeps, False)])])
    assert policy.judge_chain(chain, MEDIA, at).findings == ()
    broken = x509.UnrecognizedExtension(EXPIRED_CERTS_ON_CRL, b"\x18\x0fnot-a-time-atZZ")
    policy = TrustPolicy([good.root.certificate], [root_list, pki.crl(good.issuing, extra=[(broken, False)])])
    assert outcomes(policy.judge_chain(chain, MEDIA, at)) == [("trust.crl.after-expiry", "unknown")]


def test_a_list_without_an_end_is_stale(pki, good):
    # cryptography's builder insists on nextUpdate, so the rule is shown on the one that is furthest away.
    crl = pki.crl(good.issuing, end=pki.now + DAY)
    assert outcomes(judged(pki, good, [pki.crl(good.root, end=pki.now + 9 * DAY), crl], pki.now + 2 * DAY)) == [
        ("trust.crl.stale", "unknown")
    ]


def test_large_list_is_a_set(pki, good):
    when = pki.now - HOUR
    entries = [
        x509.RevokedCertificateBuilder().serial_number(number).revocation_date(when).build()
        for number in range(1, 20_001)
    ]
    crl = pki.crl(good.issuing, [*entries, pki.revoked(good.leaf, when)])
    policy = TrustPolicy([good.root.certificate], [good.crls[0], crl])
    for _ in range(50):  # seconds if each of them walked the list
        assert outcomes(policy.judge_chain(good.chain, MEDIA, pki.now)) == [("trust.certificate.revoked", "fail")]
    other = pki.leaf(good.issuing, serial=1 << 100)
    assert policy.judge_chain([other.certificate, good.issuing.certificate], MEDIA, pki.now).unrevoked
