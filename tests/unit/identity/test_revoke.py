"""Revoking many, with times and reasons; devices, CAs, crashes; the ledger has every revocation."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from secguard.core import FormatError, RefusedError, SecguardError, UsageError
from secguard.identity import Request
from secguard.identity.certificate import ROOT
from secguard.identity.records import CaStatus
from secguard.identity.status.publish import overdue, publish
from secguard.identity.status.revoke import Revocation, read_revocations
from secguard.trust import Purpose

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def camera(number: int) -> str:
    return f"3201160000132{number:07}"


def revoked_events(site) -> list:
    return [event for event in site.recorder.events.values() if event.kind == "certificate.revoked"]


def test_many_at_once(site):
    authority = site.open()
    issued = authority.issue([Request(camera(n), "camera") for n in range(1, 31)])
    serials = [item.record.serial for item in issued]
    wanted = [Revocation(serial, "superseded") for serial in serials[:10]] + [
        Revocation(camera(n), "keyCompromise", NOW - timedelta(days=n)) for n in range(6, 31)
    ]
    rows = authority.revoke_all(wanted, case="A2026-17")
    assert sorted(row.serial for row in rows) == sorted(serials)
    assert {row.status for row in rows} == {"revoked"}
    assert len({row.revocation for row in rows}) == 60
    assert [event.case for event in revoked_events(site)] == ["A2026-17"] * 60
    assert {event.data["serial"] for event in revoked_events(site)} == set(serials)
    # One list a CA, once.
    published = [event.subject for event in site.recorder.events.values() if event.kind == "crl.published"]
    assert published.count("devices") == published.count("media") == 2
    assert published.count("logs") == 1
    crl = x509.load_der_x509_crl((authority.crl_folder / "devices.crl").read_bytes())
    assert len(crl) == 30


def test_nothing_happens_when_one_cannot_be_found(site):
    authority = site.open()
    authority.issue([Request(camera(1), "camera")])
    with pytest.raises(UsageError) as caught:
        authority.revoke_all([Revocation(camera(1)), Revocation(camera(2), where="list, line 2")])
    assert caught.value.code == "identity.certificate.none"
    assert caught.value.where == "list, line 2"
    assert site.registry.active(camera(1), "camera") is not None
    assert not revoked_events(site)


def test_since_reaches_back(site):
    authority = site.open()
    item = authority.issue([Request(camera(1), "camera")])[0]
    since = NOW - timedelta(hours=5)
    (row,) = authority.revoke(item.record.serial, "keyCompromise", since=since)
    assert (row.revoked, row.invalid_since) == ("2026-11-01T12:00:00Z", "2026-11-01T07:00:00Z")
    assert revoked_events(site)[0].data["invalid_since"] == "2026-11-01T07:00:00Z"
    chain = authority.chain(item.record)
    policy = site.policy(authority)
    for at, code in (
        (since, "trust.certificate.revoked"),
        (since - timedelta(seconds=1), "trust.certificate.revoked-later"),
    ):
        found = [one.code for one in policy.judge_chain(chain, Purpose.DEVICE, at).findings if "revoked" in one.code]
        assert found == [code]
    with pytest.raises(UsageError) as caught:
        authority.revoke(camera(1), "keyCompromise", since=NOW + timedelta(seconds=1))
    assert caught.value.code == "identity.since.future"


def test_again_changes_nothing(site):
    authority = site.open()
    authority.issue([Request(camera(1), "camera")])
    first = authority.revoke(camera(1), "superseded")
    lists = {path: path.read_bytes() for path in authority.crl_folder.iterdir()}
    assert authority.revoke(camera(1), "keyCompromise", since=NOW - timedelta(days=1)) == first
    assert lists == {path: path.read_bytes() for path in authority.crl_folder.iterdir()}
    assert len(revoked_events(site)) == 2


def test_device_without_a_certificate_is_registered_again(site):
    authority = site.open()
    authority.issue([Request(camera(1), "camera")])
    assert site.registry.device(camera(1)).status == "issued"
    authority.revoke(camera(1), "keyCompromise", profile="camera")
    assert site.registry.device(camera(1)).status == "issued"  # its signing key is still certified
    authority.revoke(camera(1), "keyCompromise")
    assert site.registry.device(camera(1)).status == "registered"
    authority.issue([Request(camera(1), "camera")])
    assert site.registry.device(camera(1)).status == "issued"


@pytest.mark.parametrize("by", ["name", "serial"])
def test_ca(site, by):
    authority = site.open()
    item = authority.issue([Request(camera(1), "camera")])[0]
    certificate = authority.certificates["devices"]
    target = "devices" if by == "name" else f"{certificate.serial_number:x}"
    (row,) = authority.revoke(target, "cACompromise", since=NOW - timedelta(days=1))
    assert (row.issuer, row.profile, row.status) == (ROOT, "ca", "revoked")
    crl = x509.load_der_x509_crl((authority.crl_folder / "root.crl").read_bytes())
    assert [one.serial_number for one in crl] == [certificate.serial_number]
    assert site.registry.authorities()["devices"].status == CaStatus.RETIRED
    assert "ca.retired" in site.recorder.kinds
    judged = site.policy(authority).judge_chain(authority.chain(item.record), Purpose.DEVICE, NOW)
    assert "trust.certificate.revoked" in [one.code for one in judged.findings]
    later = site.open()
    with pytest.raises(SecguardError):
        later.issue([Request(camera(2), "camera")])
    later.revoke(camera(1), "superseded")  # its list goes on
    assert later.revoke(target, "cACompromise")[0].revocation == row.revocation


def test_root_cannot_be_revoked(site):
    with pytest.raises(UsageError) as caught:
        site.open().revoke("root", "cACompromise")
    assert caught.value.code == "identity.root.final"


def test_ca_whose_root_is_elsewhere(site):
    import msgspec

    with site.registry.transaction():
        site.registry.set_authority(msgspec.structs.replace(site.registry.authorities()[ROOT], key=""))
    with pytest.raises(UsageError) as caught:
        site.open().revoke("devices", "cACompromise")
    assert caught.value.code == "identity.key.offline"
    assert site.registry.authorities()["devices"].status == CaStatus.CURRENT


class PowerCutError(BaseException):
    """What no `except SecguardError` sees."""


@pytest.mark.parametrize("step", ["record_waiting", "publish_locked", "_publish"])
@pytest.mark.parametrize("another", ["crl", "revoke"])
def test_power_cut_is_completed_by_whatever_runs_next(site, monkeypatch, step, another):
    from secguard.identity.status import publish as publishing
    from secguard.identity.status import revoke as revoking

    authority = site.open()
    issued = authority.issue([Request(camera(n), "camera") for n in (1, 2)])

    def cut(*_, **__):
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(revoking if step == "publish_locked" else publishing, step, cut)
        with pytest.raises(PowerCutError):
            authority.revoke(camera(1), "keyCompromise", case="A7")
    assert site.registry.by_serial(issued[0].record.serial).status == "revoked"
    later = site.open()
    assert sorted(overdue(later)) == ["devices.crl", "media.crl"]
    if another == "crl":
        publish(later)
    else:
        later.revoke(camera(2), "superseded")
    assert not overdue(later)
    assert [event.case for event in revoked_events(site) if event.subject == camera(1)] == ["A7", "A7"]
    assert not site.registry.outbox()


def test_ledger_that_refuses_keeps_the_event(site):
    authority = site.open()
    authority.issue([Request(camera(1), "camera")])
    site.recorder.broken = True
    for _ in range(2):
        with pytest.raises(RefusedError):
            authority.revoke(camera(1), "keyCompromise")
    assert len(site.registry.outbox()) == 2
    site.recorder.broken = False
    publish(authority)
    assert len(revoked_events(site)) == 2
    assert revoked_events(site)[0].time == NOW


def test_list_file(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(
        "﻿# stolen on the night of the 30th\n\n32011600001320000001\nabcdef, keyCompromise\n"
        "32011600001320000002,superseded,2026-10-30T22:00:00Z # lorry\n",
        encoding="utf-8",
    )
    since = datetime(2026, 10, 1, tzinfo=UTC)
    found = read_revocations(path, "privilegeWithdrawn", since)
    assert [(one.target, one.reason, one.since) for one in found] == [
        ("32011600001320000001", "privilegeWithdrawn", since),
        ("abcdef", "keyCompromise", since),
        ("32011600001320000002", "superseded", datetime(2026, 10, 30, 22, tzinfo=UTC)),
    ]
    assert found[2].where.endswith("line 5")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "identity.revocations.format"),
        (b"# nothing\n", "identity.revocations.format"),
        (b"a,b,c,d\n", "identity.revocations.format"),
        (b",keyCompromise\n", "identity.revocations.format"),
        (b"\xff\xfe\n", "identity.revocations.format"),
        (b"a\n" * 100_001, "identity.revocations.format"),
    ],
)
def test_bad_list_file(tmp_path, content, code):
    path = tmp_path / "list"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_revocations(path)
    assert caught.value.code == code


def test_bad_values_in_a_list_name_the_line(site, tmp_path):
    path = tmp_path / "list"
    path.write_text("a\nb,keyCompromise,yesterday\n")
    with pytest.raises(SecguardError) as caught:
        read_revocations(path)
    assert "line 2" in caught.value.where
    path.write_text("a\nb,boredom\n")
    with pytest.raises(UsageError) as caught:
        site.open().revoke_all(read_revocations(path))
    assert (caught.value.code, caught.value.where) == ("identity.reason.unknown", f"{path}, line 2")
