"""An offline root and a site: request, sign, install; regions, successors, the end; and everything that goes wrong."""

import dataclasses
import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import FixedClock, RefusedError, SecguardError, UsageError
from secguard.events import Actor
from secguard.gbid import GbId, Scope
from secguard.identity import IdentityConfig, Registry, Request
from secguard.identity.ca import certify
from secguard.identity.ca import install as installing
from secguard.identity.ca.asking import CaRequest, build_request, read_request
from secguard.identity.ca.change import add_ca, retire_ca, rollover_ca
from secguard.identity.ca.install import install
from secguard.identity.ca.overview import chain_in_force, view_cas
from secguard.identity.ca.request import Wanted, request_cas
from secguard.identity.ca.setting import Setting
from secguard.identity.ca.sign import read_requests, sign_requests
from secguard.identity.certificate import Validity, build_ca, build_leaf
from secguard.keys import Algorithm, generate
from secguard.trust import Purpose, TrustPolicy, chain_pem, read_certificates, read_crls, scope_of, stated_purposes

CAMERA = "32011600001320000001"
OTHER = "32010500001320000001"  # another district
KINDS = ("devices", "logs", "media", "operators", "platforms")
PASSPHRASE = b"correct horse"


class PowerCut(BaseException):
    """The process ends here."""


def setting_of(site, *, passphrase=PASSPHRASE, scope="320116", config=None) -> Setting:
    return Setting(
        folder=site.state,
        certs=site.certs,
        registry=site.registry,
        config=config or site.config,
        scope=Scope((scope,)),
        origin="video.example/320116/0a1b2c3d",
        operator="li.wei",
        clock=site.clock,
        recorder=site.recorder,
        actor=Actor(name="admin"),
        passphrase=passphrase,
    )


@pytest.fixture
def root(empty_site, tmp_path):
    """An offline root for the province, on a machine of its own."""
    home = tmp_path / "root"
    shutil.copytree(empty_site.certs, home / "certs")
    made = type(empty_site)(
        home, Registry.open(home / "state" / "identity" / "registry.db"), type(empty_site.recorder)()
    )
    made.create(root_only=True, scope=Scope(("32",)))
    yield made
    made.registry.close()


def ask(site, folder, *wanted: Wanted):
    return request_cas(setting_of(site), wanted or [Wanted(kind, Scope(("320116",))) for kind in KINDS], folder)


def sign(root, place, folder, narrow=None):
    setting = setting_of(root)
    return sign_requests(setting, read_requests(setting, place, narrow), folder)


@pytest.fixture
def below(root, empty_site, tmp_path):
    """A site under the offline root."""
    ask(empty_site, tmp_path / "req")
    sign(root, tmp_path / "req", tmp_path / "ans")
    install(setting_of(empty_site), tmp_path / "ans")
    return empty_site


def code_of(call, *words, **values) -> str:
    with pytest.raises(SecguardError) as caught:
        call(*words, **values)
    assert caught.value.hint or caught.value.where or caught.value.message
    return caught.value.code


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_root_only_workspace_has_a_root_its_list_and_nothing_else(root):
    assert set(root.registry.authorities()) == {"root"}
    assert (root.state / "crl" / "root.crl").exists()
    assert (root.certs / "root.pem").exists()
    assert root.recorder.kinds == ["ca.created", "crl.published"]
    assert not list(root.registry.certificates())
    assert code_of(root.open().issue, [Request(CAMERA, "camera")]) == "identity.purpose.unissued"


def test_the_ceremony_gives_a_whole_site(root, below, tmp_path):
    cas = below.registry.authorities()
    assert set(cas) == {"root", *KINDS}
    assert not cas["root"].key
    assert {record.status for record in cas.values()} == {"current"}
    for kind in KINDS:
        certificate = cas[kind].x509()
        assert scope_of(certificate) == Scope(("320116",))
        assert Purpose.OCSP in stated_purposes(certificate)
    authority = below.open()
    issued = authority.issue([Request(CAMERA, "camera")])
    judged = below.policy(authority).judge_chain(
        [issued[0].certificate, authority.certificates["devices"]], Purpose.DEVICE, below.clock.now(), gbid=GbId(CAMERA)
    )
    assert judged.believed
    assert judged.unrevoked
    assert authority.log_signer()[0]
    assert authority.operator_signer()[0]
    kinds = below.recorder.kinds
    assert kinds.index("ca.requested") < kinds.index("ca.installed") < kinds.index("certificate.issued")
    assert kinds.count("ca.installed") == len(KINDS)
    assert {row.profile for row in root.registry.certificates()} == {"ca"}
    assert root.recorder.kinds.count("ca.certified") == len(KINDS)


def test_every_step_can_be_done_again(root, empty_site, tmp_path):
    for _ in range(2):
        ask(empty_site, tmp_path / "req")
        first = files(tmp_path / "req")
    ask(empty_site, tmp_path / "again")
    assert files(tmp_path / "again") == first
    sign(root, tmp_path / "req", tmp_path / "ans")
    sign(root, tmp_path / "req", tmp_path / "ans2")
    one, two = files(tmp_path / "ans"), files(tmp_path / "ans2")
    assert one.pop("root.crl") != two.pop("root.crl")  # a fresh list each time
    assert one == two
    install(setting_of(empty_site), tmp_path / "ans2")
    before = list(empty_site.registry.certificates())
    done = install(setting_of(empty_site), tmp_path / "ans")  # the older list stays out
    assert done.crl_older
    assert sorted(done.known) == sorted(KINDS)
    assert list(empty_site.registry.certificates()) == before
    assert empty_site.recorder.kinds.count("ca.requested") == len(KINDS)
    assert code_of(ask, empty_site, tmp_path / "req") == "identity.ca.exists"


@pytest.mark.parametrize("step", ["atomic_write", "make_key", "build_request"])
def test_a_power_cut_while_asking_is_completed(empty_site, tmp_path, monkeypatch, step):
    from secguard.identity.ca import request

    real, calls = getattr(request, step), []

    def cut(*words, **values):
        calls.append(1)
        if len(calls) == 4:
            raise PowerCut
        return real(*words, **values)

    with monkeypatch.context() as patch:
        patch.setattr(request, step, cut)
        with pytest.raises(PowerCut):
            ask(empty_site, tmp_path / "req")
    ask(empty_site, tmp_path / "req")
    keys = {read_request(data)[1].public_numbers() for data in files(tmp_path / "req").values()}
    assert len(keys) == len(KINDS)
    assert len(list((empty_site.state / "keys").glob("*.key.pem"))) == len(KINDS)


@pytest.mark.parametrize("step", ["build_ca", "check_scope"])
def test_a_power_cut_while_signing_is_completed(root, empty_site, tmp_path, monkeypatch, step):
    ask(empty_site, tmp_path / "req")
    real, calls = getattr(certify, step), []

    def cut(*words, **values):
        calls.append(1)
        if len(calls) == 3:
            raise PowerCut
        return real(*words, **values)

    with monkeypatch.context() as patch:
        patch.setattr(certify, step, cut)
        with pytest.raises(PowerCut):
            sign(root, tmp_path / "req", tmp_path / "ans")
    sign(root, tmp_path / "req", tmp_path / "ans")
    rows = list(root.registry.certificates())
    assert [row.status for row in rows] == ["active"] * len(KINDS)
    assert root.recorder.kinds.count("ca.certified") == len(KINDS)


def test_a_ledger_that_refuses_keeps_everything_back(root, empty_site, tmp_path):
    empty_site.recorder.broken = True
    assert code_of(ask, empty_site, tmp_path / "req") == "ledger.test"
    assert not (tmp_path / "req").exists()
    empty_site.recorder.broken = False
    ask(empty_site, tmp_path / "req")
    root.recorder.broken = True
    assert code_of(sign, root, tmp_path / "req", tmp_path / "ans") == "ledger.test"
    assert not list((tmp_path / "ans").iterdir())
    root.recorder.broken = False
    sign(root, tmp_path / "req", tmp_path / "ans")
    empty_site.recorder.broken = True
    assert code_of(install, setting_of(empty_site), tmp_path / "ans") == "ledger.test"
    assert "root" not in empty_site.registry.authorities()
    assert not (empty_site.certs / "root.pem").exists()


@pytest.mark.parametrize("step", ["keep_root_crl", "first_certificates", "known_number"])
def test_a_power_cut_while_installing_is_completed(root, empty_site, tmp_path, monkeypatch, step):
    ask(empty_site, tmp_path / "req")
    sign(root, tmp_path / "req", tmp_path / "ans")

    def cut(*words, **values):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(installing, step, cut)
        with pytest.raises(PowerCut):
            install(setting_of(empty_site), tmp_path / "ans")
    assert not (empty_site.certs / "root.pem").exists()
    install(setting_of(empty_site), tmp_path / "ans")
    assert empty_site.recorder.kinds.count("ca.installed") == len(KINDS)
    assert empty_site.open().log_signer()
    assert (empty_site.certs / "root.pem").exists()


def test_the_root_grants_no_more_than_its_scope_and_may_narrow(root, empty_site, tmp_path):
    ask(empty_site, tmp_path / "far", Wanted("devices", Scope(("44",))))
    assert code_of(sign, root, tmp_path / "far", tmp_path / "ans") == "identity.scope.exceeded"
    ask(empty_site, tmp_path / "any", Wanted("media", Scope()))
    assert code_of(sign, root, tmp_path / "any", tmp_path / "ans") == "identity.scope.exceeded"
    sign(root, tmp_path / "any", tmp_path / "ans", Scope(("3201",)))
    assert code_of(sign, root, tmp_path / "any", tmp_path / "x", Scope(("32",))) == "identity.ca.certified"
    done = install(setting_of(empty_site), tmp_path / "ans")
    assert done.narrowed == ["media"]
    assert done.pending == ["devices"]
    assert scope_of(empty_site.registry.authorities()["media"].x509()) == Scope(("3201",))


def test_the_root_keeps_to_its_profiles(root, empty_site, tmp_path):
    signer = generate(Algorithm.P384)
    tmp_path.joinpath("req").mkdir()
    wanted = CaRequest("devices", "devices", Scope(("320116",)), "x", "CN", "video.example")
    (tmp_path / "req" / "devices.csr").write_bytes(build_request(wanted, signer))
    assert code_of(sign, root, tmp_path / "req", tmp_path / "ans") == "identity.csr.key"
    strange = dataclasses.replace(wanted, name="secrets", kind="secrets")
    (tmp_path / "req" / "devices.csr").write_bytes(build_request(strange, generate(Algorithm.P256)))
    assert code_of(sign, root, tmp_path / "req", tmp_path / "ans") == "identity.ca.kind"
    for name in ("root", "root-2"):
        top = dataclasses.replace(wanted, name=name, kind="root")
        (tmp_path / "req" / "devices.csr").write_bytes(build_request(top, generate(Algorithm.P256)))
        assert code_of(sign, root, tmp_path / "req", tmp_path / "ans") == "identity.ca.kind"
    assert not list(root.registry.certificates())


def test_a_wrong_folder_or_request_is_said(root, empty_site, tmp_path):
    (tmp_path / "empty").mkdir()
    assert code_of(sign, root, tmp_path / "empty", tmp_path / "ans") == "identity.ca.requests"
    assert code_of(install, setting_of(empty_site), tmp_path / "empty") == "identity.ca.nothing"
    (tmp_path / "empty" / "a.csr").write_text("nonsense")
    assert code_of(sign, root, tmp_path / "empty", tmp_path / "ans") == "identity.ca.request"
    ask(empty_site, tmp_path / "req")
    shutil.copy(tmp_path / "req" / "media.csr", tmp_path / "req" / "media2.csr")
    assert code_of(sign, root, tmp_path / "req", tmp_path / "ans") == "identity.ca.requests"
    # the site has no root yet, and no key of one
    assert code_of(sign, empty_site, tmp_path / "req", tmp_path / "ans") == "identity.ca.none"
    assert code_of(empty_site.create) == "identity.ca.pending"


def test_what_another_machine_leaves_on_the_stick_is_passed_over(root, empty_site, tmp_path):
    ask(empty_site, tmp_path / "req")
    for name in ("._devices.csr", ".DS_Store"):
        (tmp_path / "req" / name).write_bytes(b"\0\5\x16\7Mac OS X")
    sign(root, tmp_path / "req", tmp_path / "ans")
    for name in ("._root.crl", "._root.pem", "._devices.pem"):
        (tmp_path / "ans" / name).write_bytes(b"\0\5\x16\7Mac OS X")
    install(setting_of(empty_site), tmp_path / "ans")
    assert {record.status for record in empty_site.registry.authorities().values()} == {"current"}


@given(st.binary(max_size=600))
def test_any_bytes_are_a_request_or_an_error(data):
    with pytest.raises(SecguardError):
        read_request(data)


def test_mutated_requests_are_never_a_traceback():
    signer = generate(Algorithm.P256)
    wanted = CaRequest("devices", "devices", Scope(("320116",)), "x", "CN", "a.b", "http://c/crl", "http://c/ca")
    pem = build_request(wanted, signer)
    assert read_request(pem)[0] == wanted
    der = x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER)
    for position in range(len(der)):
        for bit in (1, 0x80):
            changed = bytearray(der)
            changed[position] ^= bit
            try:
                ask_, _ = read_request(bytes(changed))
            except SecguardError:
                continue
            assert ask_ == wanted  # DER that says the same in another way


def test_a_certificate_that_was_not_asked_for_is_refused(root, empty_site, tmp_path):
    ask(empty_site, tmp_path / "req", Wanted("devices", Scope(("320116",))))
    sign(root, tmp_path / "req", tmp_path / "ans")
    site_key = generate(Algorithm.P256)
    wanted = CaRequest("devices", "devices", Scope(("320116",)), "other", "CN", "video.example")
    (tmp_path / "req2").mkdir()
    (tmp_path / "req2" / "devices.csr").write_bytes(build_request(wanted, site_key))
    sign(root, tmp_path / "req2", tmp_path / "ans2")
    assert code_of(install, setting_of(empty_site), tmp_path / "ans2") == "identity.ca.unasked"
    assert "root" not in empty_site.registry.authorities()
    install(setting_of(empty_site), tmp_path / "ans")
    assert code_of(install, setting_of(empty_site), tmp_path / "ans2") == "identity.ca.unasked"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "platforms"}, "it is for"),
        ({"scope": Scope(("32",))}, "its scope"),
        ({"days": -1}, "compare the clocks"),
    ],
)
def test_a_certificate_that_is_not_as_asked_for_is_refused(root, empty_site, tmp_path, change, reason):
    asked = ask(empty_site, tmp_path / "req", Wanted("devices", Scope(("320116",))))[0]
    sign(root, tmp_path / "req", tmp_path / "ans")
    key = read_request(asked.file.read_bytes())[1]
    site = root.open()
    start = root.clock.now() + timedelta(days=5 if "days" in change else 0)
    wrong = build_ca(
        site.ca_profiles[change.get("kind", "devices")],
        "wrong CA",
        site.config,
        key,
        serial=77,
        validity=Validity.starting(start, 10),
        scope=change.get("scope", Scope(("320116",))),
        issuer=site.root,
        signer=site.signer("root"),
    )
    (tmp_path / "ans" / "devices.pem").write_bytes(chain_pem([wrong]))
    with pytest.raises(RefusedError, match=reason) as caught:
        install(setting_of(empty_site), tmp_path / "ans")
    assert caught.value.code == "identity.ca.wrong"
    assert empty_site.registry.authorities()["devices"].status == "pending"


def test_a_certificate_of_another_root_is_refused(root, below, tmp_path):
    home = tmp_path / "impostor"
    shutil.copytree(below.certs, home / "certs", ignore=shutil.ignore_patterns("*.pem"))
    with Registry.open(home / "state" / "identity" / "registry.db") as registry:
        other = type(below)(home, registry, type(below.recorder)())
        other.create(root_only=True, scope=Scope(("32",)))
        ask(below, tmp_path / "req2", Wanted("devices-b", Scope(("320116",))))
        sign(other, tmp_path / "req2", tmp_path / "ans2")
        assert code_of(install, setting_of(below), tmp_path / "ans2") == "identity.root.foreign"
        (tmp_path / "ans2" / "root.pem").unlink()
        assert code_of(install, setting_of(below), tmp_path / "ans2") == "identity.crl.foreign"
        (tmp_path / "ans2" / "root.crl").unlink()
        assert code_of(install, setting_of(below), tmp_path / "ans2") == "identity.ca.wrong"
        assert code_of(install, setting_of(below), other.state / "crl" / "root.crl") == "identity.crl.foreign"


def test_the_roots_fingerprint_can_be_demanded(root, empty_site, tmp_path):
    ask(empty_site, tmp_path / "req")
    sign(root, tmp_path / "req", tmp_path / "ans")
    assert code_of(install, setting_of(empty_site), tmp_path / "ans", root_sha256="00" * 32) == "identity.root.foreign"
    print_ = root.open().root.fingerprint(hashes.SHA256()).hex()
    install(setting_of(empty_site), tmp_path / "ans", root_sha256=print_.upper())


def test_a_wrong_passphrase_changes_nothing(root, empty_site, tmp_path):
    ask(empty_site, tmp_path / "req")
    wrong = setting_of(empty_site, passphrase=b"another")
    assert code_of(request_cas, wrong, [Wanted("devices-2", Scope(("320116",)))], tmp_path / "r") == (
        "keys.passphrase.wrong"
    )
    sign(root, tmp_path / "req", tmp_path / "ans")
    assert code_of(install, wrong, tmp_path / "ans") == "keys.passphrase.wrong"
    assert "root" not in empty_site.registry.authorities()
    rooted = setting_of(root, passphrase=b"another")
    assert code_of(sign_requests, rooted, read_requests(rooted, tmp_path / "req"), tmp_path / "x") == (
        "keys.passphrase.wrong"
    )


def test_the_roots_list_is_brought_and_never_an_older_one(root, below, tmp_path):
    older = (root.state / "crl" / "root.crl").read_bytes()
    (tmp_path / "older.crl").write_bytes(older)
    rows = {row.holder: row for row in root.registry.certificates()}
    media = next(row for holder, row in rows.items() if " media CA " in holder)
    root.open().revoke(media.serial, "keyCompromise")
    done = install(setting_of(below), root.state / "crl" / "root.crl")
    assert done.revoked == ["media"]
    assert below.registry.authorities()["media"].status == "retired"
    assert code_of(install, setting_of(below), tmp_path / "older.crl") == "identity.crl.older"
    (below.state / "crl" / "root.crl").unlink()  # its number is known all the same
    assert code_of(install, setting_of(below), tmp_path / "older.crl") == "identity.crl.older"
    install(setting_of(below), root.state / "crl")
    assert code_of(below.open().issue, [Request(CAMERA, "camera")]) == "identity.purpose.unissued"
    late = dataclasses.replace(setting_of(below), clock=FixedClock(below.clock.now() + timedelta(days=800)))
    assert code_of(install, late, root.state / "crl" / "root.crl") == "identity.crl.stale"
    early = dataclasses.replace(setting_of(below), clock=FixedClock(below.clock.now() - timedelta(days=1)))
    assert code_of(install, early, root.state / "crl" / "root.crl") == "identity.crl.future"


def test_an_already_revoked_certificate_does_not_come_into_force(root, empty_site, tmp_path):
    ask(empty_site, tmp_path / "req")
    rows = sign(root, tmp_path / "req", tmp_path / "ans")
    root.open().revoke(rows[0].serial, "keyCompromise")
    shutil.copy(root.state / "crl" / "root.crl", tmp_path / "ans" / "root.crl")
    assert code_of(install, setting_of(empty_site), tmp_path / "ans") == "identity.ca.wrong"
    assert code_of(sign, root, tmp_path / "req", tmp_path / "ans3") == "identity.key.revoked"


def test_a_region_is_served_by_its_own_ca_and_no_other(site):
    setting = setting_of(site)
    done = add_ca(setting, "devices", Scope(("32011601",), ("132",), ("0",)), name="devices-east")
    assert done.new
    assert not add_ca(setting, "devices", Scope(("32011601",), ("132",), ("0",)), name="devices-east").new
    assert code_of(add_ca, setting, "devices", Scope(("320116",)), name="devices-east") == "identity.ca.exists"
    assert code_of(add_ca, setting, "devices", Scope(("44",))) == "identity.scope.exceeded"
    assert code_of(add_ca, setting, "gates", Scope(("320116",))) == "identity.ca.kind"
    assert code_of(add_ca, setting, "root", Scope(("320116",))) == "identity.ca.kind"
    assert code_of(add_ca, setting, "devices", Scope(("320116",)), name="media-2") == "identity.ca.name"
    assert code_of(add_ca, setting, "devices", Scope(("320116",)), name="devices/../x") == "identity.ca.name"
    authority = site.open()
    east = "32011601001320000001"
    assert authority.issue([Request(east, "camera")])[0].record.issuer == "devices-east"
    assert authority.issue([Request(CAMERA, "camera")])[0].record.issuer == "devices"
    assert code_of(authority.issue, [Request(OTHER, "camera")]) == "identity.scope.exceeded"


def test_a_certificate_forged_outside_the_scope_with_the_cas_own_key_fails_at_verify(site):
    setting = setting_of(site)
    add_ca(setting, "devices", Scope(("32011601",)), name="devices-east")
    authority = site.open()
    leaf = generate(Algorithm.P256)

    def forge(gbid: str, *, dns: bool = True):
        profile = authority.profiles["camera"]
        return build_leaf(
            profile
            if dns
            else type(profile)(**{**{f: getattr(profile, f) for f in profile.__struct_fields__}, "dns": False}),
            gbid,
            authority.config,
            leaf.public_key(),
            serial=99,
            validity=Validity.starting(site.clock.now(), 10),
            issuer=authority.certificates["devices-east"],
            issuer_name="devices-east",
            signer=authority.signer("devices-east"),
        )

    def codes(certificate) -> set[str]:
        chain = [certificate, authority.certificates["devices-east"]]
        judged = site.policy(authority).judge_chain(chain, Purpose.DEVICE, site.clock.now())
        return {item.code for item in judged.findings} if not judged.believed else set()

    assert not codes(forge("32011601001320000001"))
    assert "trust.scope.device" in codes(forge(CAMERA, dns=False))
    assert "trust.scope.device" in codes(forge(OTHER, dns=False))


def test_rollover_keeps_both_chains_and_retire_waits(site):
    setting, authority = setting_of(site), site.open()
    issued = authority.issue([Request(CAMERA, "camera")])
    with pytest.raises(RefusedError) as caught:
        retire_ca(setting, "devices")
    assert caught.value.code == "identity.ca.in-use"
    done = rollover_ca(setting, "devices")
    assert (done.name, done.old) == ("devices-g2", "devices")
    assert code_of(rollover_ca, setting, "devices") == "identity.ca.status"
    assert code_of(rollover_ca, setting, "root") == "identity.root.rollover"
    assert code_of(rollover_ca, setting, "gates") == "identity.ca.unknown"
    # an authority that was opened before sees it, as a service does that runs for months
    second = authority.issue([Request("32011600001320000002", "camera")])
    assert second[0].record.issuer == "devices-g2"
    policy = site.policy(site.open())
    for item in (issued[0], second[0]):
        chain = read_certificates(item.files[-1])
        judged = policy.judge_chain(chain, Purpose.DEVICE, site.clock.now())
        assert judged.believed
        assert judged.unrevoked
    assert chain_in_force(setting).count(b"BEGIN CERTIFICATE") == 1 + len(KINDS) + 1
    assert code_of(retire_ca, setting, "devices") == "identity.ca.in-use"
    site.open().renew(CAMERA, "camera")
    assert retire_ca(setting, "devices").status == "retired"
    assert retire_ca(setting, "devices").status == "retired"
    assert site.recorder.kinds.count("ca.retired") == 1
    assert code_of(retire_ca, setting, "root") == "identity.root.retire"
    assert rollover_ca(setting, "devices-g2").name == "devices-g3"
    # it still answers for what it issued
    site.open().revoke(issued[0].record.serial, "superseded")
    (crl,) = read_crls([site.state / "crl" / "devices.crl"])
    assert crl.get_revoked_certificate_by_serial_number(int(issued[0].record.serial, 16)) is not None


@pytest.mark.parametrize("step", ["certify_ca", "make_key", "_publish"])
def test_a_power_cut_during_a_rollover_makes_no_second_successor(site, monkeypatch, step):
    from secguard.identity.ca import change

    real = getattr(change, step)

    def cut(*words, **values):
        if step == "make_key":
            real(*words, **values)
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(change, step, cut)
        with pytest.raises(PowerCut):
            rollover_ca(setting_of(site), "devices")
    if step == "_publish":
        assert code_of(rollover_ca, setting_of(site), "devices") == "identity.ca.status"
    else:
        rollover_ca(setting_of(site), "devices")
    site.open().publish_crls()
    names = set(site.registry.authorities())
    assert names == {"root", *KINDS, "devices-g2"}
    assert {path.stem for path in (site.state / "crl").glob("*.crl")} == names


def test_rollover_with_an_offline_root(root, below, tmp_path):
    setting = setting_of(below)
    assert code_of(rollover_ca, setting, "devices") == "identity.key.offline"
    assert code_of(add_ca, setting, "devices", Scope(("320116",)), name="devices-b") == "identity.key.offline"
    first = rollover_ca(setting, "devices", folder=tmp_path / "r1")
    again = rollover_ca(setting, "devices", folder=tmp_path / "r2")
    assert first.requested.key_sha256 == again.requested.key_sha256
    assert below.open().issuer(Purpose.DEVICE, GbId(CAMERA)) == "devices"  # until the answer is here
    sign(root, tmp_path / "r1", tmp_path / "a1")
    done = install(setting, tmp_path / "a1")
    assert (done.names, done.retiring) == (["devices-g2"], ["devices"])
    assert below.open().issuer(Purpose.DEVICE, GbId(CAMERA)) == "devices-g2"


def test_a_request_can_be_dropped(empty_site, tmp_path):
    ask(empty_site, tmp_path / "req")
    wider = Wanted("devices", Scope(("3201",)))
    assert code_of(ask, empty_site, tmp_path / "req", wider) == "identity.ca.pending"
    retire_ca(setting_of(empty_site), "devices")
    assert "devices" not in empty_site.registry.authorities()
    ask(empty_site, tmp_path / "req", wider)
    for kind in KINDS:
        retire_ca(setting_of(empty_site), kind)
    assert not list((empty_site.state / "keys").iterdir())
    empty_site.create()


def test_ca_show_tells_pending_and_current_ones(root, empty_site, tmp_path):
    ask(empty_site, tmp_path / "req")
    views = {view.name: view for view in view_cas(setting_of(empty_site))}
    assert {view.status for view in views.values()} == {"pending"}
    assert views["devices"].scope == Scope(("320116",))
    assert views["devices"].key_sha256
    sign(root, tmp_path / "req", tmp_path / "ans")
    install(setting_of(empty_site), tmp_path / "ans")
    empty_site.open().issue([Request(CAMERA, "camera")])
    views = {view.name: view for view in view_cas(setting_of(empty_site))}
    assert (views["root"].key, views["devices"].key) == ("elsewhere", "file")
    assert views["devices"].in_force == 1
    assert views["devices"].crl == "fresh"
    late = dataclasses.replace(setting_of(empty_site), clock=FixedClock(empty_site.clock.now() + timedelta(days=30)))
    assert {view.crl for view in view_cas(late) if view.name == "devices"} == {"stale"}
    (empty_site.state / "crl" / "devices.crl").unlink()
    assert {view.crl for view in view_cas(late) if view.name == "devices"} == {"missing"}
    never = dataclasses.replace(setting_of(empty_site), clock=FixedClock(empty_site.clock.now() + timedelta(days=9000)))
    assert {view.status for view in view_cas(never)} == {"expired"}


def test_names_of_many_cas_fit_into_certificates(empty_site, tmp_path):
    empty_site.config = IdentityConfig(organization="南京市江宁区公安局视频网" * 3)
    empty_site.create(name="x" * 40)
    add_ca(setting_of(empty_site), "devices", Scope(("320116",)), name="devices-" + "a" * 32)
    certificate = empty_site.open().certificates["devices-" + "a" * 32]
    (cn,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert len(str(cn.value)) <= 64


def test_openssl_believes_every_chain_with_all_lists(root, below, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl: apt-get install openssl")
    authority = below.open()
    first = authority.issue([Request(CAMERA, "camera")])
    rollover_ca(setting_of(below), "devices", folder=tmp_path / "r")
    sign(root, tmp_path / "r", tmp_path / "a")
    install(setting_of(below), tmp_path / "a")
    second = authority.issue([Request("32011600001320000002", "camera")])
    lists = read_crls([below.state / "crl"])
    (tmp_path / "crls.pem").write_bytes(b"".join(crl.public_bytes(serialization.Encoding.PEM) for crl in lists))
    (tmp_path / "chain.pem").write_bytes(chain_in_force(setting_of(below)))
    at = str(int((below.clock.now() + timedelta(hours=1)).timestamp()))
    for item in (*first, *second):
        done = subprocess.run(
            [
                *(openssl, "verify", "-x509_strict", "-crl_check_all", "-attime", at),
                *("-CAfile", below.certs / "root.pem", "-CRLfile", tmp_path / "crls.pem"),
                *("-untrusted", tmp_path / "chain.pem", item.files[-2]),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_keys_that_others_may_read_are_refused(site):
    (site.state / "keys" / "root.key.pem").chmod(0o644)
    with pytest.raises(RefusedError, match="others may read") as caught:
        rollover_ca(setting_of(site), "devices")
    assert "chmod 600" in caught.value.hint


def test_a_stranger_who_signs_with_the_sites_names_is_not_the_root(below):
    """A CA certificate that our own issuing CA signed is none: path length 0."""
    authority = below.open()
    key = ec.generate_private_key(ec.SECP256R1())
    sub = build_ca(
        authority.ca_profiles["devices"],
        "sub CA",
        authority.config,
        key.public_key(),
        serial=5,
        validity=Validity.starting(below.clock.now(), 10),
        scope=Scope(("320116",)),
        issuer=authority.certificates["devices"],
        signer=authority.signer("devices"),
    )
    judged = TrustPolicy([authority.root]).judge_chain(
        [sub, authority.certificates["devices"]], Purpose.DEVICE, below.clock.now()
    )
    assert not judged.believed


def test_usage_errors_of_names(empty_site, tmp_path):
    for name in ("gates", "devices_x", "Devices", "root", "devices-" + "x" * 60):
        with pytest.raises(UsageError):
            ask(empty_site, tmp_path / "req", Wanted(name, Scope(("320116",))))
    assert not (empty_site.state / "keys").exists()


def test_a_successors_key_is_never_replaced_by_a_second_process(site, monkeypatch):
    """Two rollovers at once: the second finds out under the lock, and touches no key."""
    from secguard.identity.ca import change

    real = change.exclusive
    rivals = []

    def late(path):
        if not rivals:
            rivals.append(1)
            rollover_ca(setting_of(site), "devices")
        return real(path)

    monkeypatch.setattr(change, "exclusive", late)
    assert code_of(rollover_ca, setting_of(site), "devices") == "identity.ca.status"
    authority = site.open()
    assert authority.signer("devices-g2").public_key() == authority.certificates["devices-g2"].public_key()


def test_a_refused_region_leaves_no_key(site):
    before = set((site.state / "keys").iterdir())
    assert code_of(add_ca, setting_of(site), "devices", Scope(("44",))) == "identity.scope.exceeded"
    assert set((site.state / "keys").iterdir()) == before


def test_a_revoked_ca_shows_as_revoked(site):
    site.open().revoke("media", "keyCompromise")
    assert {view.name: view.status for view in view_cas(setting_of(site))}["media"] == "revoked"
