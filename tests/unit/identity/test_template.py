"""Templates give the builder's bytes, whatever the holder, key, site and validity; and only for what they fit."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError
from secguard.gbid import GbId, Scope
from secguard.identity import IdentityConfig, Profile
from secguard.identity.certificate import Validity, build_ca, build_leaf
from secguard.identity.issuing.order import Order
from secguard.identity.issuing.template import Template, signs_templates
from secguard.identity.profiles import CaProfile, Domains, Usage
from secguard.keys import Algorithm, generate
from secguard.trust import Purpose

START = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = {
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "rsa2048": rsa.generate_private_key(65537, 2048),
    "rsa3072": rsa.generate_private_key(65537, 3072),
}
SIGNERS = {kind: generate(kind) for kind in (Algorithm.P256, Algorithm.P384, Algorithm.ED25519)}


@cache
def issuer(kind: Algorithm, areas: tuple[str, ...], domain: str) -> x509.Certificate:
    """A CA below a root; its scope decides the region in host names."""
    config = IdentityConfig(domain=domain)
    validity = Validity(START, START + timedelta(days=20_000))
    root, scope, signer = generate(Algorithm.P256), Scope(areas), SIGNERS[kind]
    top = build_ca(
        CaProfile(days=7300),
        "root",
        config,
        root.public_key(),
        serial=1,
        validity=validity,
        scope=scope,
        issuer=None,
        signer=root,
    )
    below = CaProfile(days=3650, purposes=(Purpose.DEVICE,), domains=Domains.REGIONS)
    return build_ca(
        below,
        "devices",
        config,
        signer.public_key(),
        serial=2,
        validity=validity,
        scope=scope,
        issuer=top,
        signer=root,
    )


def spki(public) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


PRINTABLE = "ABCXYZabcxyz0189 '()+,./:=?-"
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=60)
SERIALS = st.one_of(
    st.integers(1 << 127, (1 << 128) - 1), st.integers(1, 1 << 158), st.sampled_from([1, 127, 128, 255])
)


@st.composite
def cases(draw):
    areas = draw(st.sampled_from([("320116",), ("3201",), ("32",), ("11", "320116"), ()]))
    kind = f"{draw(st.sampled_from(['32011600', '32011601', '32011699']))}{draw(st.sampled_from(['00', '05']))}"
    kind += draw(st.sampled_from(["131", "132", "118", "200", "999"])) + draw(st.sampled_from("0123456789"))
    config = IdentityConfig(
        organization=draw(TEXT),
        country=draw(st.sampled_from(["CN", "DE"])),
        domain=draw(st.sampled_from(["video.example", "a.b", "x" * 60 + ".example"])),
        crl_url=draw(st.sampled_from(["", "http://crl.example", "http://crl.example/" + "p" * 200 + "/"])),
        crl_shards=draw(st.sampled_from([0, 1, 7, 128, 1000])),
        ocsp_url=draw(st.sampled_from(["", "http://ocsp.example"])),
        ca_url=draw(st.sampled_from(["", "http://ca.example/"])),
    )
    profile = Profile(
        name="camera",
        purpose=draw(st.sampled_from([Purpose.DEVICE, Purpose.MEDIA_SIGNING, Purpose.PLATFORM])),
        days=draw(st.integers(1, 3650)),
        usages=draw(st.sampled_from([(), (Usage.CLIENT_AUTH,), (Usage.CLIENT_AUTH, Usage.SERVER_AUTH)])),
        dns=draw(st.booleans()),
    )
    return areas, kind, config, profile


@st.composite
def certificates(draw, kind: str):
    start = START + timedelta(seconds=draw(st.integers(0, 1_000_000_000)))
    return {
        "holder": f"{kind}{draw(st.integers(0, 999_999)):06}",
        "serial": draw(SERIALS),
        "validity": Validity(start, start + timedelta(seconds=draw(st.integers(0, 10**9)))),
        "vendor_serial": draw(st.one_of(st.just(""), st.text(PRINTABLE, min_size=1, max_size=64))),
    }


@given(st.data(), st.sampled_from(list(SIGNERS)), st.sampled_from(list(KEYS)))
def test_bytes_are_the_builders(data, algorithm, key):
    areas, kind, config, profile = data.draw(cases())
    first, second = data.draw(certificates(kind)), data.draw(certificates(kind))
    ca, public, signer = issuer(algorithm, areas, config.domain), KEYS[key].public_key(), SIGNERS[algorithm]

    def build(one):
        return build_leaf(
            profile,
            one["holder"],
            config,
            public,
            serial=one["serial"],
            validity=one["validity"],
            issuer=ca,
            issuer_name="devices",
            signer=signer,
            vendor_serial=one["vendor_serial"],
        )

    template = Template(build(first), profile, GbId(first["holder"]), config, "devices")
    for one in (first, second):
        tbs = template.tbs(GbId(one["holder"]), one["serial"], one["validity"], spki(public), one["vendor_serial"])
        made = build(one)
        assert tbs == made.tbs_certificate_bytes
        assert template.certificate(tbs, signer) == made.public_bytes(serialization.Encoding.DER)


def test_rsa_signs_no_templates():
    assert all(signs_templates(signer) for signer in SIGNERS.values())
    assert not signs_templates(generate(Algorithm.RSA))


def test_other_certificates_are_no_templates():
    config, profile = IdentityConfig(), Profile(purpose=Purpose.DEVICE, days=1, name="camera")
    ca = issuer(Algorithm.P256, ("320116",), config.domain)
    made = build_leaf(
        profile,
        "32011600001320000001",
        config,
        KEYS["p256"].public_key(),
        serial=5,
        validity=Validity(START, START + timedelta(days=1)),
        issuer=ca,
        issuer_name="devices",
        signer=SIGNERS[Algorithm.P256],
    )
    with pytest.raises(FormatError):
        Template(made, profile, GbId("32011600001320000002"), config, "devices")


# In the authority


def camera(number: int) -> str:
    return f"3201160000132{number:07}"


def orders(numbers, **values):
    return [
        Order(camera(n), "camera", public=ec.generate_private_key(ec.SECP256R1()).public_key(), **values)
        for n in numbers
    ]


def test_all_but_the_first_come_from_the_template_and_are_believed(site, monkeypatch):
    from secguard.identity.issuing import certify as certifying

    built = []
    original = certifying.build_leaf

    def build(*args, **kwargs):
        built.append(args[1])
        return original(*args, **kwargs)

    monkeypatch.setattr(certifying, "build_leaf", build)
    site.config = IdentityConfig(crl_url="http://crl.example", crl_shards=16, ocsp_url="http://ocsp.example")
    authority = site.open()
    answers = authority.certify(orders(range(1, 30), vendor_serial="SN 7"))
    assert built == [camera(1)]
    policy = site.policy(authority)
    for number, answer in enumerate(answers, 1):
        chain = authority.chain(answer.record)
        found = policy.judge_chain(chain, Purpose.DEVICE, site.clock.now(), gbid=GbId(camera(number)))
        assert found.findings == ()
        (point,) = chain[0].extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert point.full_name[0].value == f"http://crl.example/devices.{answer.record.shard}.crl"
        assert hashlib.sha256(spki(chain[0].public_key())).hexdigest() == answer.record.spki


def test_another_kind_gets_a_template_of_its_own(site):
    authority = site.open()
    authority.certify(orders([1]))
    authority.certify([Order("32011600001320000002", "media-signing", public=KEYS["p256"].public_key())])
    authority.certify([Order("32011600001320000003", "camera", public=KEYS["p384"].public_key())])
    authority.certify([Order("32011601001320000004", "camera", public=KEYS["rsa2048"].public_key())])
    assert len(authority.templates) == 4
    site.config = replace(site.config, organization="another")
    changed = site.open()
    changed.templates = authority.templates
    (answer,) = changed.certify(orders([9]))
    assert "O=another" in answer.record.x509().subject.rfc4514_string()
    changed.profiles["camera"] = msgspec.structs.replace(changed.profiles["camera"], usages=())
    (answer,) = changed.certify(orders([10]))
    assert len(answer.record.x509().extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == 1
