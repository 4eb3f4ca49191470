"""What every profile, CA and list issues is clean under pkilint; what is not clean is said, never a traceback."""

import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FormatError, SecguardError, SystemPartError
from secguard.gbid import Scope
from secguard.identity import IdentityConfig, Registry, Request, load_profiles
from secguard.identity import lint as linting
from secguard.identity.lint import Document, Kind, documents_of, judge_documents, lint
from secguard.identity.profiles import load_ca_profiles
from secguard.identity.registry.revocations import RevokedRow
from secguard.identity.samples import Samples
from secguard.identity.status.crl import build_crl, encode_entries
from secguard.identity.status.delegate import delegates
from secguard.identity.status.ocsp import Responder

pkilint = pytest.importorskip("pkilint")
PROFILES = Path(__file__).parents[3] / "certs"
URLS = IdentityConfig(
    crl_url="http://crl.video.example:8080/crl",
    ocsp_url="http://10.12.0.5:8080/ocsp",
    ca_url="http://[fd00::5]/ca",
    crl_shards=16,
    organization="江宁公安分局",
)


SCOPE = Scope(("320116",))


def samples(at, config=URLS, scope=SCOPE, folder=PROFILES) -> Samples:
    return Samples(load_profiles(folder), load_ca_profiles(folder / "ca"), config, scope, at)


@pytest.mark.parametrize(
    ("config", "scope"),
    [
        (URLS, Scope(("320116",), ("132",), ("7",))),
        (IdentityConfig(), Scope()),
    ],
)
def test_everything_the_profiles_issue_is_clean(site, config, scope):
    made = samples(site.clock.now(), config, scope)
    documents = list(made.documents())
    assert made.problems == []
    assert judge_documents(documents, len(documents)) == []
    names = " ".join(item.name for item in documents)
    for name in (*load_profiles(PROFILES), *load_ca_profiles(PROFILES / "ca")):
        assert f"profile {name} " in names or f"CA {name}" in names
    assert {item.kind for item in documents} == {Kind.CERTIFICATE, Kind.CRL}
    assert sum("a shard" in item.name for item in documents) == 6


def test_what_a_site_really_issued_is_clean(site):
    authority = site.open()
    issued = authority.issue(
        [
            Request("32011600001320000001", "camera", vendor_serial="SN 7"),
            Request("32011600002000000001", "platform"),
            Request("enrol.video.example", "server"),
            Request("10.1.2.3", "isolation-agent"),
            Request("witness/1", "witness"),
        ]
    )
    authority.revoke("32011600002000000001", "cessationOfOperation")
    documents = [Document(item.record.holder, Kind.CERTIFICATE, item.record.certificate) for item in issued]
    documents += [Document(name, Kind.CERTIFICATE, ca.certificate) for name, ca in authority.cas.items()]
    documents += [Document(path.name, Kind.CRL, path.read_bytes()) for path in authority.crl_folder.glob("*.crl")]
    assert len(documents) > 15
    assert judge_documents(documents) == []


def bad(at, *, identifier: bool, constraints: bool = True) -> bytes:
    """A certificate with RFC 5280's mistakes in it: a CA's key usage on an end entity, no identifiers."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, at, at + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=not constraints, path_length=None), critical=constraints)
    usage = x509.KeyUsage(True, False, False, False, False, True, False, False, False)
    builder = builder.add_extension(usage, critical=True)
    if identifier:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_mistakes_are_named(site):
    now = site.clock.now()
    remarks = lint(Document("x", Kind.CERTIFICATE, bad(now, identifier=False)))
    assert {remark.severity for remark in remarks} >= {"error", "warning"}
    found = judge_documents([Document("x", Kind.CERTIFICATE, bad(now, identifier=False))])
    assert {item.code for item in found} >= {"identity.lint.error", "identity.lint.warning"}
    assert all(item.where == "x" and "." in item.data["rule"] for item in found)


def test_a_group_is_counted_not_repeated(site):
    der = bad(site.clock.now(), identifier=True)
    one = judge_documents([Document("x 1", Kind.CERTIFICATE, der)])
    many = judge_documents([Document(f"x {number}", Kind.CERTIFICATE, der, "camera") for number in range(5)])
    assert len(one) == len(many) > 0
    assert {item.where for item in many} == {"x 0 (+4)"}


def test_notices_do_not_fail(site):
    made = samples(site.clock.now(), IdentityConfig(crl_url="ldap://10.0.0.1/o=x"))
    found = judge_documents([item for item in made.documents() if item.kind is Kind.CERTIFICATE])
    assert {(item.code, item.outcome.value) for item in found} == {("identity.lint.notice", "pass")}


def test_an_ocsp_response(site):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    key = ec.generate_private_key(ec.SECP256R1())
    now = site.clock.now()
    signer = x509.CertificateBuilder(name, name, key.public_key(), 7, now, now + timedelta(days=1)).sign(
        key, hashes.SHA256()
    )

    def response(next_update):
        builder = ocsp.OCSPResponseBuilder().add_response(
            signer, signer, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, now, next_update, None, None
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer).certificates([signer])
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    (good,) = documents_of(response(now + timedelta(days=1)), "r")
    assert good.kind is Kind.OCSP
    assert judge_documents([good]) == []
    assert judge_documents(documents_of(response(now - timedelta(days=1)), "r")) != []


def test_a_long_list_is_linted_by_its_first_entries(site):
    authority = site.open()
    rows = [RevokedRow(n, f"{n:032x}", "2026-10-01T00:00:00Z", "superseded", None) for n in range(1, 20_001)]
    now = site.clock.now()
    crl = build_crl(
        authority.certificates["devices"],
        authority.signer("devices"),
        b"".join(encode_entries(rows)),
        number=3,
        this_update=now,
        next_update=now + timedelta(days=7),
    )
    assert len(crl) > 700_000
    assert judge_documents([Document("long", Kind.CRL, crl)]) == []
    # A date that is no UTCTime among the first entries is seen.
    spoilt = crl.replace(b"261001000000Z", b"261001000060Z", 3)
    (item, *_) = judge_documents([Document("long", Kind.CRL, spoilt)])
    assert "first 500 entries" in item.where


def test_too_large_is_unknown_not_clean():
    (item,) = judge_documents([Document("huge", Kind.CERTIFICATE, bytes(600 << 10))])
    assert (item.code, item.outcome.value) == ("identity.lint.too-large", "unknown")


def test_unreadable(site):
    der = bad(site.clock.now(), identifier=True)
    (item,) = judge_documents([Document("cut", Kind.CERTIFICATE, der[:-9])])
    assert (item.code, item.outcome.value) == ("identity.lint.unreadable", "fail")


def test_files(site):
    authority = site.open()
    pem = b"".join(item.public_bytes(Encoding.PEM) for item in authority.certificates.values())
    pem += x509.load_der_x509_crl((authority.crl_folder / "root.crl").read_bytes()).public_bytes(Encoding.PEM)
    found = documents_of(b"some text\n" + pem + b"\n", "all.pem")
    assert [item.kind for item in found] == [Kind.CERTIFICATE] * 6 + [Kind.CRL]
    assert found[1].name == "all.pem #2"
    assert judge_documents(found) == []
    key = (site.state / "keys" / "root.key.pem").read_bytes()
    for wrong in (b"", key, b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", bytes(100)):
        with pytest.raises(FormatError):
            documents_of(wrong, "x")
    block = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    with pytest.raises(FormatError, match="limit"):
        documents_of(block * 10_001, "x")


def test_a_profile_that_nobody_would_believe(site, tmp_path):
    folder = tmp_path / "certs"
    shutil.copytree(PROFILES, folder)
    (folder / "tsa.yaml").write_text("purpose: tsa\nholder: name\ndays: 30\n")
    (folder / "ca" / "devices.yaml").write_text("purposes: [device]\ndays: 30\ndomains: none\n")
    made = samples(site.clock.now(), folder=folder)
    list(made.documents())
    assert {item.code for item in made.problems} == {"identity.lint.unissuable"}
    assert {item.where.split(" ")[1] for item in made.problems} == {
        "tsa",
        "camera",
        "nvr",
    }  # no TLS server below that CA


def test_without_pkilint(monkeypatch):
    linting._tools.cache_clear()
    monkeypatch.setitem(sys.modules, "pkilint", None)
    with pytest.raises(SystemPartError) as caught:
        judge_documents([Document("x", Kind.CERTIFICATE, b"")])
    assert "secguard[lint]" in caught.value.hint
    linting._tools.cache_clear()


@given(st.binary(max_size=300))
def test_anything(data):
    for kind in Kind:
        try:
            lint(Document("x", kind, b"\x30" + data))
        except SecguardError as error:
            assert error.code  # noqa: PT017 - the other way out is a list of remarks
    try:
        documents_of(data, "x")
    except FormatError as error:
        assert error.code.startswith("identity.lint.")  # noqa: PT017 - the same


def test_what_the_responder_answers_is_clean(site):
    authority = site.open()
    (good, _), (bad, _) = (authority.issue([Request(f"3201160000132000000{n}", "camera")]) for n in (1, 2))
    authority.revoke(bad.record.holder, "keyCompromise")
    found, _ = delegates(authority)
    with Registry.open(site.registry.path) as registry:
        responder = Responder(registry, site.clock)
        responder.serve(authority.certificates.items(), found)
        issuer = authority.certificates["devices"]
        answers = []
        for item in (good, bad):
            builder = ocsp.OCSPRequestBuilder().add_certificate(item.certificate, issuer, hashes.SHA256())
            request = builder.add_extension(x509.OCSPNonce(bytes(16)), critical=False).build()
            answers.append(responder.respond(request.public_bytes(Encoding.DER)).der)
    assert judge_documents([Document("answer", Kind.OCSP, der) for der in answers]) == []
    keys = [row.certificate for row in site.registry.certificates() if row.profile == "ocsp"]
    assert keys
    assert judge_documents([Document("responder", Kind.CERTIFICATE, der) for der in keys]) == []
