"""Making CAs, crashes at every step, renewing, revoking, publishing."""

import shutil
from datetime import timedelta

import pytest
from cryptography import x509

from secguard.core import FixedClock, RefusedError, SecguardError, UsageError
from secguard.gbid import GbId, Scope
from secguard.identity import REASONS, Authority, Registry, Request
from secguard.identity.issuing import certify as certifying
from secguard.identity.issuing import issue as issuing
from secguard.trust import Purpose, TrustPolicy, read_crls, scope_of

CAMERA = "32011600001320000001"


def codes(found) -> list[str]:
    return [item.code for item in found.findings]


class PowerCut(BaseException):
    """What no `except SecguardError` sees."""


def test_hierarchy(site):
    authority = site.open(None)
    assert set(authority.certificates) == {"root", "devices", "platforms", "media", "logs", "operators"}
    assert (site.certs / "root.pem").read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
    for certificate in authority.certificates.values():
        assert scope_of(certificate) == Scope(("320116",))
    names = authority.certificates["devices"].extensions.get_extension_for_class(x509.NameConstraints)
    assert names.critical
    assert [item.value for item in names.value.permitted_subtrees] == ["cam.320116.video.example"]
    assert site.recorder.kinds[:3] == ["ca.created", "certificate.issued", "certificate.issued"]


def test_cas_are_made_once(site):
    before = site.files()
    with pytest.raises(RefusedError) as caught:
        site.create()
    assert caught.value.code == "identity.ca.exists"
    assert site.files() == before


def test_no_ca_yet(empty_site):
    with pytest.raises(UsageError) as caught:
        empty_site.open()
    assert caught.value.code == "identity.ca.none"


def test_ledger_that_refuses_leaves_no_ca(empty_site):
    empty_site.recorder.broken = True
    with pytest.raises(RefusedError):
        empty_site.create()
    assert not list(empty_site.root.rglob("*.key.pem"))
    assert not (empty_site.certs / "root.pem").exists()
    empty_site.recorder.broken = False
    empty_site.create()


@pytest.mark.parametrize("step", ["issue", "publish_crls"])
def test_power_cut_while_the_cas_are_made_is_completed(empty_site, monkeypatch, step):
    def cut(*args):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(Authority, step, cut)
        with pytest.raises(PowerCut):
            empty_site.create()
    assert not (empty_site.certs / "root.pem").exists()
    with pytest.raises(UsageError, match="does not open"):
        empty_site.create(passphrase=b"another")
    made = empty_site.create()
    assert empty_site.recorder.kinds.count("ca.created") == 1
    assert len([row for row in empty_site.registry.certificates() if row.profile != "ca"]) == 2
    assert empty_site.policy(made).log_keys([made.log_signer()[1]], empty_site.clock.now()).keys


def test_keys_that_never_came_into_force_are_moved_aside(empty_site, monkeypatch):
    def cut(*args):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "add_authority", cut)
        with pytest.raises(PowerCut):
            empty_site.create()
    assert (empty_site.state / "keys" / "root.key.pem").exists()
    empty_site.create()
    assert len(list(empty_site.state.glob("keys.unused.*"))) == 1


def test_root_without_a_registry_is_not_overwritten(empty_site):
    (empty_site.certs / "root.pem").write_text("somebody's root")
    with pytest.raises(RefusedError) as caught:
        empty_site.create()
    assert caught.value.code == "identity.root.exists"


@pytest.mark.parametrize("origin", ["o" * 65, "bad origin\n"])
def test_origin_that_does_not_fit_a_certificate(empty_site, origin):
    with pytest.raises(UsageError) as caught:
        empty_site.create(origin=origin)
    assert caught.value.code == "identity.name.format"
    assert not list(empty_site.root.rglob("*.key.pem"))


def test_empty_passphrase(empty_site):
    with pytest.raises(UsageError):
        empty_site.create(passphrase=b"")


@pytest.mark.parametrize("step", ["_reserve", "_sign", "_record", "_deliver"])
@pytest.mark.parametrize("after", [False, True])
def test_power_cut_during_issue_is_taken_up(site, monkeypatch, step, after):
    room = issuing if step == "_deliver" else certifying
    original = getattr(room, step)

    def cut(*args, **kwargs):
        if after:
            original(*args, **kwargs)
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(room, step, cut)
        with pytest.raises(PowerCut):
            site.open().issue([Request(CAMERA, "camera")])
    left = {row.profile: row for row in site.registry.certificates(CAMERA)}
    folder = site.state / "devices" / CAMERA
    if step != "_deliver":
        assert not list(folder.glob("*.chain.pem"))  # nothing is released before it is recorded
    issued = site.open().issue([Request(CAMERA, "camera")])
    for item in issued:
        row = left.get(item.record.profile)
        if row is not None:
            assert (row.serial, row.event) == (item.record.serial, item.record.event)
            assert row.certificate in {None, item.record.certificate}
    rows = list(site.registry.certificates(CAMERA))
    assert [row.status for row in rows] == ["active", "active"]
    assert site.recorder.kinds.count("certificate.issued") == 2 + 2  # log and operator, camera and media signing
    assert site.recorder.kinds.count("device.registered") == 1
    policy = site.policy(site.open())
    assert policy.judge_chain(site.open().chain(rows[0]), Purpose.DEVICE, site.clock.now()).findings == ()


def test_signing_again_gives_the_same_bytes(site, monkeypatch):
    made = []
    build = certifying._build

    def keep(*args):
        made.append(build(*args))
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(certifying, "_build", keep)
        with pytest.raises(PowerCut):
            site.open().issue([Request(CAMERA, "camera")])
    later = site.open(clock=FixedClock(site.clock.at + timedelta(days=3)))
    assert later.issue([Request(CAMERA, "camera")])[0].record.certificate == made[0]


def test_key_lost_between_reservation_and_signature(site, monkeypatch):
    def cut(*args):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(certifying, "_sign", cut)
        with pytest.raises(PowerCut):
            site.open().issue([Request(CAMERA, "camera")])
    shutil.rmtree(site.state / "devices")
    site.open().issue([Request(CAMERA, "camera")])
    assert sorted(row.status for row in site.registry.certificates(CAMERA)) == ["active", "active", "void", "void"]


def test_ledger_that_refuses_keeps_the_certificate_back(site):
    site.recorder.broken = True
    with pytest.raises(RefusedError):
        site.open().issue([Request(CAMERA, "camera")])
    assert not list((site.state / "devices").rglob("*.chain.pem"))
    assert site.registry.active(CAMERA, "camera") is None
    site.recorder.broken = False
    assert [item.new for item in site.open().issue([Request(CAMERA, "camera")])] == [True, True]


def test_certificate_that_no_verifier_would_believe_is_not_issued(site):
    path = site.certs / "nvr.yaml"
    path.write_text(path.read_text().replace("[client-auth, server-auth]", "[]"))
    site.open().issue([Request("32011600001180000001", "nvr")])  # still fine: the purpose's own usage is always there
    site.config = type(site.config)(domain="elsewhere.example")  # outside the CA's name constraints
    with pytest.raises(RefusedError) as caught:
        site.open().issue([Request(CAMERA, "camera")])
    assert caught.value.code == "identity.certificate.rejected"
    assert "name constraints" in caught.value.message
    assert not list((site.state / "devices" / CAMERA).glob("*.pem"))


def test_renewal_keeps_the_key_and_supersedes(site):
    first = site.open().issue([Request(CAMERA, "camera")])[0]
    later = site.open(clock=FixedClock(site.clock.at + timedelta(days=600)))
    second = later.renew(CAMERA, "camera")
    assert second.certificate.public_key() == first.certificate.public_key()
    assert second.certificate.serial_number != first.certificate.serial_number
    assert second.certificate.not_valid_after_utc > first.certificate.not_valid_after_utc
    assert site.registry.by_serial(first.record.serial).status == "superseded"
    assert site.registry.active(CAMERA, "camera").serial == second.record.serial
    assert site.recorder.kinds[-1] == "certificate.renewed"
    with pytest.raises(UsageError):
        later.renew(CAMERA, "nvr")


def test_revoked_device(site):
    authority = site.open()
    issued = authority.issue([Request(CAMERA, "camera")])
    chain = authority.chain(issued[0].record)
    late = FixedClock(site.clock.at + timedelta(hours=2))
    rows = site.open(clock=late).revoke(CAMERA, "keyCompromise", case="A2026-17")
    assert [(row.status, row.reason) for row in rows] == [("revoked", "keyCompromise")] * 2
    policy = site.policy(authority)
    assert codes(policy.judge_chain(chain, Purpose.DEVICE, late.at)) == ["trust.certificate.revoked"]
    assert codes(policy.judge_chain(chain, Purpose.DEVICE, late.at - timedelta(hours=1))) == [
        "trust.certificate.revoked-later"
    ]
    events = [event for event in site.recorder.events.values() if event.kind == "certificate.revoked"]
    assert [(event.subject, event.case) for event in events] == [(CAMERA, "A2026-17")] * 2
    with pytest.raises(UsageError):
        authority.device_signer(CAMERA)


def test_after_revocation_a_new_key_is_made(site):
    authority = site.open()
    first = authority.issue([Request(CAMERA, "camera")])
    authority.revoke(CAMERA, "keyCompromise", profile="camera")
    second = authority.issue([Request(CAMERA, "camera")])
    assert second[0].certificate.public_key() != first[0].certificate.public_key()
    assert second[1].certificate == first[1].certificate  # the signing key was not concerned
    found = site.policy(authority).judge_chain(
        authority.chain(second[0].record), Purpose.DEVICE, site.clock.now(), gbid=GbId(CAMERA)
    )
    assert found.findings == ()


def test_revoke_by_serial_and_again(site):
    authority = site.open()
    serial = authority.issue([Request(CAMERA, "camera")])[0].record.serial
    colons = ":".join(serial[i : i + 2] for i in range(0, 32, 2)).upper()
    for text in (colons, serial):
        assert [row.serial for row in authority.revoke(text, "superseded")] == [serial]
    assert site.recorder.kinds.count("certificate.revoked") == 1
    assert site.registry.active(CAMERA, "media-signing") is not None


@pytest.mark.parametrize(
    ("target", "reason", "code"),
    [
        (CAMERA, "boredom", "identity.reason.unknown"),
        ("32011600001320000009", "unspecified", "identity.certificate.none"),
        ("3201160000132", "unspecified", "gbid.length"),
        ("nobody", "unspecified", "identity.certificate.none"),
    ],
)
def test_nothing_to_revoke(site, target, reason, code):
    with pytest.raises(SecguardError) as caught:
        site.open().revoke(target, reason)
    assert caught.value.code == code


def test_revocation_the_ledger_refuses_is_completed_later(site):
    authority = site.open()
    issued = authority.issue([Request(CAMERA, "camera")])[0]
    site.recorder.broken = True
    with pytest.raises(RefusedError):
        authority.revoke(CAMERA, "keyCompromise")
    site.recorder.broken = False
    authority.revoke(CAMERA, "keyCompromise")
    found = site.policy(authority).judge_chain(authority.chain(issued.record), Purpose.DEVICE, site.clock.now())
    assert codes(found) == ["trust.certificate.revoked"]
    assert site.recorder.kinds.count("certificate.revoked") == 2


def test_reasons_are_those_of_the_command_line():
    from secguard.cli.identity.status import _REASONS
    from secguard.cli.identity.verify import _PURPOSES

    assert set(_REASONS) == set(REASONS)
    assert set(_PURPOSES) == {str(purpose) for purpose in Purpose}


def test_revocation_lists_number_upwards_and_keep_the_expired(site):
    authority = site.open()
    issued = authority.issue([Request(CAMERA, "camera")])[0]
    authority.revoke(CAMERA, "superseded", profile="camera")
    late = FixedClock(site.clock.at + timedelta(days=1000))
    site.open(clock=late).publish_crls()
    crls = read_crls([authority.crl_folder])
    numbers = [item.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for item in crls]
    assert numbers == [3, 2, 2, 2, 2, 2]  # at creation, at the revocation (of the devices' list), now
    # Judged three years later for a time when it was in use: the list still knows.
    found = TrustPolicy([authority.root], crls).judge_chain(
        authority.chain(issued.record), Purpose.DEVICE, site.clock.at + timedelta(days=1)
    )
    assert codes(found) == ["trust.certificate.revoked"]


def test_expiring(site):
    site.open().issue([Request(CAMERA, "camera")])
    soon = [row.profile for row in site.registry.expiring(site.clock.at + timedelta(days=400))]
    assert soon == ["operator"]
    assert len(list(site.registry.expiring(site.clock.at + timedelta(days=3000)))) == 4


def test_tampered_key_file(site):
    authority = site.open()
    authority.issue([Request(CAMERA, "camera")])
    folder = site.state / "devices" / CAMERA
    shutil.copy(folder / f"{CAMERA}.camera.key.pem", folder / f"{CAMERA}.media-signing.key.pem")
    with pytest.raises(SecguardError) as caught:
        authority.device_signer(CAMERA)
    assert caught.value.code == "identity.key.other"


def test_site_that_was_moved(site, tmp_path):
    site.open().issue([Request(CAMERA, "camera")])
    assert all(row.key.startswith("file:devices/") for row in site.registry.certificates(CAMERA))
    site.registry.close()
    site.root = site.root.rename(tmp_path / "moved")
    site.registry = Registry.open(site.state / "registry.db")
    signer, chain = site.open().device_signer(CAMERA)
    assert signer.public_key() == chain[0].public_key()
    site.open().publish_crls()
    assert [item.new for item in site.open().issue([Request(CAMERA, "camera")])] == [False, False]
