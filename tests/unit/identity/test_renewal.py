"""Renewing in bulk: who is chosen, what is renewed here, and what a broken run leaves."""

from datetime import UTC, date, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import FixedClock, Outcome, RefusedError, SystemPartError, UsageError
from secguard.identity import Request
from secguard.identity.issuing.deliver import Bundle
from secguard.identity.renewal import check_area, choose, due_at, renew_chosen
from secguard.identity.renewal_report import Ends, expiry_report, expiry_verdict, week_of
from secguard.report import write_report
from secguard.trust import read_certificates

CAMERAS = [f"3201160000132{number:07}" for number in range(1, 7)]


def csr() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def later(site, days: float) -> FixedClock:
    return FixedClock(site.clock.now() + timedelta(days=days))


@pytest.fixture
def fleet(site):
    """Six cameras whose keys are here, one whose key is in itself."""
    authority = site.open()
    authority.issue([Request(gbid, "camera") for gbid in CAMERAS])
    authority.issue([Request("32011600001320000009", "camera", csr=csr())])
    return site


def test_chosen_by_end_profile_and_area(fleet):
    now = fleet.clock.now()
    assert choose(fleet.registry, now, days=100) == []
    everything = choose(fleet.registry, now, days=731)
    assert {item.profile for item in everything} == {"camera", "media-signing", "operator"}
    assert [item.not_after for item in everything] == sorted(item.not_after for item in everything)
    assert len(choose(fleet.registry, now, days=731, profile="camera")) == 7
    assert {item.profile for item in choose(fleet.registry, now, days=731, area="320116")} == {
        "camera",
        "media-signing",
    }
    assert choose(fleet.registry, now, days=731, area="320117") == []
    assert check_area("") == ""
    for wrong in ("x", "3", "320116000", "32%"):
        with pytest.raises(UsageError, match="area"):
            check_area(wrong)


def test_due_after_two_thirds_each_at_its_own_moment(fleet):
    records = [record for record in fleet.registry.certificates() if record.profile == "camera"]
    moments = [due_at(record) for record in records]
    start = datetime.fromisoformat(records[0].not_before)
    for moment in moments:
        assert timedelta(days=730 * 2 / 3) <= moment - start <= timedelta(days=730 * 5 / 6)
    assert len(set(moments)) == len(moments)
    assert max(moments) - min(moments) > timedelta(days=20)
    assert moments == [due_at(record) for record in records]  # the same tomorrow
    assert choose(fleet.registry, min(moments) - timedelta(hours=1), profile="camera") == []
    assert len(choose(fleet.registry, min(moments), profile="camera")) == 1
    assert len(choose(fleet.registry, max(moments), profile="camera")) == len(records)


def test_renewed_recorded_and_delivered(fleet):
    clock = later(fleet, 700)
    authority = fleet.open(clock=clock)
    before = {record.serial for record in fleet.registry.certificates() if record.status == "active"}
    calls = []
    done = renew_chosen(
        authority,
        choose(fleet.registry, clock.now(), days=40, area="320116"),
        progress=lambda *call: calls.append(call),
    )
    assert (len(done.renewed), len(done.in_device), done.failed, done.held_back) == (12, 1, [], [])
    assert [item.holder for item in done.in_device] == ["32011600001320000009"]
    assert calls[-1] == (12, 12, "certificates")
    assert [
        event.data["serial"] for event in fleet.recorder.events.values() if event.kind == "certificate.renewed"
    ] == [record.serial for record in done.renewed]
    for record in done.renewed:
        assert record.serial not in before
        folder = fleet.state / "devices" / record.holder
        (leaf,) = read_certificates(folder / f"{record.holder}.{record.profile}.pem")
        assert f"{leaf.serial_number:032x}" == record.serial
        signer, chain = authority.holder_signer(record.holder, record.profile)
        assert chain[0] == leaf
        assert signer.public_key() == leaf.public_key()
    assert choose(fleet.registry, clock.now(), days=40, area="320116") == [done.in_device[0]]
    assert renew_chosen(authority, []).delivered == []


def test_the_sites_own_keys_keep_their_file_names(fleet):
    clock = later(fleet, 350)
    chosen = choose(fleet.registry, clock.now(), days=40)
    assert [item.profile for item in chosen] == ["operator"]
    (record,) = renew_chosen(fleet.open(clock=clock), chosen).renewed
    (leaf,) = read_certificates(fleet.state / "keys" / "operator.pem")
    assert f"{leaf.serial_number:032x}" == record.serial


def test_one_by_one_too(fleet):
    before = fleet.files()
    issued = fleet.open(clock=later(fleet, 1)).renew("li.wei", "operator")
    assert issued.new
    assert fleet.files() == before
    assert read_certificates(fleet.state / "keys" / "operator.pem") == [issued.certificate]


def test_a_certificate_that_has_ended_is_renewed_too(fleet):
    clock = later(fleet, 800)
    chosen = choose(fleet.registry, clock.now(), days=0, profile="camera")
    assert len(chosen) == 7
    done = renew_chosen(fleet.open(clock=clock), chosen)
    assert len(done.renewed) == 6


def test_a_key_that_left_is_not_renewed_here(fleet):
    clock = later(fleet, 700)
    folder = fleet.state / "devices" / CAMERAS[0]
    for path in folder.iterdir():
        path.unlink()
    done = renew_chosen(fleet.open(clock=clock), choose(fleet.registry, clock.now(), days=40, profile="camera"))
    assert {item.holder for item in done.in_device} == {CAMERAS[0], "32011600001320000009"}
    assert list(folder.iterdir()) == []


def test_for_devices_without_est_certificates_are_made_ready(fleet, tmp_path, monkeypatch):
    clock = later(fleet, 700)
    authority = fleet.open(clock=clock)
    gbid = "32011600001320000009"
    old = fleet.registry.active(gbid, "camera")
    chosen = [item for item in choose(fleet.registry, clock.now(), days=40) if item.holder == gbid]
    write = Bundle.write

    def full(self, *certificates):
        raise SystemPartError("core.disk.full", "No space left on device")

    monkeypatch.setattr(Bundle, "write", full)
    assert [item.holder for item, _ in renew_chosen(authority, chosen, folder=tmp_path / "out").failed] == [gbid]
    monkeypatch.setattr(Bundle, "write", write)
    done = renew_chosen(authority, [], folder=tmp_path / "out")
    assert [record.holder for record in done.delivered] == [gbid]
    assert renew_chosen(authority, [], folder=tmp_path / "out").delivered == []
    leaf, issuer = read_certificates(tmp_path / "out" / gbid / f"{gbid}.camera.chain.pem")
    assert leaf.public_key() == old.x509().public_key()
    assert leaf.not_valid_after_utc > old.x509().not_valid_after_utc
    assert issuer == authority.certificates["devices"]
    assert not list((tmp_path / "out").rglob("*.key.pem"))
    assert fleet.recorder.kinds.count("certificate.renewed") == 1


def test_what_a_broken_run_certified_the_next_delivers(fleet, monkeypatch):
    clock = later(fleet, 700)
    authority = fleet.open(clock=clock)
    chosen = choose(fleet.registry, clock.now(), days=40, profile="camera")
    write = Bundle.write

    def full(self, *certificates):
        if CAMERAS[2] in self.stem:
            raise SystemPartError("core.disk.full", "No space left on device")
        return write(self, *certificates)

    monkeypatch.setattr(Bundle, "write", full)
    done = renew_chosen(authority, chosen)
    assert [item.holder for item, _ in done.failed] == [CAMERAS[2]]
    monkeypatch.undo()
    again = renew_chosen(authority, choose(fleet.registry, clock.now(), days=40, profile="camera"))
    assert [record.holder for record in again.delivered] == [CAMERAS[2]]
    assert again.renewed == []
    (leaf,) = read_certificates(fleet.state / "devices" / CAMERAS[2] / f"{CAMERAS[2]}.camera.pem")
    assert f"{leaf.serial_number:032x}" == again.delivered[0].serial
    assert sum(1 for kind in fleet.recorder.kinds if kind == "certificate.renewed") == 6


def test_without_the_ledger_nothing_is_delivered(fleet):
    clock = later(fleet, 700)
    authority = fleet.open(clock=clock)
    chosen = choose(fleet.registry, clock.now(), days=40, profile="camera")
    before = fleet.files(), [path.read_bytes() for path in sorted((fleet.state / "devices").rglob("*.pem"))]
    fleet.recorder.broken = True
    with pytest.raises(RefusedError):
        renew_chosen(authority, chosen)
    assert before == (fleet.files(), [path.read_bytes() for path in sorted((fleet.state / "devices").rglob("*.pem"))])
    fleet.recorder.broken = False
    done = renew_chosen(authority, chosen)
    assert len(done.renewed) == 6
    rows = list(fleet.registry.certificates())
    assert len({row.serial for row in rows}) == len(rows)


def test_revoked_or_renewed_meanwhile(fleet):
    clock = later(fleet, 700)
    authority = fleet.open(clock=clock)
    chosen = choose(fleet.registry, clock.now(), days=40, profile="camera")
    authority.revoke(CAMERAS[0], "keyCompromise")
    authority.renew(CAMERAS[1], "camera")
    done = renew_chosen(authority, chosen)
    assert {record.holder for record in done.renewed} == set(CAMERAS[2:])
    assert done.failed == []
    assert fleet.registry.active(CAMERAS[0], "camera") is None


def test_a_ca_that_ends_first_holds_renewals_back(fleet):
    early = later(fleet, 3600)
    fleet.open(clock=early).issue([Request("32011600001320000020", "camera")])
    at = later(fleet, 3640)
    chosen = choose(fleet.registry, at.now(), days=30, profile="camera", area="320116")
    done = renew_chosen(fleet.open(clock=at), [item for item in chosen if item.holder.endswith("20")])
    assert [item.holder for item in done.held_back] == ["32011600001320000020"]
    assert done.renewed == []
    assert "certificate.renewed" not in fleet.recorder.kinds


def test_a_profile_that_is_gone_spoils_no_other(fleet):
    clock = later(fleet, 700)
    chosen = choose(fleet.registry, clock.now(), days=40)
    (fleet.certs / "operator.yaml").unlink()
    done = renew_chosen(fleet.open(clock=clock), chosen)
    assert [(item.profile, error.code) for item, error in done.failed] == [("operator", "identity.profile.unknown")]
    assert len(done.renewed) == 12


def ends(site, at: datetime, days: int = 400, profile_days: int = 730) -> Ends:
    soon = [
        (datetime.fromisoformat(record.not_after), record.profile)
        for record in site.registry.expiring(at + timedelta(days=days))
    ]
    rows = [(date.fromisoformat(day), *rest) for day, *rest in site.registry.expiries()]
    cas = list(site.registry.authorities().values())
    return Ends(rows, cas, at, {"devices": profile_days}, soon)


def codes(verdict) -> set[str]:
    return {item.code for item in verdict.findings}


def test_judged_by_what_ended_and_what_ends_soon(fleet):
    now = fleet.clock.now()
    assert expiry_verdict(ends(fleet, now), "site", 30).outcome is Outcome.PASS
    soon = now + timedelta(days=710)
    verdict = expiry_verdict(ends(fleet, soon), "site", 30)
    assert codes(verdict) == {"identity.expiry.ended", "identity.expiry.critical"}  # the operator's ended after a year
    assert verdict.outcome is Outcome.FAIL
    verdict = expiry_verdict(ends(fleet, now + timedelta(days=731)), "site", 0)
    assert codes(verdict) == {"identity.expiry.ended"}
    assert sum(item.data["count"] for item in verdict.findings) == 14  # 7 cameras, 6 media keys, the operator
    last = now + timedelta(days=3640)
    assert "identity.expiry.ca" in codes(expiry_verdict(ends(fleet, last), "site", 30))
    assert "identity.expiry.ca-short" in codes(expiry_verdict(ends(fleet, now + timedelta(days=3000)), "site", 30))


def test_to_the_second(fleet):
    """What ended a minute ago has ended; what ends in a minute has not."""
    end = datetime.fromisoformat(fleet.registry.active(CAMERAS[0], "camera").not_after)
    for shift, expected in ((timedelta(minutes=1), True), (-timedelta(minutes=1), False)):
        verdict = expiry_verdict(ends(fleet, end + shift), "site", 0)
        found = {item.where for item in verdict.findings if item.code == "identity.expiry.ended"}
        assert ("camera" in found) is expected


def test_the_cliff_is_named_and_plotted(tmp_path):
    now = datetime(2026, 11, 1, tzinfo=UTC)
    cliff = date(2027, 8, 4)
    days = [(cliff, "camera", "devices", 4812), (date(2029, 12, 1), "nvr", "devices", 7)]
    days += [(date(2027, 1, 1) + timedelta(days=7 * week), "camera", "devices", 100) for week in range(50)]
    days += [(date(2027, 3, 1), name, "platforms", 1) for name in ("a", "b", "c", "d", "e")]
    found = Ends(sorted(days), [], now, {}, [])
    assert found.cliffs() == [("2027-W31", 4912)]
    verdict = expiry_verdict(found, "site", 30)
    assert codes(verdict) == {"identity.expiry.cliff"}
    assert verdict.outcome is Outcome.PASS
    rows = [
        {
            "holder": "=1+1",
            "profile": "camera",
            "issuer": "devices",
            "serial": "0a",
            "not_after": "2027-08-04T00:00:00Z",
            "key": None,
        }
    ]
    for suffix in ("html", "csv", "xml"):
        for lang in ("en", "zh"):
            path = tmp_path / f"{lang}.{suffix}"
            write_report(path, expiry_report(found, rows, 30, verdict), lang)
            text = path.read_text(encoding="utf-8-sig")
            assert "2027-W31" in text
            assert "\n=1+1" not in text
    assert "4,912 certificates end in week 2027-W31" in (tmp_path / "en.html").read_text()
    assert "2027-W31 周内有 4,912 张证书到期" in (tmp_path / "zh.html").read_text()
    write_report(tmp_path / "none.html", expiry_report(Ends([], [], now, {}, []), [], 30, None), "en")


def test_iso_weeks_at_the_turn_of_the_year():
    assert [week_of(date(2026, 12, 31)), week_of(date(2027, 1, 3)), week_of(date(2027, 1, 4))] == [
        "2026-W53",
        "2026-W53",
        "2027-W01",
    ]
