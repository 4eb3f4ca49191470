"""Issuing: what a certificate says, that asking again changes nothing, and that what is wrong leaves nothing behind."""

import ipaddress
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FixedClock, FormatError, RefusedError, SecguardError, UsageError
from secguard.gbid import GbId
from secguard.identity import IdentityConfig, Request
from secguard.identity.issuing.request import check_key, read_csr
from secguard.identity.profiles import load_profile
from secguard.keys import check_private, load_signer
from secguard.trust import Purpose, gbid_of, read_certificates

CAMERA = "32011600001320000001"
PROFILES = Path(__file__).parents[3] / "certs"


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


def test_camera_certificate_says_what_its_profile_says(site):
    site.config = IdentityConfig(crl_url="http://crl.example/")
    camera, signing = site.open().issue([Request(CAMERA, "camera", vendor_serial="SN 42", name="East gate")])
    leaf = camera.certificate
    subject = {item.oid: item.value for item in leaf.subject}
    assert subject == {
        NameOID.COUNTRY_NAME: "CN",
        NameOID.ORGANIZATION_NAME: "secguard",
        NameOID.ORGANIZATIONAL_UNIT_NAME: "132",
        NameOID.SERIAL_NUMBER: "SN 42",
        NameOID.COMMON_NAME: CAMERA,
    }
    assert leaf.serial_number.bit_length() == 128
    assert leaf.signature_hash_algorithm.name == "sha256"
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == timedelta(days=730)
    basic, usage = extension(leaf, x509.BasicConstraints), extension(leaf, x509.KeyUsage)
    assert (basic.critical, basic.value.ca, usage.critical, usage.value.digital_signature) == (True, False, True, True)
    assert set(extension(leaf, x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    names = extension(leaf, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"d{CAMERA}.32011600.cam.320116.video.example"]
    assert [item.type_id.dotted_string for item in names.get_values_for_type(x509.OtherName)] == [
        "1.3.6.1.5.5.7.8.3",
        "1.3.6.1.5.5.7.8.4",
    ]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == []
    key = extension(leaf, x509.AuthorityKeyIdentifier).value
    assert key.key_identifier is not None
    assert key.authority_cert_issuer is None
    (point,) = extension(leaf, x509.CRLDistributionPoints).value
    assert point.full_name[0].value == "http://crl.example/devices.crl"
    with pytest.raises(x509.ExtensionNotFound):
        extension(leaf, x509.AuthorityInformationAccess)
    assert gbid_of(leaf) == gbid_of(signing.certificate) == GbId(CAMERA)
    assert leaf.public_key() != signing.certificate.public_key()
    device = site.registry.device(CAMERA)
    assert (device.name, device.vendor_serial, device.status) == ("East gate", "SN 42", "issued")


def test_everything_issued_is_believed_for_its_purpose_only(site):
    authority = site.open()
    issued = authority.issue([Request(CAMERA, "camera")])
    policy = site.policy(authority)
    for item in issued:
        for purpose in Purpose:
            found = policy.judge_chain(authority.chain(item.record), purpose, site.clock.now(), gbid=GbId(CAMERA))
            assert (found.believed and found.unrevoked) == (purpose == item.record.purpose), purpose


def test_files_of_a_camera(site, tmp_path):
    folder = tmp_path / "out"
    site.open().issue([Request(CAMERA, "camera", folder=folder)])
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [
            "ca.pem",
            *(f"{CAMERA}.{p}.{end}" for p in ("camera", "media-signing") for end in ("pem", "chain.pem", "key.pem")),
        ]
    )
    key = folder / f"{CAMERA}.camera.key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"ENCRYPTED" in key.read_bytes()
    chain = read_certificates(folder / f"{CAMERA}.camera.chain.pem")
    assert len(chain) == 2
    assert load_signer(str(key), b"correct horse").public_key() == chain[0].public_key()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_default_folder_and_the_signer_that_video_uses(site):
    authority = site.open()
    authority.issue([Request(CAMERA, "camera")])
    assert (site.state / "devices" / CAMERA / f"{CAMERA}.media-signing.key.pem").exists()
    signer, chain = site.open().device_signer(CAMERA)
    assert signer.public_key() == chain[0].public_key()
    assert len(chain) == 2
    with pytest.raises(UsageError) as caught:
        authority.device_signer("32011600001320000002")
    assert caught.value.code == "identity.certificate.none"


def test_log_and_operator_keys(site):
    authority = site.open()
    signer, chain = authority.log_signer()
    assert signer.algorithm == "ed25519"
    keys = site.policy(authority).log_keys([chain], site.clock.now()).keys
    assert [key.name for key in keys] == ["video.example/320116/0a1b2c3d"]
    signer, chain = authority.operator_signer()
    found = site.policy(authority).judge_chain(chain, Purpose.OPERATOR, site.clock.now())
    assert found.findings == ()
    with pytest.raises(UsageError):
        authority.log_signer("another/log")


def test_asking_again_gives_the_same(site):
    first = site.open().issue([Request(CAMERA, "camera")])
    before, events = site.files(), len(site.recorder.events)
    (site.state / "devices" / CAMERA / f"{CAMERA}.camera.pem").unlink()
    again = site.open().issue([Request(CAMERA, "camera")])
    assert [item.certificate for item in again] == [item.certificate for item in first]
    assert [item.new for item in again] == [False, False]
    assert site.files() == before
    assert len(site.recorder.events) == events


def test_active_certificate_elsewhere_stands_in_the_way(site, tmp_path):
    site.open().issue([Request(CAMERA, "camera")])
    with pytest.raises(RefusedError) as caught:
        site.open().issue([Request(CAMERA, "camera", folder=tmp_path / "other")])
    assert caught.value.code == "identity.certificate.active"
    assert not (tmp_path / "other").exists()


def test_expired_certificate_is_replaced_with_a_new_key(site):
    first = site.open().issue([Request(CAMERA, "camera")])
    later = FixedClock(site.clock.at + timedelta(days=800))
    second = site.open(clock=later).issue([Request(CAMERA, "camera")])
    assert second[0].certificate.public_key() != first[0].certificate.public_key()
    assert {row.status for row in site.registry.certificates(CAMERA)} == {"superseded", "active"}


def test_validity_never_goes_beyond_the_issuing_ca(site):
    ends = site.open().certificates["devices"].not_valid_after_utc
    late = FixedClock(ends - timedelta(days=10))
    issued = site.open(clock=late).issue([Request(CAMERA, "camera")])
    assert issued[0].certificate.not_valid_after_utc == ends
    dead = FixedClock(ends + timedelta(days=1))
    with pytest.raises(RefusedError) as caught:
        site.open(clock=dead).issue([Request("32011600001320000002", "camera")])
    assert caught.value.code == "identity.ca.expired"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request("3201160000132000001", "camera"), "gbid.length"),
        (Request("3201160000132000000x", "camera"), "gbid.digit"),
        (Request("32011600002000000001", "camera"), "identity.profile.type"),
        (Request("32011700001320000001", "camera"), "identity.scope.exceeded"),
        (Request(CAMERA, "toaster"), "identity.profile.unknown"),
        (Request(CAMERA, "camera", vendor_serial="序列号"), "identity.vendor-serial.format"),
        (Request("bad\nname", "operator"), "identity.name.format"),
        (Request("n" * 65, "operator"), "identity.name.format"),
        (Request(CAMERA, "camera", csr=b"nothing"), "identity.csr.format"),
    ],
)
def test_refused_and_nothing_is_left_behind(site, request_, code):
    before, events = site.files(), site.recorder.kinds
    with pytest.raises(SecguardError) as caught:
        site.open().issue([request_])
    assert caught.value.code == code
    assert site.files() == before
    assert site.recorder.kinds == events
    assert list(site.registry.certificates(request_.holder)) == []


@pytest.mark.parametrize(
    ("passphrase", "code"), [(b"wrong", "keys.passphrase.wrong"), (None, "keys.passphrase.missing")]
)
def test_wrong_or_missing_passphrase(site, passphrase, code):
    before = site.files()
    with pytest.raises(UsageError) as caught:
        site.open(passphrase).issue([Request(CAMERA, "camera")])
    assert caught.value.code == code
    assert site.files() == before


def test_key_of_a_ca_that_others_can_read(site):
    key = site.state / "keys" / "devices.key.pem"
    key.chmod(0o640)
    with pytest.raises(RefusedError, match="others may read") as caught:
        site.open().issue([Request(CAMERA, "camera")])
    assert caught.value.hint == f"run: chmod 600 {key}"
    with pytest.raises(RefusedError):
        check_private(key)


def test_two_requests_of_which_one_is_wrong_make_neither(site):
    before = site.files()
    with pytest.raises(SecguardError):
        site.open().issue([Request(CAMERA, "camera"), Request("32990000001320000001", "camera")])
    assert site.files() == before


def test_folder_is_taken_away_when_the_issue_fails(site, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    site.config = IdentityConfig(domain="elsewhere.example")
    for request in (
        Request(CAMERA, "camera", folder=tmp_path / "new"),
        Request(CAMERA, "camera", csr=csr(key), folder=tmp_path / "new"),
    ):
        with pytest.raises(RefusedError):
            site.open().issue([request])
        assert not (tmp_path / "new").exists()


def test_record_of_a_device_is_filled_in_and_another_serial_refused(site):
    site.open().issue([Request(CAMERA, "camera")])
    site.open().revoke(CAMERA, "superseded")
    site.open().issue([Request(CAMERA, "camera", name="West gate", vendor_serial="SN 1")])
    device = site.registry.device(CAMERA)
    assert (device.name, device.vendor_serial) == ("West gate", "SN 1")
    with pytest.raises(RefusedError) as caught:
        site.open().issue([Request(CAMERA, "camera", vendor_serial="SN 2")])
    assert caught.value.code == "identity.device.serial"


# CSR in, certificate out


def csr(key, *, cn="I am root", digest=None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]),
        [x509.Extension(x509.BasicConstraints.oid, True, x509.BasicConstraints(True, None))],
    )
    return builder.sign(key, digest or hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_request_gives_only_its_key(site):
    key = ec.generate_private_key(ec.SECP256R1())
    issued = site.open().issue([Request(CAMERA, "camera", csr=csr(key))])
    assert len(issued) == 1  # a companion needs a key of its own, which the device did not send
    leaf = issued[0].certificate
    assert leaf.public_key() == key.public_key()
    assert leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == CAMERA
    assert not extension(leaf, x509.BasicConstraints).value.ca
    assert issued[0].record.key == ""
    assert not list((site.state / "devices" / CAMERA).glob("*.key.pem"))
    again = site.open().issue([Request(CAMERA, "camera", csr=csr(key))])
    assert again[0].certificate == leaf
    with pytest.raises(UsageError, match="in the device"):
        site.open().device_signer(CAMERA, "camera")


def test_request_of_a_weak_or_unwanted_key(site):
    for key in (rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256K1())):
        with pytest.raises(RefusedError) as caught:
            site.open().issue([Request(CAMERA, "camera", csr=csr(key))])
        assert caught.value.code == "identity.csr.key"


def test_request_without_proof_of_possession(site):
    der = bytearray(
        x509.load_pem_x509_csr(csr(ec.generate_private_key(ec.SECP256R1()))).public_bytes(serialization.Encoding.DER)
    )
    der[-1] ^= 1
    with pytest.raises(RefusedError) as caught:
        site.open().issue([Request(CAMERA, "camera", csr=bytes(der))])
    assert caught.value.code == "identity.csr.signature"


def test_one_key_for_two_devices_is_refused(site):
    key = ec.generate_private_key(ec.SECP256R1())
    site.open().issue([Request(CAMERA, "camera", csr=csr(key))])
    with pytest.raises(RefusedError) as caught:
        site.open().issue([Request("32011600001320000002", "camera", csr=csr(key))])
    assert caught.value.code == "identity.key.shared"


def test_revoked_key_is_not_certified_again(site):
    key = ec.generate_private_key(ec.SECP256R1())
    site.open().issue([Request(CAMERA, "camera", csr=csr(key))])
    site.open().revoke(CAMERA, "keyCompromise")
    with pytest.raises(RefusedError) as caught:
        site.open().issue([Request(CAMERA, "camera", csr=csr(key))])
    assert caught.value.code == "identity.key.revoked"


def asking(key, *names) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def allow(site, *kinds: str) -> None:
    path = site.certs / "camera.yaml"
    path.write_text(f"{path.read_text()}from_request: [{', '.join(kinds)}]\n")


IP = x509.IPAddress(ipaddress.ip_address("10.1.2.3"))
HOST = x509.DNSName("gate.cam.320116.video.example")


@pytest.mark.parametrize(
    ("kinds", "taken"), [((), []), (("dns",), [HOST]), (("ip",), [IP]), (("dns", "ip"), [HOST, IP])]
)
def test_request_adds_names_only_where_the_profile_allows_it(site, kinds, taken):
    allow(site, *kinds)
    request = asking(ec.generate_private_key(ec.SECP256R1()), HOST, IP, x509.RFC822Name("a@b.example"))
    leaf = site.open().issue([Request(CAMERA, "camera", csr=request)])[0].certificate
    names = list(extension(leaf, x509.SubjectAlternativeName).value)
    assert names[2:] == taken
    assert gbid_of(leaf) == GbId(CAMERA)


@pytest.mark.parametrize(
    "name",
    [
        x509.DNSName("*.cam.320116.video.example"),
        x509.DNSName("gate.elsewhere.example"),
        x509.DNSName("video.example"),
        x509.DNSName("d32011600001320000002.32011600.cam.320116.video.example"),
        x509.DNSName("gate..video.example"),
        x509.DNSName(""),
        *(x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "0.0.0.0", "224.0.0.1", "::", "::1")),
        *(x509.IPAddress(ipaddress.ip_address(one)) for one in ("255.255.255.255", "fe80::1", "::ffff:10.0.0.1")),
    ],
)
def test_request_for_a_name_that_it_may_not_have(site, name):
    allow(site, "dns", "ip")
    request = asking(ec.generate_private_key(ec.SECP256R1()), name)
    with pytest.raises(RefusedError) as caught:
        site.open().issue([Request(CAMERA, "camera", csr=request)])
    assert caught.value.code == "identity.csr.name"
    assert list(site.registry.certificates(CAMERA)) == []


def test_request_for_too_many_names_and_for_a_name_of_another_region(site):
    allow(site, "dns")
    key = ec.generate_private_key(ec.SECP256R1())
    many = [x509.DNSName(f"g{n}.cam.320116.video.example") for n in range(9)]
    for names, code in (
        (many, "identity.csr.name"),
        ([x509.DNSName("g.video.example")], "identity.certificate.rejected"),
    ):
        with pytest.raises(RefusedError) as caught:
            site.open().issue([Request(CAMERA, "camera", csr=asking(key, *names))])
        assert caught.value.code == code


def test_renewal_keeps_the_names_that_a_request_added(site):
    allow(site, "dns")
    site.open().issue([Request(CAMERA, "camera", csr=asking(ec.generate_private_key(ec.SECP256R1()), HOST))])
    renewed = site.open().renew(CAMERA, "camera").certificate
    assert HOST in list(extension(renewed, x509.SubjectAlternativeName).value)


CAMERA_PROFILE = load_profile(PROFILES / "camera.yaml")
GOOD_CSR = x509.load_pem_x509_csr(csr(ec.generate_private_key(ec.SECP256R1()))).public_bytes(serialization.Encoding.DER)


@given(st.integers(0, len(GOOD_CSR) - 1), st.integers(1, 255), st.booleans())
def test_mutated_requests(index, flip, cut):
    data = bytearray(GOOD_CSR)
    data[index] ^= flip
    mutated = bytes(data[:index] if cut else data)
    try:
        key = read_csr(mutated, CAMERA_PROFILE)
    except (FormatError, RefusedError):
        return
    # Only the signature's own padding bits may differ.
    assert key == x509.load_der_x509_csr(GOOD_CSR).public_key()


@given(st.binary(max_size=400))
def test_requests_of_anything(data):
    with pytest.raises((FormatError, RefusedError)):
        read_csr(data, CAMERA_PROFILE)


def test_large_request():
    with pytest.raises(FormatError):
        read_csr(GOOD_CSR + bytes(20_000), CAMERA_PROFILE)


@pytest.mark.parametrize("kind", [NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER])
def test_request_of_another_device_is_refused(site, kind):
    def request(text):
        subject = x509.Name([x509.NameAttribute(kind, text)])
        key = ec.generate_private_key(ec.SECP256R1())
        made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    with pytest.raises(RefusedError) as caught:
        site.open().issue([Request(CAMERA, "camera", csr=request("32011600001320000002"))])
    assert caught.value.code == "identity.csr.device"
    assert list(site.registry.certificates(CAMERA)) == []
    (issued,) = site.open().issue([Request(CAMERA, "camera", csr=request(CAMERA))])
    assert gbid_of(issued.certificate).value == CAMERA


def test_rsa_key_that_clients_refuse(site):
    numbers = rsa.RSAPublicNumbers(65537, (1 << 8200) + 1)
    profile = load_profile(PROFILES / "camera.yaml")
    with pytest.raises(RefusedError) as caught:
        check_key(numbers.public_key(), profile, profile.accept)
    assert caught.value.code == "identity.csr.key"
