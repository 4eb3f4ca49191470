"""OCSP responses: only a fresh one, about this certificate, signed by its CA or that CA's own responder, says good."""

import os
import random
import warnings
from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from secguard.core import FormatError, Outcome
from secguard.gbid import Scope
from secguard.trust import MAX_OCSP, Purpose, TrustPolicy, der

MEDIA = Purpose.MEDIA_SIGNING
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
SIGNING = (ExtendedKeyUsageOID.OCSP_SIGNING,)


@pytest.fixture
def scene(pki):
    """A chain whose issuing CA may certify responders; the CA's own status comes from the root's list."""
    root = pki.root()
    issuing = pki.issuing(root, purposes=(Purpose.MEDIA_SIGNING, Purpose.OCSP))
    leaf = pki.leaf(issuing)
    scene = SimpleNamespace(pki=pki, root=root, issuing=issuing, leaf=leaf, root_list=pki.crl(root))

    def responder(issuer=None, **values):
        values = {"purposes": (Purpose.OCSP,), "gbid": None, "extra": [(x509.OCSPNoCheck(), False)], **values}
        return pki.leaf(issuer or issuing, "responder", **values)

    def respond(
        node=None, status=GOOD, *, issuer=None, signer=None, start=pki.now - HOUR, end=pki.now + HOUR, since=None,
        reason=None, digest=None, algorithm=None, include=True, by_name=False, extra=(),
    ):  # fmt: skip
        node, issuer, signer = node or leaf, issuer or issuing, signer or issuing
        if status is REVOKED:
            since = since or pki.now - 2 * HOUR
        by = ocsp.OCSPResponderEncoding.NAME if by_name else ocsp.OCSPResponderEncoding.HASH
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                node.certificate, issuer.certificate, algorithm or hashes.SHA1(), status, start, end, since, reason
            )
            .responder_id(by, signer.certificate)
        )
        if signer is not issuing and include:
            builder = builder.certificates([signer.certificate])
        for value, critical in extra:
            builder = builder.add_extension(value, critical)
        return builder.sign(signer.key, digest or hashes.SHA256()).public_bytes(Encoding.DER)

    def judge(*responses, crls=None, at=pki.now, chain=None):
        lists = [scene.root_list] if crls is None else crls
        policy = TrustPolicy([root.certificate], lists, responses)
        found = policy.judge_chain(chain or [leaf.certificate, issuing.certificate], MEDIA, at)
        again = policy.judge_chain(chain or [leaf.certificate, issuing.certificate], MEDIA, at)
        assert again.findings == found.findings  # what is kept does not change the answer
        return found

    scene.responder, scene.respond, scene.judge = responder, respond, judge
    return scene


def outcomes(judgement) -> list[tuple[str, str]]:
    return [(item.code, str(item.outcome)) for item in judgement.findings]


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
@pytest.mark.parametrize("by_name", [True, False])
def test_good_from_the_ca_itself(scene, algorithm, by_name):
    found = scene.judge(scene.respond(algorithm=algorithm, by_name=by_name))
    assert found.findings == ()
    assert found.unrevoked


def test_good_from_its_responder(scene):
    assert scene.judge(scene.respond(signer=scene.responder())).unrevoked


def test_responder_without_no_check_needs_the_list(scene):
    responder = scene.responder(extra=())
    response = scene.respond(signer=responder)
    assert outcomes(scene.judge(response)) == [("trust.ocsp.signature", "unknown")]
    lists = [scene.root_list, scene.pki.crl(scene.issuing, [scene.pki.revoked(scene.leaf, scene.pki.now + DAY)])]
    # The list speaks about the leaf too, so another leaf shows it.
    other = scene.pki.leaf(scene.issuing)
    chain = [other.certificate, scene.issuing.certificate]
    assert scene.judge(scene.respond(other, signer=responder), crls=lists, chain=chain).unrevoked


def test_revoked_responder_is_not_heard_even_with_no_check(scene):
    responder = scene.responder()
    stale = scene.pki.crl(
        scene.issuing, [scene.pki.revoked(responder, scene.pki.now - DAY)],
        start=scene.pki.now - 3 * DAY, end=scene.pki.now - DAY,
    )  # fmt: skip
    found = scene.judge(scene.respond(signer=responder), crls=[scene.root_list, stale])
    assert outcomes(found) == [("trust.crl.stale", "unknown"), ("trust.ocsp.signature", "unknown")]


@pytest.mark.parametrize(
    "values",
    [
        {"ekus": (ExtendedKeyUsageOID.CLIENT_AUTH,)},
        {"ekus": (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)},
        {"purposes": (), "ekus": SIGNING},
        {"purposes": (Purpose.MEDIA_SIGNING,), "ekus": SIGNING},
        {"start": -DAY * 9, "end": -DAY},
        {"start": DAY, "end": DAY * 9},
        {"usage": False},
    ],
    ids=["client", "any", "no policy", "other policy", "expired", "not yet", "no key usage"],
)
def test_unfit_responder(scene, values):
    values = {k: scene.pki.now + v if isinstance(v, timedelta) else v for k, v in values.items()}
    found = scene.judge(scene.respond(signer=scene.responder(**values)))
    assert outcomes(found) == [("trust.ocsp.signature", "unknown")]


def test_responder_of_another_ca(scene):
    other = scene.pki.issuing(scene.root, "other", purposes=(Purpose.MEDIA_SIGNING, Purpose.OCSP))
    for signer in (scene.responder(other), other, scene.root, scene.leaf, scene.responder(scene.root)):
        found = scene.judge(scene.respond(signer=signer))
        assert outcomes(found) == [("trust.ocsp.signature", "unknown")]


def test_responder_certificate_left_out(scene):
    found = scene.judge(scene.respond(signer=scene.responder(), include=False))
    assert outcomes(found) == [("trust.ocsp.signature", "unknown")]


def test_forged_in_the_name_of_the_ca(scene):
    fake = scene.pki.make("issuing", None, ca=True, key=ec.generate_private_key(ec.SECP256R1()))
    for by_name in (True, False):
        for include in (True, False):
            found = scene.judge(scene.respond(signer=fake, include=include, by_name=by_name))
            assert outcomes(found) == [("trust.ocsp.signature", "unknown")]
    # Beside a true list it changes nothing.
    forged = scene.respond(status=REVOKED, signer=fake, by_name=True)
    assert scene.judge(forged, crls=[scene.root_list, scene.pki.crl(scene.issuing)]).findings == ()


def test_signed_over_a_broken_hash(scene):
    weak = SimpleNamespace(certificate=scene.issuing.certificate, key=scene.issuing.key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            response = scene.respond(signer=weak, digest=hashes.SHA1())
        except Exception:  # noqa: BLE001 - a build that will not sign with it needs no rule
            return
    assert outcomes(scene.judge(response)) == [("trust.ocsp.signature", "unknown")]


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
def test_other_kinds_of_keys(scene, key):
    digest = hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None
    signer = scene.responder(key=key)
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            scene.leaf.certificate, scene.issuing.certificate, hashes.SHA256(), GOOD,
            scene.pki.now, scene.pki.now + DAY, None, None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
        .certificates([signer.certificate])
    )  # fmt: skip
    assert scene.judge(builder.sign(key, digest).public_bytes(Encoding.DER)).unrevoked


def test_replayed_for_another_certificate(scene):
    other = scene.pki.leaf(scene.issuing)
    assert outcomes(scene.judge(scene.respond(other))) == [("trust.ocsp.other", "unknown")]


def test_same_serial_of_another_ca(scene):
    other = scene.pki.issuing(scene.root, "other", purposes=(Purpose.MEDIA_SIGNING, Purpose.OCSP))
    twin = scene.pki.leaf(other, serial=scene.leaf.certificate.serial_number)
    found = scene.judge(scene.respond(twin, issuer=other, signer=other))
    assert outcomes(found) == [("trust.ocsp.other", "unknown")]
    # Not even when our own CA signs a statement about the other's certificate.
    assert outcomes(scene.judge(scene.respond(twin, issuer=other))) == [("trust.ocsp.other", "unknown")]


@pytest.mark.parametrize(
    ("start", "end", "outcome"),
    [
        (-2 * DAY, -DAY, [("trust.ocsp.stale", "unknown")]),
        (-2 * DAY, timedelta(0), []),
        (timedelta(0), DAY, []),
        (timedelta(minutes=4), DAY, []),  # clocks differ
        (HOUR, DAY, [("trust.ocsp.stale", "unknown")]),
        (-2 * DAY, None, [("trust.ocsp.stale", "unknown")]),
        (-timedelta(minutes=4), None, []),  # just fetched
    ],
)
def test_freshness(scene, start, end, outcome):
    response = scene.respond(start=scene.pki.now + start, end=None if end is None else scene.pki.now + end)
    assert outcomes(scene.judge(response)) == outcome


def test_fresh_at_the_judged_time_is_what_counts(scene):
    response = scene.respond(start=scene.pki.now - 9 * DAY, end=scene.pki.now - 8 * DAY)
    assert scene.judge(response, at=scene.pki.now - 8 * DAY - HOUR).unrevoked
    assert not scene.judge(response).unrevoked


def test_revoked(scene):
    found = scene.judge(scene.respond(status=REVOKED, reason=x509.ReasonFlags.key_compromise))
    assert outcomes(found) == [("trust.certificate.revoked", "fail")]
    assert found.findings[0].data["reason"] == "keyCompromise"
    later = scene.judge(scene.respond(status=REVOKED), at=scene.pki.now - DAY)
    assert outcomes(later) == [("trust.certificate.revoked-later", "pass")]


def test_revoked_beats_good_whatever_says_so(scene):
    bad, good = scene.respond(status=REVOKED), scene.respond()
    fresh = scene.pki.crl(scene.issuing)
    for responses, lists in (
        ([good, bad], []),
        ([bad, good], []),
        ([bad], [fresh]),
        ([good], [scene.pki.crl(scene.issuing, [scene.pki.revoked(scene.leaf, scene.pki.now - HOUR)])]),
        ([scene.respond(status=REVOKED, start=scene.pki.now - 9 * DAY, end=scene.pki.now - 8 * DAY)], [fresh]),
    ):
        found = scene.judge(*responses, crls=[scene.root_list, *lists])
        assert outcomes(found) == [("trust.certificate.revoked", "fail")]
    # The earlier revocation counts.
    early = scene.pki.crl(scene.issuing, [scene.pki.revoked(scene.leaf, scene.pki.now - 5 * DAY)])
    found = scene.judge(bad, crls=[scene.root_list, early], at=scene.pki.now - DAY)
    assert ("trust.certificate.revoked", "fail") in outcomes(found)


def test_unknown_to_the_responder_is_never_good(scene):
    for lists in ([], [scene.pki.crl(scene.issuing)]):
        for responses in ([scene.respond(status=UNKNOWN)], [scene.respond(), scene.respond(status=UNKNOWN)]):
            found = scene.judge(*responses, crls=[scene.root_list, *lists])
            assert outcomes(found) == [("trust.ocsp.unknown", "unknown")]


def test_stale_response_beside_a_fresh_list(scene):
    stale = scene.respond(start=scene.pki.now - 9 * DAY, end=scene.pki.now - DAY)
    assert scene.judge(stale, crls=[scene.root_list, scene.pki.crl(scene.issuing)]).unrevoked
    old = scene.pki.crl(scene.issuing, start=scene.pki.now - 9 * DAY, end=scene.pki.now - DAY)
    assert outcomes(scene.judge(stale, crls=[scene.root_list, old])) == [
        ("trust.crl.stale", "unknown"),
        ("trust.ocsp.stale", "unknown"),
    ]
    assert scene.judge(scene.respond(), crls=[scene.root_list, old]).unrevoked


def test_ca_status_by_ocsp_of_the_root(scene):
    own = scene.respond()
    root_key = SimpleNamespace(certificate=scene.root.certificate, key=scene.root.key)
    above = scene.respond(scene.issuing, issuer=scene.root, signer=root_key)
    assert scene.judge(own, above, crls=[]).unrevoked
    assert outcomes(scene.judge(own, crls=[])) == [("trust.crl.missing", "unknown")]


def test_refused(scene):
    for status in (ocsp.OCSPResponseStatus.TRY_LATER, ocsp.OCSPResponseStatus.UNAUTHORIZED):
        response = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
        assert outcomes(scene.judge(response)) == [("trust.ocsp.refused", "unknown")]
        assert scene.judge(response, scene.respond()).unrevoked


def test_critical_extension_that_is_not_known(scene):
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert outcomes(scene.judge(scene.respond(extra=[(odd, True)]))) == [("trust.ocsp.unsupported", "unknown")]
    assert scene.judge(scene.respond(extra=[(odd, False)])).unrevoked
    assert scene.judge(scene.respond(extra=[(x509.OCSPNonce(b"n" * 16), False)])).unrevoked


def several(scene, responses: list[bytes], extension: bytes = b"") -> bytes:
    """One response with the answers of several, signed anew by the issuing CA."""
    parts = [ocsp.load_der_ocsp_response(item).tbs_response_bytes for item in responses]
    fields = [list(der.children(der.single(item, der.SEQUENCE))) for item in parts]
    singles = [der.encode(*next(iter(der.children(item[2][1])))) for item in fields]
    if extension:
        content = der.single(singles[-1], der.SEQUENCE)
        singles[-1] = der.sequence(content, extension)
    head = [der.encode(tag, content) for tag, content in fields[0]]
    tbs = der.sequence(head[0], head[1], der.sequence(*singles))
    signature = scene.issuing.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    algorithm = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    basic = der.sequence(tbs, algorithm, der.encode(0x03, b"\x00" + signature))
    inner = der.sequence(der.oid("1.3.6.1.5.5.7.48.1.1"), der.encode(der.OCTET_STRING, basic))
    return der.sequence(der.encode(0x0A, b"\x00"), der.encode(0xA0, inner))


def test_several_answers_in_one_response(scene):
    others = [scene.pki.leaf(scene.issuing) for _ in range(3)]
    response = several(
        scene, [*(scene.respond(item) for item in others), scene.respond(), scene.respond(others[0], REVOKED)]
    )
    assert scene.judge(response).unrevoked
    chain = [others[0].certificate, scene.issuing.certificate]
    assert outcomes(scene.judge(response, chain=chain)) == [("trust.certificate.revoked", "fail")]
    stranger = [scene.pki.leaf(scene.issuing).certificate, scene.issuing.certificate]
    assert outcomes(scene.judge(response, chain=stranger)) == [("trust.ocsp.other", "unknown")]


def test_critical_extension_of_one_answer_among_several(scene):
    item = der.sequence(der.oid("1.2.3.4"), der.encode(0x01, b"\xff"), der.encode(der.OCTET_STRING, b"\x05\x00"))
    response = several(scene, [scene.respond(), scene.respond(scene.pki.leaf(scene.issuing))],
                       der.encode(0xA1, der.sequence(item)))  # fmt: skip
    assert outcomes(scene.judge(response)) == [("trust.ocsp.unsupported", "unknown")]


def test_retired_ca_of_the_same_name(scene):
    """After a rollover the old key still answers for old certificates, and not for new ones."""
    new = scene.pki.issuing(scene.root, "issuing", purposes=(Purpose.MEDIA_SIGNING, Purpose.OCSP))
    assert new.certificate.subject == scene.issuing.certificate.subject
    leaf = scene.pki.leaf(new)
    chain = [leaf.certificate, new.certificate]
    assert scene.judge(scene.respond(leaf, issuer=new, signer=new), chain=chain).unrevoked
    crossed = scene.respond(leaf, issuer=new)
    assert outcomes(scene.judge(crossed, chain=chain)) == [("trust.ocsp.signature", "unknown")]


def test_foreign_root_needs_the_extended_key_usage_all_the_same(pki):
    root = pki.root(scope=None)
    leaf = pki.leaf(root, purposes=(), gbid=None)
    for ekus, outcome in ((SIGNING, []), ((), ["trust.ocsp.signature"])):
        responder = pki.leaf(root, "responder", purposes=(), ekus=ekus, gbid=None, extra=[(x509.OCSPNoCheck(), False)])
        response = (
            ocsp.OCSPResponseBuilder()
            .add_response(leaf.certificate, root.certificate, hashes.SHA1(), GOOD, pki.now, pki.now + DAY, None, None)
            .responder_id(ocsp.OCSPResponderEncoding.NAME, responder.certificate)
            .certificates([responder.certificate])
            .sign(responder.key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )
        found = TrustPolicy([root.certificate], [], [response]).judge_chain([leaf.certificate], MEDIA, pki.now)
        assert [item.code for item in found.findings if item.outcome is not Outcome.PASS] == outcome


def test_responder_in_a_narrower_scope_is_fine_and_in_a_wider_one_is_not(scene):
    wide = scene.responder(extra=[(x509.OCSPNoCheck(), False)], scope=Scope(("32",)))
    assert outcomes(scene.judge(scene.respond(signer=wide))) == [("trust.ocsp.signature", "unknown")]


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"\x30\x03\x0a\x01\x07", b"-----BEGIN", bytes(MAX_OCSP + 1)])
def test_not_a_response(scene, data):
    with pytest.raises(FormatError, match="OCSP") as caught:
        TrustPolicy([scene.root.certificate], [], [data])
    assert caught.value.code == "trust.ocsp.format"


def test_every_byte_of_a_response(scene):
    """Changed anywhere, with what was checked before still kept, it says nothing, or the same."""
    original = scene.respond(signer=scene.responder())
    tbs = ocsp.load_der_ocsp_response(original).tbs_response_bytes
    policy = TrustPolicy([scene.root.certificate], [scene.root_list], [original])
    chain = [scene.leaf.certificate, scene.issuing.certificate]
    assert policy.judge_chain(chain, MEDIA, scene.pki.now).unrevoked
    judged = 0
    for index in range(len(original)):
        data = bytearray(original)
        data[index] ^= 0x01
        try:
            policy = TrustPolicy([scene.root.certificate], [scene.root_list], [bytes(data)])
        except FormatError:
            continue
        judged += 1
        found = policy.judge_chain(chain, MEDIA, scene.pki.now)
        if found.unrevoked:
            assert ocsp.load_der_ocsp_response(bytes(data)).tbs_response_bytes == tbs, index
    assert judged > 50


def test_mutated_responses_are_read_or_refused(scene):
    original = scene.respond(status=REVOKED, signer=scene.responder(), reason=x509.ReasonFlags.superseded)
    generator = random.Random(6960)
    read = 0
    for _ in range(20_000 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 1_000):
        data = bytearray(original)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        if generator.random() < 0.2:
            del data[generator.randrange(len(data)) :]
        try:
            policy = TrustPolicy([scene.root.certificate], [scene.root_list], [bytes(data)])
        except FormatError:
            continue
        read += 1
        chain = [scene.leaf.certificate, scene.issuing.certificate]
        assert not policy.judge_chain(chain, MEDIA, scene.pki.now).unrevoked
    assert read > 20
