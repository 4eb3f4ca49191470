"""Revocation lists: byte for byte those of `cryptography`, never short of an entry, and no shard is ever lost."""

import dataclasses
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import FixedClock, RefusedError, SecguardError
from secguard.identity import Registry, Request
from secguard.identity.registry.revocations import RevokedRow
from secguard.identity.status import publish as publishing
from secguard.identity.status.crl import REASON_CODES, build_crl, collect, encode_entries
from secguard.identity.status.publish import overdue, publish
from secguard.keys import Algorithm, generate
from secguard.trust import EXPIRED_CERTS_ON_CRL, Purpose, read_crls

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
URL = "http://pki.example/crl"


def camera(number: int) -> str:
    return f"3201160000132{number:07}"


def entries_of(path) -> set[int]:
    return {item.serial_number for item in x509.load_der_x509_crl(path.read_bytes())}


def rows(count: int) -> list[RevokedRow]:
    reasons = [None, "unspecified", *REASON_CODES]
    return [
        RevokedRow(
            n,
            f"{(0x7F if n % 3 else 0xF0) << (n % 5 * 24) | n:032x}",
            f"{2026 if n % 7 else 2051}-10-{n % 28 + 1:02}T08:00:{n % 60:02}Z",
            reasons[n % len(reasons)],
            "2026-09-01T00:00:00Z" if n % 2 else None,
        )
        for n in range(1, count + 1)
    ]


def built_by_cryptography(issuer, key, found, urls, number) -> bytes:
    extensions = [
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
            issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value), False),
        (x509.CRLNumber(number), False),
        (x509.UnrecognizedExtension(
            EXPIRED_CERTS_ON_CRL,
            b"\x18\x0f" + issuer.not_valid_before_utc.strftime("%Y%m%d%H%M%SZ").encode()), False),
    ]  # fmt: skip
    if urls:
        names = [x509.UniformResourceIdentifier(url) for url in urls]
        extensions.append((x509.IssuingDistributionPoint(names, None, False, False, None, False, False), True))
    entries = []
    for row in found:
        entry = x509.RevokedCertificateBuilder(int(row.serial, 16), datetime.fromisoformat(row.revoked))
        if row.reason not in {None, "unspecified"}:
            entry = entry.add_extension(x509.CRLReason(x509.ReasonFlags(row.reason)), critical=False)
        if row.invalid_since:
            entry = entry.add_extension(x509.InvalidityDate(datetime.fromisoformat(row.invalid_since)), critical=False)
        entries.append(entry.build())
    builder = x509.CertificateRevocationListBuilder(issuer.subject, NOW, NOW + timedelta(days=7), extensions=[],
                                                    revoked_certificates=entries)  # fmt: skip
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    elliptic = hasattr(key, "curve")
    digest = hashes.SHA384() if elliptic and key.key_size == 384 else hashes.SHA256()
    return builder.sign(key, digest, ecdsa_deterministic=True if elliptic else None).public_bytes(Encoding.DER)


def test_bytes_are_those_of_cryptography(site):
    issuer = site.open().certificates["devices"]
    one, two = (f"{URL}/devices.3.crl",), (f"{URL}/devices.3.crl", "http://old.example/d.3.crl")
    signers = {kind: generate(kind) for kind in (Algorithm.P256, Algorithm.P384, Algorithm.RSA)}
    for kind, urls, count in (
        *((Algorithm.P256, urls, count) for urls in ((), one, two) for count in (0, 1, 2, 300)),
        (Algorithm.P384, one, 300),
        (Algorithm.RSA, (), 300),
    ):
        found = rows(count)
        ours = build_crl(
            issuer,
            signers[kind],
            b"".join(encode_entries(found)),
            number=4711,
            this_update=NOW,
            next_update=NOW + timedelta(days=7),
            urls=urls,
        )
        assert ours == built_by_cryptography(issuer, signers[kind].private_key(), found, urls, 4711)


def test_list_grows_by_what_is_revoked(site, monkeypatch):
    monkeypatch.setattr("secguard.identity.status.crl._PART", 3)
    authority = site.open()
    path = authority.crl_folder / "devices.crl"
    serials, number = set(), 0
    for n in range(8):
        serials.add(int(authority.issue([Request(camera(n), "camera")])[0].record.serial, 16))
        authority.revoke(camera(n), "superseded", profile="camera")
        crl = x509.load_der_x509_crl(path.read_bytes())
        assert {item.serial_number for item in crl} == serials
        assert crl.is_signature_valid(authority.certificates["devices"].public_key())
        found = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        assert found > number
        number = found
    assert [part.entries for part in site.registry.crl_parts("devices", -1)] == [3, 3, 2]
    again = publish(authority, every=True)
    assert all(item.new for item in again)
    assert entries_of(path) == serials


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM crl_parts WHERE part = 0",
        "DELETE FROM crl_parts WHERE part = 2",
        "DELETE FROM crl_parts",
        "UPDATE crl_parts SET der = zeroblob(length(der)) WHERE part = 1",
        "UPDATE crl_parts SET der = (SELECT der FROM crl_parts b WHERE b.part = 0) WHERE part = 1",
        "UPDATE crl_parts SET last = last + 100 WHERE part = 2",
        "UPDATE crl_parts SET entries = entries + 1 WHERE part = 2",
        "UPDATE crl_parts SET part = part + 10",
        "UPDATE crl_counts SET entries = entries - 1",
        "UPDATE crl_counts SET last = last - 1",
        "DELETE FROM crl_counts",
    ],
)
def test_damaged_parts_are_made_again(site, monkeypatch, damage):
    monkeypatch.setattr("secguard.identity.status.crl._PART", 3)
    authority = site.open()
    issued = [authority.issue([Request(camera(n), "camera")])[0].record for n in range(8)]
    for row in issued[:7]:
        authority.revoke(row.serial, "superseded")
    with sqlite3.connect(site.registry.path) as db:
        db.execute(damage)
    db.close()
    authority.revoke(issued[7].serial, "keyCompromise")
    assert entries_of(authority.crl_folder / "devices.crl") == {int(row.serial, 16) for row in issued}
    with site.registry.transaction():
        assert collect(site.registry, "devices") == collect(site.registry, "devices", anew=True)


def test_revocation_is_final_in_the_registry_itself(site):
    authority = site.open()
    serial = authority.issue([Request(camera(1), "camera")])[0].record.serial
    authority.revoke(serial, "superseded")
    for statement in (
        "UPDATE certificates SET status = 'active', revoked = NULL WHERE serial = ?",
        "UPDATE certificates SET revocation = NULL WHERE serial = ?",
        "UPDATE certificates SET shard = 5 WHERE serial = ?",
        "UPDATE certificates SET revoked = '2030-01-01T00:00:00Z' WHERE serial = ?",
        "DELETE FROM certificates WHERE serial = ?",
    ):
        db = sqlite3.connect(site.registry.path)
        with pytest.raises(sqlite3.IntegrityError, match="final"):
            db.execute(statement, (serial,))
        db.close()


def test_list_that_would_lack_an_entry_is_not_made(site, monkeypatch):
    authority = site.open()
    record = authority.issue([Request(camera(1), "camera")])[0].record
    path = authority.crl_folder / "devices.crl"
    before = path.read_bytes()
    monkeypatch.setattr(Registry, "revoked", lambda *_: iter(()))
    with pytest.raises(RefusedError) as caught:
        authority.revoke(record.serial, "superseded")
    assert caught.value.code == "identity.crl.incomplete"
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert publish(authority)
    assert entries_of(path) == {int(record.serial, 16)}


def sharded(site, shards: int, url: str = URL):
    site.config = dataclasses.replace(site.config, crl_url=url, crl_shards=shards)
    return site.open()


def test_shards_hold_what_points_to_them(site):
    authority = sharded(site, 4)
    publish(authority)
    folder = authority.crl_folder
    issued = [authority.issue([Request(camera(n), "camera")])[0] for n in range(12)]
    for item in issued[:9]:
        authority.revoke(item.record.serial, "superseded")
    policy = site.policy(authority)
    for number, item in enumerate(issued):
        (point,) = item.certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        url = point.full_name[0].value
        path = folder / url.rpartition("/")[2]
        crl = x509.load_der_x509_crl(path.read_bytes())
        named = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
        assert named.critical
        assert [name.value for name in named.value.full_name] == [url]
        assert (item.certificate.serial_number in entries_of(path)) == (number < 9)
        assert (item.certificate.serial_number in entries_of(folder / "devices.crl")) == (number < 9)
        chain = [item.certificate, authority.certificates["devices"]]
        assert policy.judge_chain(chain, Purpose.DEVICE, NOW + timedelta(seconds=1)).unrevoked == (number >= 9)
    assert sum(len(entries_of(folder / f"devices.{n}.crl")) for n in range(4)) == 9
    # Only lists that changed are signed again.
    states = site.registry.crl_states("devices")
    authority.revoke(issued[9].record.serial, "superseded")
    after = site.registry.crl_states("devices")
    changed = {shard for shard in states if states[shard].number != after[shard].number}
    assert changed == {-1, issued[9].record.shard}


@pytest.mark.parametrize("shards", [0, 2, 9])
def test_other_number_of_shards_loses_no_list(site, shards):
    authority = sharded(site, 5)
    issued = [authority.issue([Request(camera(n), "camera")])[0] for n in range(10)]
    authority.revoke(issued[0].record.serial, "superseded")
    later = sharded(site, shards)
    publish(later)
    for item in issued:
        later.revoke(item.record.serial, "superseded")
    more = later.issue([Request(camera(99), "camera")])[0]
    later.revoke(more.record.serial, "superseded")
    for item in [*issued, more]:
        (point,) = item.certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        name = point.full_name[0].value.rpartition("/")[2]
        assert item.certificate.serial_number in entries_of(later.crl_folder / name)
    # And they are kept fresh.
    late = FixedClock(NOW + timedelta(days=5))
    publish(site.open(clock=late))
    for crl in read_crls([later.crl_folder]):
        if crl.issuer == later.certificates["devices"].subject:
            assert crl.last_update_utc == late.at


def test_other_url_keeps_the_old_name_of_a_shard(site):
    authority = sharded(site, 2)
    old = authority.issue([Request(camera(1), "camera")])[0]
    publish(authority)
    later = sharded(site, 2, "http://new.example/lists")
    assert overdue(later)
    publish(later)
    crl = x509.load_der_x509_crl((later.crl_folder / f"devices.{old.record.shard}.crl").read_bytes())
    names = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value.full_name
    assert [name.value.rpartition("/")[0] for name in names] == ["http://new.example/lists", URL]
    chain = [old.certificate, later.certificates["devices"]]
    assert site.policy(later).judge_chain(chain, Purpose.DEVICE, NOW).unrevoked


def test_what_is_published_and_when(site):
    authority = site.open()
    assert not overdue(authority)
    before = {path: path.read_bytes() for path in authority.crl_folder.iterdir()}
    assert not any(item.new for item in publish(authority))
    assert before == {path: path.read_bytes() for path in authority.crl_folder.iterdir()}
    events = site.recorder.kinds.count("crl.published")
    half = site.open(clock=FixedClock(NOW + timedelta(days=3.5)))
    assert sorted(overdue(half)) == sorted(f"{name}.crl" for name in authority.certificates if name != "root")
    assert [item.issuer for item in publish(half) if not item.new] == ["root"]
    assert site.recorder.kinds.count("crl.published") == events + 5
    (authority.crl_folder / "media.crl").unlink()
    (authority.crl_folder / "logs.crl").write_bytes(b"damaged")
    assert sorted(overdue(half)) == ["logs.crl", "media.crl"]
    publish(half)
    assert len(read_crls([authority.crl_folder])) == 6
    # A list from the future was made by a wrong clock: devices would refuse it.
    assert len(overdue(site.open(clock=FixedClock(NOW + timedelta(hours=1))))) == 5


def test_key_that_does_not_open_keeps_no_other_list_back(site):
    authority = site.open(clock=FixedClock(NOW + timedelta(days=6)))
    (site.state / "keys" / "logs.key.pem").chmod(0o644)
    with pytest.raises(RefusedError, match="others may read"):
        publish(authority)
    assert overdue(authority) == ["logs.crl"]


@pytest.mark.parametrize("step", ["_write", "make_folder", "build_crl"])
def test_power_cut_while_publishing_is_completed(site, monkeypatch, step):
    class PowerCutError(BaseException):
        pass

    def cut(*_, **__):
        raise PowerCutError

    authority = site.open()
    serial = authority.issue([Request(camera(1), "camera")])[0].record.serial
    with monkeypatch.context() as patch:
        patch.setattr(publishing, step, cut)
        with pytest.raises(PowerCutError):
            authority.revoke(serial, "superseded")
    assert overdue(site.open()) == ["devices.crl"]
    numbers = [event.data["number"] for event in site.recorder.events.values() if event.subject == "devices"
               and event.kind == "crl.published"]  # fmt: skip
    publish(site.open())
    assert entries_of(authority.crl_folder / "devices.crl") == {int(serial, 16)}
    assert site.registry.crl_states("devices")[-1].number > max(numbers[:1])


def test_ledger_that_refuses_keeps_the_old_lists(site):
    authority = site.open()
    before = {path: path.read_bytes() for path in authority.crl_folder.iterdir()}
    site.recorder.broken = True
    with pytest.raises(SecguardError):
        publish(authority, every=True)
    assert before == {path: path.read_bytes() for path in authority.crl_folder.iterdir()}
