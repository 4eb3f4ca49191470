"""The one path by which certificates come into being: batches, neighbours, rules, crashes, threads."""

import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from secguard.core import FixedClock, RefusedError, SecguardError
from secguard.identity.issuing import certify as certifying
from secguard.identity.issuing.order import Certified, Order
from secguard.trust import Purpose

CAMERA = "32011600001320000001"


def camera(number: int) -> str:
    return f"3201160000132{number:07}"


def key():
    return ec.generate_private_key(ec.SECP256R1())


def csr(private, cn="x") -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]))
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def order(number: int, private=None, profile: str = "camera", **values) -> Order:
    return Order(camera(number), profile, public=(private or key()).public_key(), **values)


class PowerCut(BaseException):
    """What no `except SecguardError` sees."""


def test_batch_is_answered_in_order_and_written_without_files(site):
    before = site.files()
    keys = [key() for _ in range(20)]
    answers = site.open().certify([order(n, private) for n, private in enumerate(keys)])
    assert [answer.record.holder for answer in answers] == [camera(n) for n in range(20)]
    policy, now = site.policy(site.open()), site.clock.now()
    for private, answer in zip(keys, answers, strict=True):
        chain = [x509.load_der_x509_certificate(data) for data in answer.chain]
        assert answer.chain[0] == answer.certificate == answer.record.certificate
        assert chain[0].public_key() == private.public_key()
        assert policy.judge_chain(chain, Purpose.DEVICE, now).findings == ()
        assert site.registry.active(answer.record.holder, "camera") == answer.record
    assert site.files() == before
    assert site.recorder.kinds.count("certificate.issued") == 2 + 20
    assert len({answer.record.serial for answer in answers}) == 20


def test_bad_orders_do_not_spoil_their_neighbours(site):
    shared = key()
    site.open().certify([order(90, shared), order(91)])
    held = site.registry.active(camera(91), "camera").serial
    forged = bytearray(csr(key()))
    forged[-1] ^= 1
    orders = [
        (order(1), None),
        (Order("3201160000132000000", "camera", public=key().public_key()), "gbid.length"),
        (Order("32011700001320000001", "camera", public=key().public_key()), "identity.scope.exceeded"),
        (order(2, profile="toaster"), "identity.profile.unknown"),
        (order(3, profile="nvr"), "identity.profile.type"),
        (Order(camera(4), "camera", csr=b"nothing"), "identity.csr.format"),
        (Order(camera(5), "camera", csr=bytes(forged)), "identity.csr.signature"),
        (Order(camera(6), "camera", csr=csr(ec.generate_private_key(ec.SECP521R1()))), "identity.csr.key"),
        (order(7, ed25519.Ed25519PrivateKey.generate()), "identity.csr.key"),
        (order(8, rsa.generate_private_key(65537, 1024)), "identity.csr.key"),
        (order(9, shared), "identity.key.shared"),
        (order(91), "identity.certificate.active"),
        (order(10, vendor_serial="序列号"), "identity.vendor-serial.format"),
        (order(11, issuer="nobody"), "identity.issuer.unknown"),
        (order(12, issuer="media"), "identity.purpose.unissued"),
        (Order(camera(13), "camera", csr=csr(key())), None),
    ]
    answers = site.open().certify([one for one, _ in orders])
    found = [answer.code if isinstance(answer, SecguardError) else None for answer in answers]
    assert found == [code for _, code in orders]
    assert site.registry.active(camera(91), "camera").serial == held
    pending = [row for row in site.registry.certificates() if row.status in {"reserved", "signed"}]
    assert pending == []


def test_all_bad_is_an_answer_too_and_none_is_none(site):
    assert site.open().certify([]) == []
    (answer,) = site.open().certify([Order("1", "camera", public=key().public_key())])
    assert answer.code == "gbid.length"


def test_order_needs_exactly_one_key(site):
    for wrong in (Order(CAMERA, "camera"), Order(CAMERA, "camera", csr=b"x", public=key().public_key())):
        with pytest.raises(ValueError, match="csr or a public key"):
            site.open().certify([wrong])


def spki(private) -> bytes:
    return private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def test_key_in_der_is_certified_as_the_key_itself(site):
    private, longer = key(), ec.generate_private_key(ec.SECP384R1())
    orders = [
        Order(camera(1), "camera", spki=spki(private)),
        order(1, private),
        Order(camera(2), "camera", spki=spki(longer)),
        Order(camera(3), "camera", spki=spki(ed25519.Ed25519PrivateKey.generate())),
        Order(camera(4), "camera", spki=b"\x30\x00"),
        Order(camera(5), "camera", spki=spki(private)[:-1]),
    ]
    first, again, other, *refused = site.open().certify(orders)
    assert first.record.x509().public_key() == private.public_key()
    assert (again.certificate, again.new) == (first.certificate, False)
    assert other.record.x509().public_key() == longer.public_key()
    assert [one.code for one in refused] == ["identity.csr.key", "identity.key.format", "identity.key.format"]
    for wrong in (Order(CAMERA, "camera", csr=b"x", spki=b"x"), Order(CAMERA, "camera", public=1, spki=b"x")):
        with pytest.raises(ValueError, match="csr or a public key"):
            site.open().certify([wrong])


def test_bulk_work_is_as_durable_and_leaves_the_settings_as_they_were(site):
    database = site.registry._db

    def settings():
        names = ("synchronous", "wal_autocheckpoint", "cache_size")
        return [database.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    before = settings()
    with site.registry.bulk():
        assert settings() == [before[0], 16_000, -(64 << 10)]
        site.open().certify([order(1)])
    assert settings() == before


def test_ordering_again_gives_the_same(site):
    mine = order(1)
    (first,), (again,) = site.open().certify([mine]), site.open().certify([mine])
    assert (first.certificate, first.new, again.new) == (again.certificate, True, False)
    assert site.recorder.kinds.count("certificate.issued") == 2 + 1


def test_replace_supersedes_another_key_and_renewal_the_same(site):
    old = key()
    (first,) = site.open().certify([order(1, old)])
    (second,) = site.open().certify([order(1, replace=True)])
    assert isinstance(second, Certified)
    assert site.registry.by_serial(first.record.serial).status == "superseded"
    later = FixedClock(site.clock.at + timedelta(days=300))
    public = x509.load_der_x509_certificate(second.certificate).public_key()
    (third,) = site.open(clock=later).certify([Order(camera(1), "camera", public=public, renewal=True)])
    assert third.record.serial != second.record.serial
    assert third.record.spki == second.record.spki
    assert site.recorder.kinds[-1] == "certificate.renewed"
    (blocked,) = site.open().certify([order(1, renewal=True)])  # another key needs `replace`
    assert blocked.code == "identity.certificate.active"


def test_superseded_key_may_come_back_and_a_revoked_one_never(site):
    old = key()
    site.open().certify([order(1, old)])
    site.open().certify([order(1, replace=True)])
    (back,) = site.open().certify([order(1, old, replace=True)])
    assert isinstance(back, Certified)
    site.open().revoke(camera(1), "keyCompromise")
    for number in (1, 2):
        (answer,) = site.open().certify([order(number, old)])
        assert answer.code in {"identity.key.revoked", "identity.key.shared"}


def test_orders_that_meet_in_one_batch_are_taken_in_turn(site):
    mine, shared = key(), key()
    answers = site.open().certify(
        [
            order(1, mine),
            order(1, mine),
            order(1),
            order(1, replace=True),
            order(2, shared),
            order(3, shared),
        ]
    )
    found = [a.code if isinstance(a, SecguardError) else a.new for a in answers]
    assert found == [True, False, "identity.certificate.active", True, True, "identity.key.shared"]
    assert answers[0].certificate == answers[1].certificate
    assert site.registry.active(camera(1), "camera").serial == answers[3].record.serial


def test_serial_number_of_the_maker_stays(site):
    (first,) = site.open().certify([order(1, vendor_serial="SN 1", name="East gate")])
    assert isinstance(first, Certified)
    (other,) = site.open().certify([order(1, profile="media-signing", vendor_serial="SN 2")])
    assert other.code == "identity.device.serial"
    (fits,) = site.open().certify([order(1, profile="media-signing")])
    subject = x509.load_der_x509_certificate(fits.certificate).subject
    assert [item.value for item in subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)] == ["SN 1"]


@pytest.mark.parametrize("step", ["_reserve", "_build", "_sign", "_record"])
@pytest.mark.parametrize("after", [False, True])
def test_power_cut_in_a_batch_is_taken_up(site, monkeypatch, step, after):
    orders = [order(n) for n in range(5)]
    original = getattr(certifying, step)

    def cut(*args):
        if after:
            original(*args)
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(certifying, step, cut)
        with pytest.raises(PowerCut):
            site.open().certify(orders)
    left = {row.holder: row for row in site.registry.certificates() if row.device}
    late = site.open(clock=FixedClock(site.clock.at + timedelta(days=2)))
    answers = late.certify(orders)
    assert all(isinstance(answer, Certified) for answer in answers)
    rows = [row for row in site.registry.certificates() if row.device]
    assert [row.status for row in rows] == ["active"] * 5
    for row in rows:
        if row.holder in left:
            assert (left[row.holder].serial, left[row.holder].event) == (row.serial, row.event)
            assert left[row.holder].certificate in {None, row.certificate}
    assert site.recorder.kinds.count("certificate.issued") == 2 + 5
    assert site.recorder.kinds.count("device.registered") == 5


def test_ledger_that_refuses_keeps_the_batch_back(site):
    orders = [order(n) for n in range(3)]
    site.recorder.broken = True
    with pytest.raises(RefusedError):
        site.open().certify(orders)
    assert site.registry.active(camera(0), "camera") is None
    site.recorder.broken = False
    assert all(isinstance(answer, Certified) and answer.new for answer in site.open().certify(orders))


def test_row_left_long_ago_is_not_taken_up(site, monkeypatch):
    mine = order(1)

    def cut(*args):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(certifying, "_sign", cut)
        with pytest.raises(PowerCut):
            site.open().certify([mine])
    much_later = FixedClock(site.clock.at + timedelta(days=900))
    (answer,) = site.open(clock=much_later).certify([mine])
    assert not answer.record.expired(much_later.at)
    assert sorted(row.status for row in site.registry.certificates(camera(1))) == ["active", "void"]


def test_certificate_that_no_verifier_would_believe_is_void_and_alone(site):
    site.config = type(site.config)(domain="elsewhere.example")  # outside the CA's name constraints
    answers = site.open().certify([order(1), order(1, profile="media-signing")])
    assert answers[0].code == "identity.certificate.rejected"
    assert isinstance(answers[1], Certified)  # names no host
    assert sorted(row.status for row in site.registry.certificates(camera(1))) == ["active", "void"]


def test_threads_at_once(site):
    authority = site.open()
    orders = [[order(10 * t + n) for n in range(5)] for t in range(8)]
    answers: list[list[object]] = [[] for _ in orders]

    def run(index):
        answers[index] = authority.certify(orders[index])

    threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(isinstance(answer, Certified) for some in answers for answer in some)
    assert sum(1 for row in site.registry.certificates() if row.device) == 40
