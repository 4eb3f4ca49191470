"""The judge against `openssl verify` over good and bad chains; warm against cold: what is kept changes no answer."""

import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secguard.gbid import GbId, Scope
from secguard.trust import MALFORMED, Purpose, TrustPolicy, oids_of

DAY = timedelta(days=1)
DEVICE = Purpose.DEVICE
ODD = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def dns(name: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name)]


def constrained(*names: x509.GeneralName, excluded=None):
    return (x509.NameConstraints(list(names) or None, excluded), True)


INSIDE = (x509.DNSName("cam.320116.example"),)

# name -> keywords of the issuing CA, keywords of the leaf
CASES: dict[str, tuple[dict, dict]] = {
    "good": ({}, {}),
    "good, constrained": ({"extra": [constrained(*INSIDE)]}, {"sans": dns("d1.cam.320116.example")}),
    "good, the constraint itself": ({"extra": [constrained(*INSIDE)]}, {"sans": dns("cam.320116.example")}),
    "good, capital letters": ({"extra": [constrained(*INSIDE)]}, {"sans": dns("D1.CAM.320116.EXAMPLE")}),
    "good, no DNS name": ({"extra": [constrained(*INSIDE)]}, {}),
    "good, Ed25519": ({}, {"key": ed25519.Ed25519PrivateKey.generate()}),
    "good, P-384": ({}, {"key": ec.generate_private_key(ec.SECP384R1())}),
    "good, SHA-512": ({}, {"digest": hashes.SHA512()}),
    "good, unknown extension": ({}, {"extra": [(ODD, False)]}),
    "names: another region": ({"extra": [constrained(*INSIDE)]}, {"sans": dns("d1.cam.320115.example")}),
    "names: label boundary": ({"extra": [constrained(*INSIDE)]}, {"sans": dns("xcam.320116.example")}),
    "names: one of two outside": (
        {"extra": [constrained(*INSIDE)]}, {"sans": [*dns("a.cam.320116.example"), *dns("b.example")]},
    ),
    "names: CN that looks like a host": ({"extra": [constrained(*INSIDE)]}, {"cn": "host.elsewhere.example"}),
    "names: excluded": (
        {"extra": [constrained(excluded=[x509.DNSName("bad.example")])]}, {"sans": dns("a.bad.example")},
    ),
    "expired": ({}, {"end": -DAY}),
    "not yet valid": ({}, {"start": DAY}),
    "CA expired": ({"end": -DAY}, {}),
    "server only": ({}, {"ekus": [ExtendedKeyUsageOID.SERVER_AUTH]}),
    "CA for servers only": ({"ekus": [ExtendedKeyUsageOID.SERVER_AUTH]}, {}),
    "no key usage for signatures": (
        {}, {"usage": False, "extra": [(x509.KeyUsage(*[False] * 2, True, *[False] * 6), True)]},
    ),
    "policy of another purpose": ({}, {"purposes": (Purpose.OPERATOR,), "ekus": [oids_of(DEVICE).eku]}),
    "CA without the policy": ({"purposes": (Purpose.OPERATOR,), "ekus": [oids_of(DEVICE).eku]}, {}),
    "unknown critical extension": ({}, {"extra": [(ODD, True)]}),
    "unknown critical extension of the CA": ({"extra": [(ODD, True)]}, {}),
    "CA without basicConstraints": ({"basic": False}, {}),
    "CA without keyCertSign": ({"usage": False, "extra": [(x509.KeyUsage(True, *[False] * 8), True)]}, {}),
    "leaf is a CA": ({}, {"ca": True}),
    "revoked": ({}, {"revoked": True}),
    "CA revoked": ({"revoked": True}, {}),
    "empty subject alternative name": ({}, {"gbid": None, "extra": [(x509.SubjectAlternativeName([]), False)]}),
    "forged": ({}, {"forged": True}),
    "no AKI": ({}, {"no_aki": True}),
    "another key's AKI": ({}, {"other_aki": True}),
    "RSA 1024": ({}, {"key": "rsa1024"}),
    "brainpool": ({}, {"key": ec.generate_private_key(ec.BrainpoolP256R1())}),
    "another district": ({}, {"gbid": GbId("32011500001320000001"), "cn": "32011500001320000001"}),
    "no ID": ({}, {"gbid": None}),
    "CA wider than the root": ({"scope": Scope(("32",))}, {}),
    "CA without a scope": ({"scope": None}, {}),
}  # fmt: skip

# Where the two differ, and why.
DIFFERENT = {
    "RSA 1024": "openssl's default security level asks nothing of keys; here nobody may be able to break them",
    "brainpool": "only the curves that devices and FIPS know are accepted here",
    "another district": "no X.509 constraint binds a GB/T 28181 ID; the GB scope does",
    "no ID": "a device's certificate must say which device",
    "CA wider than the root": "GB scope: a CA passes on what it was given",
    "CA without a scope": "GB scope: under a secguard root every CA has one",
}


class Made:
    """A chain with its lists."""

    def __init__(self, pki, ca: dict, leaf: dict) -> None:
        ca, leaf = dict(ca), dict(leaf)
        self.root = pki.root()
        revoked_ca, revoked = ca.pop("revoked", False), leaf.pop("revoked", False)
        dated = {key: pki.now + value for key, value in leaf.items() if isinstance(value, timedelta)}
        dated_ca = {key: pki.now + value for key, value in ca.items() if isinstance(value, timedelta)}
        self.ca = pki.issuing(self.root, **{"purposes": (DEVICE,), **ca, **dated_ca})
        values = {"purposes": (DEVICE,), **leaf, **dated}
        if values.get("key") == "rsa1024":
            values["key"] = rsa.generate_private_key(65537, 1024)
        if values.pop("forged", False):
            self.leaf = pki.leaf(
                pki.issuing(self.root, purposes=(DEVICE,), key=ec.generate_private_key(ec.SECP256R1()))
            )
        elif values.get("ca"):
            self.leaf = pki.make(pki.camera.value, self.ca, **{**values, "gbid": pki.camera})
        elif values.pop("no_aki", False):
            self.leaf = relinked(pki, self.ca, None)
        elif values.pop("other_aki", False):
            self.leaf = relinked(pki, self.ca, bytes(20))
        else:
            self.leaf = pki.leaf(self.ca, **values)
        entries = [pki.revoked(self.leaf, pki.now - DAY)] if revoked else []
        above = [pki.revoked(self.ca, pki.now - DAY)] if revoked_ca else []
        self.crls = [pki.crl(self.root, above), pki.crl(self.ca, entries)]
        self.chain = [self.leaf.certificate, self.ca.certificate]

    @property
    def policy(self) -> TrustPolicy:
        return TrustPolicy([self.root.certificate], self.crls)


def relinked(pki, issuer, identifier: bytes | None):
    """A leaf whose authority key identifier is another, or missing."""
    node = pki.leaf(issuer, purposes=(DEVICE,))
    old = node.certificate
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, old.public_key(), old.serial_number, old.not_valid_before_utc, old.not_valid_after_utc
    )
    for item in old.extensions:
        value: x509.ExtensionType | None = item.value
        if isinstance(value, x509.AuthorityKeyIdentifier):
            value = x509.AuthorityKeyIdentifier(identifier, None, None) if identifier else None
        if value is not None:
            builder = builder.add_extension(value, item.critical)
    return type(node)(builder.sign(issuer.key, hashes.SHA256()), node.key)


@pytest.fixture
def openssl(tmp_path) -> Callable[[Made], bool]:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs openssl: apt-get install openssl")

    def verify(made: Made, at) -> bool:
        for name, data in (
            ("root", made.root.certificate), ("ca", made.ca.certificate), ("leaf", made.leaf.certificate),
        ):  # fmt: skip
            (tmp_path / name).write_bytes(data.public_bytes(Encoding.PEM))
        (tmp_path / "crls").write_bytes(b"".join(item.public_bytes(Encoding.PEM) for item in made.crls))
        words = [
            "verify", "-x509_strict", "-crl_check_all", "-purpose", "sslclient", "-explicit_policy",
            "-policy", oids_of(DEVICE).policy.dotted_string, "-attime", str(int(at.timestamp())),
            "-CAfile", "root", "-untrusted", "ca", "-CRLfile", "crls", "leaf",
        ]  # fmt: skip
        done = subprocess.run([tool, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.returncode == 0

    return verify


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_against_openssl(pki, openssl, name):
    try:
        made = Made(pki, *CASES[name])
    except ValueError:
        pytest.fail(f"{name}: cannot be made")
    theirs = openssl(made, pki.now)
    found = made.policy.judge_chain(made.chain, DEVICE, pki.now)
    ours = found.believed and found.unrevoked
    assert ours == name.startswith("good"), found.findings
    if name in DIFFERENT:
        assert (ours, theirs) == (False, True), DIFFERENT[name]  # never the other way round
    else:
        assert theirs == ours, found.findings


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_warm_says_what_cold_says(pki, name):
    """A policy that has believed the issuing CA before gives the same answer as a new one."""
    made = Made(pki, *CASES[name])
    warm = made.policy
    twin = pki.leaf(made.ca, purposes=(DEVICE,), sans=dns("twin.cam.320116.example"))
    for _ in range(2):
        warm.judge_chain([twin.certificate, made.ca.certificate], DEVICE, pki.now)
    for chain in (made.chain, made.chain[:1], [*made.chain, made.root.certificate], made.chain[1:]):
        cold = made.policy.judge_chain(chain, DEVICE, pki.now)
        again = warm.judge_chain(chain, DEVICE, pki.now)
        assert (again.findings, again.path) == (cold.findings, cold.path)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_every_byte_with_everything_warm(pki):
    made = Made(pki, {"extra": [constrained(*INSIDE)]}, {"sans": dns("d1.cam.320116.example")})
    policy = made.policy
    assert policy.judge_chain(made.chain, DEVICE, pki.now).findings == ()
    for place in (0, 1):
        original = made.chain[place].public_bytes(Encoding.DER)
        judged = 0
        for index in range(len(original)):
            for flip in (0x01, 0x20, 0x80):
                data = bytearray(original)
                data[index] ^= flip
                try:
                    changed = x509.load_der_x509_certificate(bytes(data))
                except MALFORMED:
                    continue
                chain = [changed, made.chain[1]] if place == 0 else [made.chain[0], changed]
                judged += 1
                found = policy.judge_chain(chain, DEVICE, pki.now)
                same = changed.tbs_certificate_bytes == made.chain[place].tbs_certificate_bytes
                assert not found.believed or same, (place, index)
            # What is kept was not spoilt either.
        assert judged > len(original) // 2
        assert policy.judge_chain(made.chain, DEVICE, pki.now).findings == ()


def test_names_of_two_issuing_cas_with_one_name(pki):
    """Rollover: the old CA's path is kept, the new one of the same name is not mistaken for it."""
    root = pki.root()
    old, new = (pki.issuing(root, purposes=(DEVICE,), key=ec.generate_private_key(ec.SECP256R1())) for _ in range(2))
    policy = TrustPolicy([root.certificate], [pki.crl(root), pki.crl(old), pki.crl(new)])
    for ca in (old, new, old):
        leaf = pki.leaf(ca, purposes=(DEVICE,))
        for others in ([old, new], [new, old]):
            chain = [leaf.certificate, *(item.certificate for item in others)]
            found = policy.judge_chain(chain, DEVICE, pki.now)
            assert found.findings == ()
            assert found.path[1] == ca.certificate


def test_known_issuing_ca_needs_no_openssl(pki, monkeypatch):
    made = Made(pki, {"extra": [constrained(*INSIDE)]}, {"sans": dns("d1.cam.320116.example")})
    policy = made.policy
    assert policy.judge_chain(made.chain, DEVICE, pki.now).findings == ()
    monkeypatch.setattr("OpenSSL.crypto.X509StoreContext", None)
    leaf = pki.leaf(made.ca, purposes=(DEVICE,), sans=dns("d2.cam.320116.example"))
    assert policy.judge_chain([leaf.certificate, made.ca.certificate], DEVICE, pki.now).findings == ()


def test_two_roots(pki):
    roots = [pki.root(name) for name in ("one", "two")]
    cas = [pki.issuing(root, f"ca {number}", purposes=(DEVICE,)) for number, root in enumerate(roots)]
    lists = [pki.crl(item) for item in (*roots, *cas)]
    policy = TrustPolicy([item.certificate for item in roots], lists)
    for number in (0, 1, 0):
        leaf = pki.leaf(cas[number], purposes=(DEVICE,))
        found = policy.judge_chain([leaf.certificate, cas[number].certificate], DEVICE, pki.now)
        assert (found.findings, found.path[-1]) == ((), roots[number].certificate)
        one = TrustPolicy([roots[1 - number].certificate], lists)
        assert not one.judge_chain([leaf.certificate, cas[number].certificate], DEVICE, pki.now).believed


def test_constraints_of_the_root_bind_after_the_first_leaf_too(pki):
    root = pki.root(extra=[constrained(*INSIDE)])
    ca = pki.issuing(root, purposes=(DEVICE,))
    policy = TrustPolicy([root.certificate], [pki.crl(root), pki.crl(ca)])
    for host, codes in (("a.cam.320116.example", []), ("a.other.example", ["trust.names.violated"])) * 2:
        leaf = pki.leaf(ca, purposes=(DEVICE,), sans=dns(host))
        found = policy.judge_chain([leaf.certificate, ca.certificate], DEVICE, pki.now)
        assert [item.code for item in found.findings] == codes


def test_subject_of_a_name_holder(pki):
    """Without a subject alternative name, as operators have it."""
    root = pki.root()
    ca = pki.issuing(root, purposes=(Purpose.OPERATOR,))
    policy = TrustPolicy([root.certificate], [pki.crl(root), pki.crl(ca)])
    for cn in ("li.wei", "wang.fang"):
        leaf = pki.leaf(ca, cn, purposes=(Purpose.OPERATOR,), gbid=None)
        assert leaf.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == cn
        assert policy.judge_chain([leaf.certificate, ca.certificate], Purpose.OPERATOR, pki.now).findings == ()
