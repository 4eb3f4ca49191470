"""What was presented, judged: each finding, produced by a certificate or a registry that has it."""

import shutil
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto

from secguard.core import Axis, FixedClock, Outcome
from secguard.identity import Registry, Request
from secguard.identity.probe.book import Book, activate, to_activate
from secguard.identity.probe.credentials import TEST_SERIALS, end_credentials, make_credentials
from secguard.identity.probe.handshake import Answer, Tried
from secguard.identity.probe.judge import Judge, overall
from secguard.identity.probe.probe import Probed
from secguard.identity.probe.targets import parse_target, registry_targets
from secguard.identity.records import DeviceRecord
from secguard.keys import load_signer
from secguard.trust import TrustPolicy

CAMERA, OTHER = "32011600001320000001", "32011600001320000002"
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
PASSPHRASE = b"correct horse"
HERE = parse_target("192.0.2.10:443")
E = "identity.endpoint."


def codes(item) -> set[str]:
    return {found.code for found in item.findings}


def der(*chain: x509.Certificate) -> tuple[bytes, ...]:
    return tuple(item.public_bytes(Encoding.DER) for item in chain)


def shown(*chain: x509.Certificate, **values) -> Answer:
    return Answer("presented", **{"protocol": "TLSv1.3", "chain": der(*chain), "sent": len(chain), **values})


def make(subject="camera", *, key=None, issuer=None, signer=None, days=(-1, 365), ca=False, names=(), eku=None):
    key = key or ec.generate_private_key(ec.SECP256R1())
    unit = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "maker")] if ca else []
    name = x509.Name([*unit, x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if eku:
        builder = builder.add_extension(x509.ExtendedKeyUsage(eku), critical=False)
    return builder.sign(signer or key, hashes.SHA256()), key


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    return tmp_path_factory.mktemp("probe") / "site"


@pytest.fixture
def site(empty_site, made_once):
    """The site of conftest with two cameras, made once and copied for each test."""
    if not made_once.exists():
        empty_site.create()
        empty_site.open().issue([Request(CAMERA, "camera"), Request(OTHER, "camera")])
        empty_site.registry.close()
        shutil.copytree(empty_site.root, made_once)
    else:
        empty_site.registry.close()
        shutil.copytree(made_once, empty_site.root, dirs_exist_ok=True)
    empty_site.registry = Registry.open(empty_site.state / "registry.db")
    return empty_site


@pytest.fixture
def authority(site):
    return site.open()


@pytest.fixture
def place(site, authority):
    """Enter where the camera lives."""
    record = site.registry.device(CAMERA)
    with site.registry.transaction():
        site.registry.save([msgspec.structs.replace(record, address="192.0.2.10:443")])


@pytest.fixture
def judge_for(site, authority):
    def made(at=NOW, **values) -> Judge:
        return Judge(site.policy(authority), at, **{"book": Book(site.registry), **values})

    return made


def chain_of(site, holder=CAMERA, profile="camera"):
    record = site.registry.active(holder, profile)
    return [record.x509(), site.open().certificates[record.issuer]]


def test_the_active_certificate_passes_and_moves_the_device_on(site, place, judge_for):
    item = judge_for().endpoint(HERE, shown(*chain_of(site)))
    assert item.outcome is Outcome.PASS, item.findings
    assert item.device == CAMERA
    assert item.active
    assert item.certificate.believed
    assert to_activate(site.registry, [item]) == [CAMERA]
    assert site.registry.device(CAMERA).status == "issued"
    activate(site.registry, [CAMERA])
    assert site.registry.device(CAMERA).status == "active"
    assert to_activate(site.registry, [item]) == []


@pytest.mark.parametrize("state", ["refused", "unreachable", "timeout", "unresolved", "silent", "handshake", "tlcp"])
def test_what_is_not_reached_is_unknown(judge_for, state):
    item = judge_for().endpoint(HERE, Answer(state, "why"))
    assert codes(item) == {E + state}
    assert item.outcome is Outcome.UNKNOWN
    assert item.axes[Axis.COVERAGE] is Outcome.UNKNOWN


def test_codes_of_what_is_not_reached():
    """Spelled out, so that the catalogue's test finds them."""
    assert {
        "identity.endpoint.refused",
        "identity.endpoint.unreachable",
        "identity.endpoint.timeout",
        "identity.endpoint.unresolved",
        "identity.endpoint.silent",
        "identity.endpoint.handshake",
        "identity.endpoint.tlcp",
    } == {E + state for state in ("refused", "unreachable", "timeout", "unresolved", "silent", "handshake", "tlcp")}


def test_garbage_is_unknown_and_plaintext_fails(judge_for):
    garbage = judge_for().endpoint(HERE, Answer("garbage", "wrong version number"))
    assert codes(garbage) == {"identity.endpoint.garbage"}
    assert garbage.outcome is Outcome.UNKNOWN
    plain = judge_for().endpoint(HERE, Answer("plain", "RTSP/1.0 200 OK", "RTSP"))
    assert codes(plain) == {"identity.endpoint.plaintext"}
    assert plain.outcome is Outcome.FAIL
    nobody = judge_for().endpoint(HERE, Answer("anonymous", cipher="ADH-AES256-SHA"))
    assert codes(nobody) == {"identity.endpoint.no-certificate"}
    big = judge_for().endpoint(HERE, Answer("oversized", "excessive message size"))
    assert codes(big) == {"identity.endpoint.oversized"}
    bad = judge_for().endpoint(HERE, Answer("malformed", "asn1"))
    assert codes(bad) == {"identity.endpoint.malformed"}
    assert codes(judge_for().endpoint(HERE, Answer("presented", chain=(b"0\x03\x02\x01",), sent=1))) == {
        "identity.endpoint.malformed"
    }


def test_expired_expiring_and_not_yet_valid(site, place, judge_for):
    leaf, issuing = chain_of(site)
    late = leaf.not_valid_after_utc + timedelta(days=1)
    item = judge_for(late).endpoint(HERE, shown(leaf, issuing))
    assert "identity.endpoint.expired" in codes(item)
    assert "trust.certificate.expired" not in codes(item), "said once"
    assert item.outcome is Outcome.FAIL
    soon = leaf.not_valid_after_utc - timedelta(days=10)
    remark = judge_for(soon).endpoint(HERE, shown(leaf, issuing))
    assert {(f.code, f.outcome) for f in remark.findings} >= {("identity.endpoint.expiring", Outcome.PASS)}
    demand = judge_for(soon, days=14, demanded=True).endpoint(HERE, shown(leaf, issuing))
    assert ("identity.endpoint.expiring", Outcome.FAIL) in {(f.code, f.outcome) for f in demand.findings}
    assert "identity.endpoint.expiring" not in codes(judge_for(soon, days=9).endpoint(HERE, shown(leaf, issuing)))
    early = judge_for(leaf.not_valid_before_utc - timedelta(days=1)).endpoint(HERE, shown(leaf, issuing))
    assert "identity.endpoint.not-yet-valid" in codes(early)


def test_another_device_at_the_registered_address(site, place, judge_for):
    item = judge_for().endpoint(HERE, shown(*chain_of(site, OTHER)))
    assert "identity.endpoint.wrong-device" in codes(item)
    assert not item.active
    assert item.outcome is Outcome.FAIL
    explicit = judge_for().endpoint(parse_target(f"{OTHER}@192.0.2.99:443"), shown(*chain_of(site)))
    assert "identity.endpoint.wrong-device" in codes(explicit)


def test_a_device_that_moved_is_a_remark(site, place, judge_for):
    item = judge_for().endpoint(parse_target("192.0.2.77:443"), shown(*chain_of(site)))
    assert codes(item) == {"identity.endpoint.moved"}
    assert item.outcome is Outcome.PASS


def test_not_registered(site, place, judge_for):
    leaf, _ = make("stranger", names=[x509.DNSName("x.example")])
    item = judge_for().endpoint(parse_target("192.0.2.78:443"), shown(leaf))
    assert {
        "identity.endpoint.not-registered",
        "identity.endpoint.self-signed",
        "identity.endpoint.name-mismatch",
    } == codes(item)


def test_self_signed_unknown_ca_and_incomplete(site, place, judge_for):
    factory, _ = make("IPC")
    item = judge_for().endpoint(HERE, shown(factory))
    assert {"identity.endpoint.self-signed", "identity.endpoint.not-active"} <= codes(item)
    ca, key = make("maker CA", ca=True)
    below, _ = make("IPC", issuer=ca, signer=key)
    for chain in ((below,), (below, ca)):
        assert "identity.endpoint.unknown-ca" in codes(judge_for().endpoint(HERE, shown(*chain)))
    leaf, _ = chain_of(site)
    alone = judge_for().endpoint(HERE, shown(leaf))
    assert codes(alone) == {"identity.endpoint.incomplete"}
    assert alone.active, "judged with the registry's issuing CA nevertheless"


def test_without_a_registry_a_lone_certificate_is_incomplete(site, authority):
    judge = Judge(site.policy(authority), NOW)
    assert "identity.endpoint.incomplete" in codes(judge.endpoint(HERE, shown(chain_of(site)[0])))


def test_weak_key_and_signature(judge_for):
    ca, ca_key = make("maker CA", ca=True)
    made, _ = make("IPC", key=rsa.generate_private_key(65537, 1024), issuer=ca, signer=ca_key)
    old = crypto.X509.from_cryptography(made)  # cryptography signs with SHA-1 no more
    old.sign(crypto.PKey.from_cryptography_key(ca_key), "sha1")
    leaf = old.to_cryptography()
    item = judge_for().endpoint(HERE, shown(leaf, ca))
    assert {"identity.endpoint.weak-key", "identity.endpoint.weak-signature"} <= codes(item)
    assert item.axes[Axis.CONFORMANCE] is Outcome.FAIL


def test_a_weak_signature_of_a_certificate_over_itself(judge_for):
    made, key = make("IPC")
    old = crypto.X509.from_cryptography(made)
    old.sign(crypto.PKey.from_cryptography_key(key), "sha1")
    item = judge_for().endpoint(HERE, shown(old.to_cryptography()))
    assert {"identity.endpoint.self-signed", "identity.endpoint.weak-signature"} <= codes(item)


def test_a_weak_key_is_said_once_below_a_trusted_root():
    ca, ca_key = make("maker root", ca=True)
    leaf, _ = make("IPC", key=rsa.generate_private_key(65537, 1024), issuer=ca, signer=ca_key)
    item = Judge(TrustPolicy([ca]), NOW).endpoint(HERE, shown(leaf, ca))
    assert [f.code for f in item.findings].count("identity.endpoint.weak-key") == 1
    assert "trust.certificate.weak" not in codes(item)
    assert "identity.endpoint.status-unknown" in codes(item)


def test_old_protocols(site, place, judge_for):
    old = judge_for().endpoint(HERE, shown(*chain_of(site), protocol="TLSv1"))
    assert codes(old) == {"identity.endpoint.protocol-old"}
    both = judge_for().endpoint(HERE, shown(*chain_of(site), legacy="TLSv1.1"))
    assert codes(both) == {"identity.endpoint.protocol-accepted"}
    assert both.outcome is Outcome.FAIL


def test_one_key_in_two_devices(site, place, judge_for):
    key = ec.generate_private_key(ec.SECP256R1())
    one, other = make("IPC-1", key=key)[0], make("IPC-2", key=key)[0]
    judge = judge_for()
    first = judge.endpoint(parse_target("192.0.2.1:443"), shown(one, address="192.0.2.1"))
    assert "identity.endpoint.key-shared" not in codes(first)
    same = judge.endpoint(parse_target("192.0.2.1:8443"), shown(one, address="192.0.2.1"))
    assert "identity.endpoint.key-shared" not in codes(same), "two ports of one device"
    second = judge.endpoint(parse_target("192.0.2.2:443"), shown(other, address="192.0.2.2"))
    assert "identity.endpoint.key-shared" in codes(second)
    assert "identity.endpoint.key-shared" in codes(first), "the first is told too, afterwards"
    assert first.outcome is Outcome.FAIL


def test_a_key_of_the_registry_under_another_name(site, place, judge_for, authority):
    signer, _ = authority.holder_signer(OTHER, "camera")
    leaf, _ = make("IPC", key=signer.private_key())
    item = judge_for().endpoint(HERE, shown(leaf))
    assert "identity.endpoint.key-shared" in codes(item)


def test_revoked_by_list_and_by_registry(site, place, authority):
    chain = chain_of(site)
    stale = site.policy(authority)
    authority.revoke(f"{chain[0].serial_number:032x}", "keyCompromise")
    for policy in (site.policy(authority), stale):
        at = NOW + timedelta(seconds=5)
        item = Judge(policy, at, book=Book(site.registry)).endpoint(HERE, shown(*chain))
        assert [f.code for f in item.findings].count("identity.endpoint.revoked") == 1
        assert item.outcome is Outcome.FAIL


def test_a_stale_list_leaves_it_open(site, place, judge_for):
    item = judge_for(NOW + timedelta(days=60)).endpoint(HERE, shown(*chain_of(site)))
    assert codes(item) == {"identity.endpoint.status-unknown"}
    assert item.outcome is Outcome.UNKNOWN


def test_the_old_certificate_still_served(site, place, judge_for):
    chain = chain_of(site)
    site.open(clock=FixedClock(NOW + timedelta(hours=1))).renew(CAMERA, "camera")
    item = judge_for(NOW + timedelta(hours=2)).endpoint(HERE, shown(*chain))
    assert codes(item) == {"identity.endpoint.superseded"}
    fresh = judge_for(NOW + timedelta(hours=2)).endpoint(HERE, shown(*chain_of(site)))
    assert fresh.outcome is Outcome.PASS


def test_issued_by_our_ca_but_not_on_record(site, place, authority, judge_for):
    leaf, issuing = chain_of(site)
    signer = authority.signer(site.registry.active(CAMERA, "camera").issuer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(leaf.serial_number + 1)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    for item in leaf.extensions:
        if not isinstance(item.value, x509.SubjectKeyIdentifier):
            builder = builder.add_extension(item.value, item.critical)
    forged = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(builder._public_key), critical=False).sign(
        signer.private_key(), hashes.SHA256()
    )
    item = judge_for().endpoint(HERE, shown(forged, issuing))
    assert codes(item) == {"identity.endpoint.unrecorded"}
    assert item.outcome is Outcome.FAIL


def test_a_client_only_certificate_serves_no_tls():
    ca, key = make("root", ca=True)
    leaf, _ = make("IPC", issuer=ca, signer=key, eku=[ExtendedKeyUsageOID.CLIENT_AUTH])
    item = Judge(TrustPolicy([ca]), NOW).endpoint(parse_target(f"{CAMERA}@192.0.2.10:443"), shown(leaf, ca))
    assert "identity.endpoint.usage" in codes(item)


def test_names(site, authority, judge_for):
    authority.issue([Request("est.video.example", "server")])
    chain = chain_of(site, "est.video.example", "server")
    good = judge_for().endpoint(parse_target("est.video.example:443"), shown(*chain))
    assert good.outcome is Outcome.PASS, good.findings
    assert not good.active
    bad = judge_for().endpoint(parse_target("other.example:443"), shown(*chain))
    assert codes(bad) == {"identity.endpoint.name-mismatch"}
    assert judge_for(sni="est.video.example").endpoint(HERE, shown(*chain)).outcome is Outcome.PASS


def test_clients(site, place, judge_for):
    wanted = ("good", "none", "stranger", "expired", "revoked", "other")
    all_in = {name: Tried("accepted") for name in wanted}
    item = judge_for(wanted=wanted).endpoint(HERE, shown(*chain_of(site), clients=all_in))
    assert codes(item) == {
        "identity.endpoint.client-none",
        "identity.endpoint.client-stranger",
        "identity.endpoint.client-expired",
        "identity.endpoint.client-revoked",
        "identity.endpoint.client-other",
    }
    refused = {name: Tried("accepted" if name == "good" else "refused") for name in wanted}
    assert judge_for(wanted=wanted).endpoint(HERE, shown(*chain_of(site), clients=refused)).outcome is Outcome.PASS
    nobody = dict.fromkeys(wanted, Tried("refused"))
    closed = judge_for(wanted=wanted).endpoint(HERE, shown(*chain_of(site), clients=nobody))
    assert codes(closed) == {"identity.endpoint.client-control"}
    assert closed.outcome is Outcome.UNKNOWN
    unclear = judge_for(wanted=wanted).endpoint(
        HERE, shown(*chain_of(site), clients={**refused, "none": Tried("unclear", "no answer")})
    )
    assert codes(unclear) == {"identity.endpoint.client-unclear"}
    assert unclear.outcome is Outcome.UNKNOWN
    some = judge_for(wanted=wanted).endpoint(HERE, shown(*chain_of(site), clients={"none": Tried("refused")}))
    assert codes(some) == {"identity.endpoint.client-untested"}
    assert some.outcome is Outcome.UNKNOWN


def test_over_all_an_axis_passes_only_if_it_passes_everywhere(site, place, judge_for):
    judge = judge_for()
    good = judge.endpoint(HERE, shown(*chain_of(site)))
    gone = judge.endpoint(parse_target("192.0.2.11:443"), Answer("refused"))
    assert overall("x", NOW, [good]).outcome is Outcome.PASS
    verdict = overall("x", NOW, [good, gone])
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.axes[Axis.REVOCATION] is Outcome.UNKNOWN
    assert overall("x", NOW, [good, gone], require=[Axis.PROVENANCE]).outcome is Outcome.UNKNOWN
    broken = Probed("x", NOW, [good], missed=[parse_target("192.0.2.12:443")])
    assert broken.verdict().outcome is Outcome.UNKNOWN
    assert broken.verdict(require=[Axis.PROVENANCE]).outcome is Outcome.UNKNOWN
    assert [item.code for item in broken.verdict().findings] == ["identity.endpoint.not-probed"]
    assert broken.outcomes() == {"pass": 1, "fail": 0, "unknown": 1}
    assert overall("x", NOW, []).outcome is Outcome.UNKNOWN


def test_credentials_that_must_be_refused(site, authority, tmp_path):
    folder = tmp_path / "credentials"
    made = make_credentials(authority, folder, profile="platform", area="320116", type_code="200")
    assert set(made) == set(TEST_SERIALS)
    now = NOW + timedelta(minutes=1)
    policy = site.policy(authority)
    verdicts = {}
    for name, record in made.items():
        assert (folder / f"{name}.key.pem").stat().st_mode & 0o077 == 0
        load_signer(f"file:{folder / f'{name}.key.pem'}", PASSPHRASE)
        chain = [record.x509(), authority.certificates[record.issuer]]
        found = policy.judge_chain(chain, "platform", now)
        verdicts[name] = found.believed and found.unrevoked
        assert record.expired(now + timedelta(days=1)), "none lives longer than a day"
    assert verdicts == {"other": True, "revoked": False, "expired": False}
    assert site.recorder.kinds.count("certificate.issued") >= 3
    with pytest.raises(Exception, match="there are credentials already"):
        make_credentials(authority, folder, profile="platform", area="320116", type_code="200")
    ended = end_credentials(authority, folder)
    assert ended == [made["other"].serial]
    assert list(folder.iterdir()) == []
    assert site.registry.by_serial(made["other"].serial).status == "revoked"


def test_credentials_of_an_interrupted_run_are_ended(site, authority, tmp_path, monkeypatch):
    from secguard.identity.probe import credentials

    class PowerCut(BaseException):
        pass

    def cut(*_):
        raise PowerCut

    folder = tmp_path / "credentials"
    with monkeypatch.context() as patch:
        patch.setattr(credentials, "atomic_write", cut)
        patch.setattr(credentials, "end_credentials", lambda *_: [])
        with pytest.raises(PowerCut):
            make_credentials(authority, folder, profile="platform", area="320116", type_code="200")
    assert [item.name for item in folder.iterdir()] == ["other.key.pem"]
    (serial,) = end_credentials(authority, folder)
    assert site.registry.by_serial(serial).status == "revoked"
    assert list(folder.iterdir()) == []


def test_what_no_rule_foresaw_is_not_believed(site, place, judge_for, monkeypatch):
    from secguard.identity.probe import judge as judging

    monkeypatch.setattr(judging.facts, "purpose_of", lambda *_, **__: 1 / 0)
    item = judge_for().endpoint(HERE, shown(*chain_of(site)))
    assert codes(item) == {"identity.endpoint.malformed"}
    assert item.outcome is Outcome.FAIL
    assert not item.active


def test_devices_without_address_are_named(site, authority):
    records = [
        DeviceRecord(CAMERA, address="192.0.2.10"),
        DeviceRecord(OTHER),
        DeviceRecord("32011600001320000003", address="10.0.0.0/8"),
        DeviceRecord("32011600001320000004", address="192.0.2.4", status="retired"),
        DeviceRecord("11010000001320000001", address="192.0.2.5"),
    ]
    targets, without = registry_targets(records, "320116")
    assert [str(item) for item in targets] == ["192.0.2.10:443"]
    assert targets[0].device == CAMERA
    assert [item.gbid for item in without] == [OTHER, "32011600001320000003"]
    verdict = Probed("registry", NOW, left_out=without).verdict()
    assert [found.code for found in verdict.findings] == ["identity.endpoint.no-address"] * 2
    assert verdict.outcome is Outcome.UNKNOWN


def test_an_issuing_ca_of_the_same_name_does_not_hide_behind_the_device():
    root, root_key = make("root", ca=True)
    for days in ((-9, -2), (2, 9)):
        ca, ca_key = make("IPC", ca=True, issuer=root, signer=root_key, days=days)
        leaf, _ = make("IPC", issuer=ca, signer=ca_key, names=[x509.DNSName("a")])
        both, _ = make("IPC", issuer=ca, signer=ca_key, days=days)
        for certificate, count in ((leaf, 1), (both, 2)):
            item = Judge(TrustPolicy([root]), NOW).endpoint(HERE, shown(certificate, ca))
            told = [f for f in item.findings if f.code.rpartition(".")[2] in {"expired", "not-yet-valid"}]
            assert len(told) == count, item.findings
            assert item.axes[Axis.PROVENANCE] is Outcome.FAIL
