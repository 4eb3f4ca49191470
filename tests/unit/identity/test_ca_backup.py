"""Saving the CAs and bringing them back: nothing forged, nothing revoked comes back, and no number is used twice."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core import FixedClock, FormatError, RefusedError, SecguardError, SystemPartError
from secguard.events import Actor
from secguard.gbid import GbId, Scope
from secguard.identity import Registry, Request
from secguard.identity.ca import restore as restoring
from secguard.identity.ca.archive import BackupFile, Manifest, check_manifest, read_files, write_archive
from secguard.identity.ca.backup import backup
from secguard.identity.ca.change import rollover_ca
from secguard.identity.ca.restore import Place, restore
from secguard.identity.ca.setting import Setting
from secguard.trust import Purpose, read_crls

CAMERA = "32011600001320000001"
LATER = "32011600001320000002"
PASSPHRASE = b"correct horse"
ORIGIN = "video.example/320116/0a1b2c3d"


class PowerCut(BaseException):
    """The process ends here."""


def setting_of(site, passphrase=PASSPHRASE) -> Setting:
    return Setting(
        folder=site.state,
        certs=site.certs,
        registry=site.registry,
        config=site.config,
        scope=Scope(("320116",)),
        origin=ORIGIN,
        operator="li.wei",
        clock=site.clock,
        recorder=site.recorder,
        actor=Actor(name="admin"),
        passphrase=passphrase,
    )


def place_of(site, clock=None, origin=ORIGIN) -> Place:
    return Place(
        folder=site.state,
        certs=site.certs,
        config=site.root / "secguard.toml",
        clock=clock or FixedClock(site.clock.now() + timedelta(days=1)),
        recorder=site.recorder,
        actor=Actor(name="admin"),
        origin=origin,
        since=lambda start: list(site.recorder.events.values())[start:],
    )


def save(site, file: Path):
    config = site.root / "secguard.toml"
    config.write_text("# the site\n")
    return backup(setting_of(site), file, config=config, ledger_size=len(site.recorder.events))


def lose(site) -> None:
    site.registry.close()
    shutil.rmtree(site.state)


def number_of(site, name: str = "devices") -> int:
    (crl,) = read_crls([site.state / "crl" / f"{name}.crl"])
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def code_of(call, *words, **values) -> str:
    with pytest.raises(SecguardError) as caught:
        call(*words, **values)
    return caught.value.code


def test_a_full_disk_is_said_of_the_archive_and_not_of_what_is_saved(site, tmp_path, monkeypatch):
    real = os.fdopen

    def full(descriptor, mode):
        os.close(descriptor)
        return real(os.open("/dev/full", os.O_WRONLY), mode, buffering=0)

    monkeypatch.setattr("secguard.identity.ca.backup.os.fdopen", full)
    with pytest.raises(SystemPartError) as caught:
        save(site, tmp_path / "b.tar")
    assert caught.value.where == str(tmp_path / "b.tar")
    assert "No space left" in caught.value.message
    assert [path.name for path in tmp_path.glob("*.tar*")] == []


def test_a_site_goes_on_after_the_loss_of_its_machine(site, tmp_path):
    authority = site.open()
    issued = authority.issue([Request(CAMERA, "camera")])
    saved = save(site, tmp_path / "b.tar")
    assert saved.file.stat().st_mode & 0o777 == 0o600
    assert site.recorder.kinds[-1] == "ca.saved"
    root = (site.certs / "root.pem").read_bytes()
    # what happens after the backup is not in it
    for _ in range(3):
        authority.publish_crls(every=True)
    authority.revoke(CAMERA, "keyCompromise")
    lost = authority.issue([Request(LATER, "camera")])
    stolen = authority.issue([Request("32011600001320000003", "camera")])
    authority.revoke("32011600001320000003", "keyCompromise")
    before = number_of(site)
    lose(site)
    (site.certs / "root.pem").unlink()

    done = restore(tmp_path / "b.tar", place_of(site), PASSPHRASE)
    assert done.same_ledger
    assert {issued[0].record.serial, stolen[0].record.serial} < set(done.revoked)
    assert lost[0].record.serial in done.unknown
    assert (site.certs / "root.pem").read_bytes() == root
    assert site.recorder.kinds[-1] == "ca.restored"
    site.registry = Registry.open(site.state / "registry.db")
    again = site.open(clock=place_of(site).clock)
    again.publish_crls(every=True)
    assert number_of(site) > before
    policy = site.policy(again)
    for item, unrevoked in ((issued[0], False), (stolen[0], False), (lost[0], True)):
        chain = [item.certificate, again.certificates["devices"]]
        assert policy.judge_chain(chain, Purpose.DEVICE, again.clock.now()).unrevoked is unrevoked
    # what was issued after the backup can be revoked, and its holder gets a new one
    again.revoke(lost[0].record.serial, "superseded")
    renewed = again.issue([Request(LATER, "camera")])
    chain = [renewed[0].certificate, again.certificates["devices"]]
    judged = site.policy(again).judge_chain(chain, Purpose.DEVICE, again.clock.now(), gbid=GbId(LATER))
    assert judged.believed
    assert judged.unrevoked
    assert again.log_signer()
    assert again.operator_signer()
    assert not list(site.state.parent.glob(".identity.*.tmp"))


def test_the_same_backup_twice_never_repeats_a_number(site, tmp_path):
    save(site, tmp_path / "b.tar")
    seen = number_of(site)
    for days in (1, 2):
        lose(site)
        clock = FixedClock(site.clock.now() + timedelta(days=days))
        restore(tmp_path / "b.tar", place_of(site, clock), PASSPHRASE)
        site.registry = Registry.open(site.state / "registry.db")
        for _ in range(5):
            site.open(clock=clock).publish_crls(every=True)
            assert number_of(site) > seen
            seen = number_of(site)


def test_without_the_ledger_of_that_time_it_says_so(site, tmp_path):
    save(site, tmp_path / "b.tar")
    lose(site)
    done = restore(tmp_path / "b.tar", place_of(site, origin="another/ledger"), PASSPHRASE)
    assert not done.same_ledger
    assert done.origin == ORIGIN


def test_a_ca_that_was_retired_since_stays_retired(site, tmp_path):
    site.open().issue([Request(CAMERA, "camera")])
    rollover_ca(setting_of(site), "devices")
    save(site, tmp_path / "b.tar")
    site.open().revoke("devices", "cACompromise")
    lose(site)
    done = restore(tmp_path / "b.tar", place_of(site), PASSPHRASE)
    assert done.retired == ["devices"]
    with Registry.open(site.state / "registry.db") as registry:
        assert registry.authorities()["devices"].status == "retired"


def test_nothing_is_overwritten(site, tmp_path):
    save(site, tmp_path / "b.tar")
    assert code_of(save, site, tmp_path / "b.tar") == "identity.backup.exists"
    assert code_of(restore, tmp_path / "b.tar", place_of(site), PASSPHRASE) == "identity.restore.exists"
    lose(site)
    (site.certs / "root.pem").write_text("another")
    assert code_of(restore, tmp_path / "b.tar", place_of(site), PASSPHRASE) == "identity.root.exists"
    assert not site.state.exists()
    (site.certs / "root.pem").unlink()
    (site.certs / "camera.yaml").write_text("# mine\n")
    (site.root / "secguard.toml").write_text("# mine\n")
    done = restore(tmp_path / "b.tar", place_of(site), PASSPHRASE)
    assert sorted(done.differing) == ["certs/camera.yaml", "secguard.toml"]
    assert (site.certs / "camera.yaml").read_text() == "# mine\n"
    assert (site.state / "restored" / "secguard.toml").read_text() == "# the site\n"


def test_a_fresh_workspace_may_have_an_empty_registry(site, tmp_path):
    save(site, tmp_path / "b.tar")
    lose(site)
    Registry.open(site.state / "registry.db").close()
    restore(tmp_path / "b.tar", place_of(site), PASSPHRASE)
    with Registry.open(site.state / "registry.db") as registry:
        assert "root" in registry.authorities()


def test_another_passphrase_or_clock_is_refused(site, tmp_path):
    save(site, tmp_path / "b.tar")
    assert code_of(backup, setting_of(site, b"x"), tmp_path / "c.tar", config=tmp_path, ledger_size=0) == (
        "keys.passphrase.wrong"
    )
    lose(site)
    assert code_of(restore, tmp_path / "b.tar", place_of(site), b"another") == "identity.backup.forged"
    early = FixedClock(site.clock.now() - timedelta(days=1))
    assert code_of(restore, tmp_path / "b.tar", place_of(site, early), PASSPHRASE) == "identity.backup.future"
    site.recorder.broken = True
    assert code_of(restore, tmp_path / "b.tar", place_of(site), PASSPHRASE) == "ledger.test"
    assert not site.state.exists()
    assert code_of(restore, tmp_path / "none.tar", place_of(site), PASSPHRASE) == "identity.backup.format"


def test_a_ledger_that_refuses_leaves_no_backup(site, tmp_path):
    site.recorder.broken = True
    assert code_of(save, site, tmp_path / "b.tar") == "ledger.test"
    assert not list(tmp_path.glob("*b.tar*"))


def test_a_power_cut_while_restoring_leaves_nothing_half(site, tmp_path, monkeypatch):
    save(site, tmp_path / "b.tar")
    lose(site)

    def cut(*words, **values):
        raise PowerCut

    for step in ("_bring_up_to_date", "_event", "fsync_directory"):
        with monkeypatch.context() as patch:
            patch.setattr(restoring, step, cut)
            with pytest.raises(PowerCut):
                restore(tmp_path / "b.tar", place_of(site), PASSPHRASE)
        if step != "fsync_directory":
            assert not site.state.exists()
    with Registry.open(site.state / "registry.db") as registry:
        assert "root" in registry.authorities()


def test_every_changed_byte_is_noticed(site, tmp_path):
    """Each region of the archive is hit; padding between members is all that may differ without harm."""
    save(site, tmp_path / "b.tar")
    data = (tmp_path / "b.tar").read_bytes()
    lose(site)
    nightly = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"
    step, start = len(data) // (300 if nightly else 12), 10 if nightly else 400
    for position in [*range(0, 2048, start), *range(2048, len(data), step), len(data) - 1]:
        changed = bytearray(data)
        changed[position] ^= 0x41
        (tmp_path / "c.tar").write_bytes(changed)
        try:
            restore(tmp_path / "c.tar", place_of(site), PASSPHRASE)
        except (FormatError, RefusedError):
            assert not site.state.exists()
            continue
        # nothing that matters was hit: what came back is what was saved
        for path in (site.state / "keys").iterdir():
            assert path.read_bytes() in data
        shutil.rmtree(site.state)
    for cut in (0, 100, 700, len(data) // 2, len(data) - 1):
        (tmp_path / "c.tar").write_bytes(data[:cut])
        assert code_of(restore, tmp_path / "c.tar", place_of(site), PASSPHRASE) == "identity.backup.format"
    (tmp_path / "c.tar").write_bytes(data + b"x")
    assert code_of(restore, tmp_path / "c.tar", place_of(site), PASSPHRASE) == "identity.backup.format"


@pytest.mark.parametrize("path", ["../x", "identity/../../x", "/etc/x", "other/x", "identity/a\x00b", "identity"])
def test_even_an_authentic_manifest_stays_inside_the_site(tmp_path, path):
    source = tmp_path / "source"
    source.write_bytes(b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    manifest = Manifest(1, "2026-11-01T12:00:00Z", "o", 0, "00" * 16, (BackupFile(path, 1, digest),))
    with (tmp_path / "a").open("w+b") as file:
        write_archive(file, manifest, [source], PASSPHRASE)
        file.seek(0)
        with pytest.raises(FormatError) as caught:
            check_manifest(file, PASSPHRASE, "a")
    assert caught.value.code == "identity.backup.format"


def test_long_and_chinese_names_come_back(tmp_path):
    names = ["identity/devices/" + "南京" * 40 + "/k.pem", "identity/devices/李伟/k.pem"]
    source = tmp_path / "source"
    source.write_bytes(b"x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    files = tuple(BackupFile(name, 1, digest) for name in names)
    with (tmp_path / "a").open("w+b") as file:
        write_archive(file, Manifest(1, "t", "o", 0, "00" * 16, files), [source, source], PASSPHRASE)
        file.seek(0)
        manifest = check_manifest(file, PASSPHRASE, "a")
        assert [(item.path, b"".join(data)) for item, data in read_files(file, manifest, "a")] == [
            (name, b"x") for name in names
        ]


def test_a_file_that_changes_while_it_is_saved_breaks_the_backup_off(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"xy")
    manifest = Manifest(1, "t", "o", 0, "00" * 16, (BackupFile("identity/a", 1, "00"),))
    with (tmp_path / "a").open("w+b") as file:
        assert code_of(write_archive, file, manifest, [source], PASSPHRASE) == "identity.backup.changed"


@given(data=st.binary(max_size=3000))
@settings(max_examples=50)
def test_any_bytes_are_a_backup_or_an_error(data, tmp_path_factory):
    file = tmp_path_factory.mktemp("fuzz") / "f"
    file.write_bytes(data)
    with file.open("rb") as source, pytest.raises(SecguardError):
        check_manifest(source, PASSPHRASE, "f")
