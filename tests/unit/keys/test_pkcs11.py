"""Keys in a token, against SoftHSM2: the builders of cryptography work with them, and what goes wrong is said."""

import copy
import os
import shutil
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import RefusedError, SecguardError, SystemPartError, UsageError
from secguard.keys import Algorithm, load_signer, save_private_key, verify_signature
from secguard.keys.pkcs11 import generate_in_token
from secguard.keys.pkcs11uri import Pkcs11Uri

MODULE = next((str(p) for p in map(Path, ("/usr/lib/softhsm/libsofthsm2.so",)) if p.exists()), "")
PIN = "1234-5678"


@pytest.fixture(scope="session")
def tokens(tmp_path_factory):
    """A folder of SoftHSM tokens for this test process: the module reads its settings once."""
    if not MODULE or shutil.which("softhsm2-util") is None:
        pytest.skip("needs SoftHSM: apt-get install softhsm2")
    pytest.importorskip("pkcs11", reason="needs the extra pkcs11")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    make_token("never logged in to")  # the module sees what is there when it is loaded
    yield folder
    os.environ.pop("SOFTHSM2_CONF")
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before


def make_token(label: str) -> None:
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "87654321", "--pin", PIN],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="session")
def token(tokens: Path):
    label = f"ca {uuid.uuid4().hex[:8]}"
    make_token(label)
    pin = tokens / "pin"
    pin.touch(mode=0o600)
    pin.write_text(PIN + "\n")
    return Pkcs11Uri(token=label, module=MODULE, pin_source=str(pin))


def key_in(token: Pkcs11Uri, algorithm: Algorithm = Algorithm.P256):
    uri = Pkcs11Uri(token.token, "", "test key", os.urandom(8), token.module, token.pin_source)
    return uri, generate_in_token(uri, algorithm)


@pytest.mark.parametrize("algorithm", [Algorithm.P256, Algorithm.P384])
def test_a_key_signs_through_the_builders_and_by_itself(token, algorithm):
    uri, signer = key_in(token, algorithm)
    assert signer.algorithm is algorithm
    again = load_signer(uri.text)
    assert again.public_key() == signer.public_key()
    assert verify_signature(signer.public_key(), again.sign(b"text"), b"text")
    key = again.private_key()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key
    digest = hashes.SHA384() if algorithm is Algorithm.P384 else hashes.SHA256()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "token")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(name, name, signer.public_key(), 7, now, now + timedelta(days=1)).sign(
        key, digest, ecdsa_deterministic=True
    )
    certificate.verify_directly_issued_by(certificate)
    crl = x509.CertificateRevocationListBuilder(name, now, now + timedelta(days=1)).sign(key, digest)
    assert crl.is_signature_valid(signer.public_key())
    csr = x509.CertificateSigningRequestBuilder(name).sign(key, digest)
    assert csr.is_signature_valid
    answer = ocsp.OCSPResponseBuilder().add_response(
        certificate, certificate, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, now, now + timedelta(1), None, None
    )
    response = answer.responder_id(ocsp.OCSPResponderEncoding.HASH, certificate).sign(key, digest)
    response_key = signer.public_key()
    response_key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))


def test_the_key_stays_in_its_token(token, tmp_path):
    _, signer = key_in(token)
    with pytest.raises(RefusedError) as caught:
        save_private_key(tmp_path / "k.pem", signer, b"x")
    assert caught.value.code == "keys.pkcs11.stays"
    key = signer.private_key()
    with pytest.raises(RefusedError):
        key.private_numbers()
    with pytest.raises(RefusedError):
        key.exchange(ec.ECDH(), signer.public_key())
    assert not (tmp_path / "k.pem").exists()


def test_the_same_id_is_taken_up_not_made_twice(token):
    uri, signer = key_in(token)
    assert generate_in_token(uri, Algorithm.P256).public_key() == signer.public_key()


def test_a_forked_child_signs_too(token):
    _, signer = key_in(token)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, signer.sign(b"from the child"))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        signature = pipe.read()
    os.waitpid(child, 0)
    assert verify_signature(signer.public_key(), signature, b"from the child")
    assert verify_signature(signer.public_key(), signer.sign(b"parent"), b"parent")


def test_digests_that_are_made_elsewhere_are_signed(token):
    _, signer = key_in(token)
    digest = hashes.Hash(hashes.SHA512())
    digest.update(b"x")
    value = digest.finalize()
    signature = signer.private_key().sign(value, ec.ECDSA(utils.Prehashed(hashes.SHA512())))
    signer.public_key().verify(signature, b"x", ec.ECDSA(hashes.SHA512()))


def test_what_is_missing_or_wrong_is_said(token, tmp_path):
    uri, _ = key_in(token)

    def code(**changes) -> str:
        fields = {name: getattr(uri, name) for name in ("token", "serial", "label", "key_id", "module", "pin_source")}
        with pytest.raises(SecguardError) as caught:
            load_signer(Pkcs11Uri(**{**fields, **changes}).text)
        assert caught.value.hint
        return caught.value.code

    wrong, open_, empty = tmp_path / "wrong", tmp_path / "open", tmp_path / "empty"
    for path, text, mode in ((wrong, "0000", 0o600), (open_, PIN, 0o644), (empty, "\n", 0o600)):
        path.write_text(text)
        path.chmod(mode)
    assert code(module="/nowhere.so") == "keys.pkcs11.module"
    assert code(module=str(wrong)) == "keys.pkcs11.module"
    assert code(token="no such token") == "keys.pkcs11.token"
    assert code(key_id=b"none") == "keys.pkcs11.key"
    assert code(pin_source="relative") == "keys.pkcs11.uri"
    other = "never logged in to"
    assert code(token=other, pin_source=str(wrong)) == "keys.pkcs11.pin"
    assert code(token=other, pin_source=str(open_)) == "keys.file.open"
    assert code(token=other, pin_source=str(empty)) == "keys.pkcs11.pin"
    assert code(token=other, pin_source=str(tmp_path / "absent")) == "keys.file.missing"
    assert code(token=other, pin_source="") == "keys.pkcs11.pin"


def test_other_kinds_of_key_are_refused(token):
    with pytest.raises(UsageError) as caught:
        key_in(token, Algorithm.ED25519)
    assert caught.value.code == "keys.pkcs11.algorithm"


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(SystemPartError) as caught:
        load_signer("pkcs11:token=a;object=b")
    assert caught.value.code == "keys.pkcs11.extra"
    assert "secguard[pkcs11]" in caught.value.hint


def test_the_uri_of_rfc_7512():
    text = (
        "pkcs11:token=The%20Software%20token;object=my-ca;type=private;id=%69%95?module-path=/m.so&pin-source=file:/pin"
    )
    uri = Pkcs11Uri.parse(text)
    assert (uri.token, uri.label, uri.key_id) == ("The Software token", "my-ca", b"\x69\x95")
    assert str(uri.pin_file) == "/pin"
    assert Pkcs11Uri.parse(uri.text) == uri


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("pkcs11:", "keys.pkcs11.uri"),
        ("pkcs11:object=a", "keys.pkcs11.uri"),
        ("pkcs11:token=a;token=b", "keys.pkcs11.uri"),
        ("pkcs11:token=a;colour=b", "keys.pkcs11.uri"),
        ("pkcs11:token=%zz", "keys.pkcs11.uri"),
        ("pkcs11:token=%ff", "keys.pkcs11.uri"),
        ("pkcs11:token=a%0a", "keys.pkcs11.uri"),
        ("pkcs11:token=a?pin-value=1234", "keys.pkcs11.pin-value"),
        ("pkcs11:token=" + "a" * 4000, "keys.pkcs11.uri"),
    ],
)
def test_a_wrong_uri_is_refused(text, code):
    with pytest.raises(UsageError) as caught:
        Pkcs11Uri.parse(text)
    assert caught.value.code == code
    assert "1234" not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_a_uri_or_an_error(text):
    for candidate in (text, f"pkcs11:token=a;{text}", f"pkcs11:token=a?{text}"):
        try:
            uri = Pkcs11Uri.parse(candidate)
        except UsageError:
            continue
        assert Pkcs11Uri.parse(uri.text) == uri


def test_keys_that_a_private_key_serialization_cannot_reach(token):
    _, signer = key_in(token)
    with pytest.raises(RefusedError):
        signer.private_key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
