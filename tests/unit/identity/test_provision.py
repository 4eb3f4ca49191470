"""Provisioning in this process: what is delivered, refused lines, resuming, requests, formats, hostile lists."""

import csv
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secguard.core import FormatError, RefusedError, SecguardError, UsageError
from secguard.gbid import GbId
from secguard.identity.issuing import parcel
from secguard.identity.issuing import provision as provisioning
from secguard.identity.issuing.listing import read_listing
from secguard.identity.issuing.order import Order
from secguard.identity.issuing.protect import KeyCipher
from secguard.identity.issuing.provision import provision
from secguard.identity.issuing.wishes import Setting
from secguard.keys import generate
from secguard.trust import Purpose, gbid_of


def camera(number: int) -> str:
    return f"3201160000132{number:07}"


class PowerCut(BaseException):
    """What no `except SecguardError` sees."""


def make_csr(private, digest=None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(private, digest or hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def listed(tmp_path):
    """Write a list, and give its path."""

    def write(*lines: str, head="gbid,name,vendor_serial", encoding="utf-8", name="list.csv") -> Path:
        path = tmp_path / name
        path.write_bytes("\r\n".join([head, *lines, ""]).encode(encoding))
        return path

    return write


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def deliveries(out: Path) -> dict[str, Path]:
    return {path.name: path for path in out.glob("*/*.pem")}


def errors(done) -> list[tuple[int, str]]:
    return sorted((one.line, one.code) for one in done.refused)


def test_devices_get_keys_chains_and_companions(site, listed, out):
    path = listed(f"{camera(1)},East gate,SN 1", f"{camera(2)},,", "32011600001180000001,Recorder,")
    authority = site.open()
    done = provision(authority, path, Setting(out))
    assert (done.devices, done.delivered, done.certificates, done.issued, done.again) == (3, 3, 5, 5, 0)
    assert done.refused == []
    assert not (out / "refused.csv").exists()
    files = deliveries(out)
    assert sorted(files) == sorted(
        [f"{camera(n)}.{p}.pem" for n in (1, 2) for p in ("camera", "media-signing")] + ["32011600001180000001.nvr.pem"]
    )
    passphrase = (out / "passphrase.txt").read_bytes().strip()
    assert stat.S_IMODE((out / "passphrase.txt").stat().st_mode) == 0o600
    keys = set()
    for name, file in files.items():
        data = file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in data
        key = serialization.load_pem_private_key(data, passphrase)
        chain = x509.load_pem_x509_certificates(data)
        assert key.public_key() == chain[0].public_key()
        keys.add(
            key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        gbid, profile, _ = name.split(".")
        assert gbid_of(chain[0]) == GbId(gbid)
        purpose = Purpose.MEDIA_SIGNING if profile == "media-signing" else Purpose.DEVICE
        assert site.policy(authority).judge_chain(chain, purpose, site.clock.now(), gbid=GbId(gbid)).findings == ()
        row = site.registry.active(gbid, profile)
        assert row.certificate == chain[0].public_bytes(serialization.Encoding.DER)
        assert row.key == ""
    assert len(keys) == 5
    device = site.registry.device(camera(1))
    assert (device.name, device.vendor_serial, device.status) == ("East gate", "SN 1", "issued")
    assert [kind for kind in site.recorder.kinds if kind.startswith("provision")] == [
        "provision.started",
        "provision.finished",
    ]
    assert list((out / ".provision").glob("keys-*")) == []
    assert passphrase not in b"".join(
        p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "passphrase.txt"
    )


def test_again_makes_nothing_new(site, listed, out):
    path = listed(*(f"{camera(n)},," for n in range(5)))
    provision(site.open(), path, Setting(out))
    before = {name: file.read_bytes() for name, file in deliveries(out).items()}
    done = provision(site.open(), path, Setting(out, resume=True))
    assert (done.delivered, done.again, done.certificates, done.issued) == (0, 5, 0, 0)
    assert {name: file.read_bytes() for name, file in deliveries(out).items()} == before
    assert site.recorder.kinds.count("certificate.issued") == 2 + 10


def test_wrong_lines_are_named_and_the_others_done(site, listed, out):
    path = listed(
        f"{camera(1)},,",
        "32011700001320000001,,",  # 3: outside
        "1,,",  # 4
        ",nobody,",  # 5
        f"{camera(2)},,序列号",  # 6
        f"{camera(3)},,",  # 7, 8: twice
        f"{camera(3)},,",
        "32011600001340000001,,",  # 9: no profile for its type
        f"{camera(4)},a,b,c,d",  # 10: too many cells
        f"{camera(5)},=cmd(),",
    )
    done = provision(site.open(), path, Setting(out))
    assert errors(done) == [
        (3, "identity.scope.exceeded"),
        (4, "gbid.length"),
        (5, "identity.list.line"),
        (6, "identity.vendor-serial.format"),
        (7, "identity.list.twice"),
        (8, "identity.list.twice"),
        (9, "identity.provision.type"),
        (10, "identity.list.line"),
    ]
    assert all(one.hint for one in done.refused)
    assert {name[:20] for name in deliveries(out)} == {camera(1), camera(5)}
    with done.error_file.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["line"]) for row in rows] == [line for line, _ in errors(done)]
    assert "lines 7, 8" in rows[4]["reason"]


def test_error_file_is_safe_in_a_spreadsheet(site, listed, out):
    done = provision(site.open(), listed("=HYPERLINK(1),,", "@x,,"), Setting(out))
    with done.error_file.open(encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "@", "+", "-")) for cell in cells)


def test_dry_run_makes_nothing(site, listed, out):
    before, events = site.files(), site.recorder.kinds
    done = provision(site.open(None), listed(f"{camera(1)},,", "2,,"), Setting(out, dry_run=True))
    assert errors(done) == [(3, "gbid.length")]
    assert not out.exists()
    assert (site.files(), site.recorder.kinds) == (before, events)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "identity.list.empty"),
        (b"gbid,name\n", "identity.list.empty"),
        (b"\xef\xbb\xbf \n", "identity.list.empty"),
        (b"name,serial\nx,y\n", "identity.list.head"),
        (b"gbid,gbid\nx,y\n", "identity.list.columns"),
        (b'gbid,name\n32011600001320000001,"open\n', "identity.list.csv"),
        (b'gbid,name\n32011600001320000001,"a"b\n', "identity.list.csv"),
        (b"gbid,name\n32011600001320000001," + b"x" * 70_000 + b"\n", "identity.list.line-length"),
        (b'{"gbid": "32011600001320000001"}\n{"gbid": [1]}\n', "identity.list.json"),
        (b'{"gbid": "32011600001320000001"}\n{"gbid": \n', "identity.list.json"),
        (b"gbid" + b",c" * 300 + b"\n", "identity.list.columns"),
    ],
)
def test_malformed_list_issues_nothing(site, tmp_path, out, data, code):
    path = tmp_path / "list"
    path.write_bytes(data)
    before = site.files()
    with pytest.raises(FormatError) as caught:
        provision(site.open(), path, Setting(out))
    assert caught.value.code == code
    assert not out.exists()
    assert {file for file in site.files() if "state" in file} == {file for file in before if "state" in file}
    assert not [row for row in site.registry.certificates() if row.device]


@pytest.mark.parametrize(
    ("encoding", "asked"), [("utf-8-sig", ""), ("gb18030", "gb18030"), ("gb18030", ""), ("utf-8", ""), ("utf-16", "")]
)
def test_chinese_lists(site, listed, out, encoding, asked):
    path = listed(f"{camera(1)},江宁区东山街道路口摄像机,SN1", head="设备编码,设备名称,序列号", encoding=encoding)
    done = provision(site.open(), path, Setting(out, encoding=asked))
    assert (done.delivered, done.refused) == (1, [])
    assert site.registry.device(camera(1)).name == "江宁区东山街道路口摄像机"


def test_bytes_that_are_no_text_lose_only_their_line(site, tmp_path, out):
    path = tmp_path / "list.csv"
    path.write_bytes(b"gbid,name\n" + camera(1).encode() + b",\xff\xff\n" + camera(2).encode() + b",ok\n")
    done = provision(site.open(), path, Setting(out, encoding="utf-8"))
    assert errors(done) == [(2, "identity.list.line")]
    assert done.delivered == 1


def test_json_lines(site, tmp_path, out):
    path = tmp_path / "list.jsonl"
    rows = [
        {"gbid": camera(1), "name": "东门", "vendor_serial": 77, "model": "X"},
        {"gbid": camera(2), "profile": "camera"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    done = provision(site.open(), path, Setting(out))
    assert (done.delivered, done.refused) == (2, [])
    assert site.registry.device(camera(1)).vendor_serial == "77"
    assert "model" in done.notes[0]


def test_profile_by_column_and_option(site, listed, out):
    path = listed(f"{camera(1)},media-signing", f"{camera(2)},", head="gbid,profile")
    provision(site.open(), path, Setting(out, profile="camera"))
    assert sorted(deliveries(out)) == sorted(
        [f"{camera(1)}.media-signing.pem", f"{camera(2)}.camera.pem", f"{camera(2)}.media-signing.pem"]
    )
    for name in ("operator", "toaster"):
        with pytest.raises(UsageError):
            provision(site.open(), path, Setting(out, profile=name))
    wrong = provision(site.open(), listed(f"{camera(3)},operator", head="gbid,profile", name="b"), Setting(out / "b"))
    assert errors(wrong) == [(2, "identity.provision.profile")]


def test_requests_in_and_certificates_out(site, listed, tmp_path, out):
    folder = tmp_path / "csr"
    folder.mkdir()
    keys = {n: ec.generate_private_key(ec.SECP256R1()) for n in range(1, 6)}
    (folder / f"{camera(1)}.csr").write_bytes(make_csr(keys[1]))
    (folder / f"{camera(2)}.camera.der").write_bytes(
        x509.load_pem_x509_csr(make_csr(keys[2])).public_bytes(serialization.Encoding.DER)
    )
    (folder / f"{camera(3)}.csr").write_bytes(make_csr(ec.generate_private_key(ec.SECP521R1())))
    (folder / f"{camera(4)}.csr").write_bytes(b"nothing")
    inline = make_csr(keys[5]).decode().replace("\n", "\n")
    path = listed(*(f"{camera(n)}," for n in (1, 2, 3, 4, 7)), f'{camera(5)},"{inline}"', head="gbid,csr")
    done = provision(site.open(), path, Setting(out, requests=folder))
    assert errors(done) == [
        (4, "identity.csr.key"),
        (5, "identity.csr.format"),
        (6, "identity.provision.request"),
    ]
    assert sorted(deliveries(out)) == [f"{camera(n)}.camera.pem" for n in (1, 2, 5)]
    assert done.passphrase_file is None
    for n in (1, 2, 5):
        data = deliveries(out)[f"{camera(n)}.camera.pem"].read_bytes()
        assert b"PRIVATE" not in data
        chain = x509.load_pem_x509_certificates(data)
        assert chain[0].public_key() == keys[n].public_key()
        assert len(chain) == 2


def test_request_file_is_looked_for_in_the_folder_only(site, listed, tmp_path, out):
    folder = tmp_path / "csr"
    folder.mkdir()
    (tmp_path / "secret.csr").write_bytes(make_csr(ec.generate_private_key(ec.SECP256R1())))
    path = listed(f"{camera(1)},../secret.csr", f"{camera(2)},{tmp_path}/secret.csr", head="gbid,csr")
    done = provision(site.open(), path, Setting(out, requests=folder))
    assert errors(done) == [(2, "identity.provision.request"), (3, "identity.provision.request")]


def test_one_key_in_two_requests(site, listed, tmp_path, out):
    folder = tmp_path / "csr"
    folder.mkdir()
    shared = make_csr(ec.generate_private_key(ec.SECP256R1()))
    for n in (1, 2):
        (folder / f"{camera(n)}.csr").write_bytes(shared)
    done = provision(site.open(), listed(f"{camera(1)},,", f"{camera(2)},,"), Setting(out, requests=folder))
    assert errors(done) == [(3, "identity.key.shared")]


def test_pkcs12_with_the_full_chain(site, listed, out):
    authority = site.open()
    provision(authority, listed(f"{camera(1)},,"), Setting(out, format="p12"))
    data = (out / camera(1)[:8] / f"{camera(1)}.camera.p12").read_bytes()
    passphrase = (out / "passphrase.txt").read_bytes().strip()
    key, leaf, others = pkcs12.load_key_and_certificates(data, passphrase)
    assert key.public_key() == leaf.public_key()
    assert others == [authority.certificates["devices"], authority.root]
    with pytest.raises(ValueError, match="assword"):
        pkcs12.load_key_and_certificates(data, b"wrong")
    assert b"\x60\x86\x48\x01\x65\x03\x04\x01\x2a" in data  # aes256-CBC
    with pytest.raises(RefusedError) as caught:
        provision(site.open(), listed(f"{camera(1)},,"), Setting(out))
    assert caught.value.code == "identity.provision.other"


def test_passphrase_of_the_users_choice(site, listed, out):
    path = listed(f"{camera(1)},,")
    done = provision(site.open(), path, Setting(out, passphrase=b"four words and more"))
    assert done.passphrase_file is None
    assert not (out / "passphrase.txt").exists()
    data = deliveries(out)[f"{camera(1)}.camera.pem"].read_bytes()
    assert serialization.load_pem_private_key(data, b"four words and more")
    with pytest.raises(UsageError) as caught:
        provision(site.open(), path, Setting(out, passphrase=b"another"))
    assert caught.value.code == "identity.provision.passphrase"
    with pytest.raises(UsageError) as caught:
        provision(site.open(), path, Setting(out))
    assert caught.value.code == "identity.provision.passphrase"


def test_folder_of_another_list_and_nothing_to_resume(site, listed, out):
    provision(site.open(), listed(f"{camera(1)},,"), Setting(out))
    with pytest.raises(RefusedError) as caught:
        provision(site.open(), listed(f"{camera(2)},,", name="other.csv"), Setting(out))
    assert caught.value.code == "identity.provision.other"
    with pytest.raises(UsageError) as caught:
        provision(site.open(), listed(f"{camera(2)},,", name="other.csv"), Setting(out / "new", resume=True))
    assert caught.value.code == "identity.provision.resume"


def test_active_certificate_stands_in_the_way_unless_replaced(site, listed, out, tmp_path):
    private = ec.generate_private_key(ec.SECP256R1())
    (first,) = site.open().certify([Order(camera(1), "camera", public=private.public_key())])
    done = provision(site.open(), listed(f"{camera(1)},,"), Setting(out))
    assert errors(done) == [(2, "identity.certificate.active")]
    assert sorted(deliveries(out)) == [f"{camera(1)}.media-signing.pem"]  # the other one is delivered
    done = provision(site.open(), listed(f"{camera(1)},,"), Setting(out, replace=True))
    assert (errors(done), done.certificates) == ([], 1)
    assert site.registry.by_serial(first.record.serial).status == "superseded"


def test_revoked_since_it_was_delivered(site, listed, out):
    path = listed(f"{camera(1)},,")
    provision(site.open(), path, Setting(out))
    site.open().revoke(camera(1), "keyCompromise", profile="camera")
    done = provision(site.open(), path, Setting(out))
    assert errors(done) == [(2, "identity.provision.delivered")]
    deliveries(out)[f"{camera(1)}.camera.pem"].unlink()
    done = provision(site.open(), path, Setting(out))
    assert (errors(done), done.issued) == ([], 1)


@pytest.mark.parametrize("step", ["prepare", "_certify", "deliver", "settle"])
@pytest.mark.parametrize("after", [False, True])
def test_power_cut_at_every_step_is_taken_up(site, listed, out, monkeypatch, step, after):  # noqa: PLR0917 - fixtures
    path = listed(*(f"{camera(n)},," for n in range(4)))
    original = getattr(provisioning, step)

    def cut(*args, **kwargs):
        if after:
            original(*args, **kwargs)
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(provisioning, step, cut)
        with pytest.raises(PowerCut):
            provision(site.open(), path, Setting(out))
    rows = {(row.holder, row.profile): row.certificate for row in site.registry.certificates() if row.device}
    done = provision(site.open(), path, Setting(out, resume=True))
    assert done.refused == []
    certificates = [row for row in site.registry.certificates() if row.device]
    assert [row.status for row in certificates] == ["active"] * 8
    for row in certificates:
        assert rows.get((row.holder, row.profile), row.certificate) == row.certificate
        assert x509.load_der_x509_certificate(row.certificate) in x509.load_pem_x509_certificates(
            deliveries(out)[f"{row.holder}.{row.profile}.pem"].read_bytes()
        )
    assert len(deliveries(out)) == 8
    assert site.recorder.kinds.count("certificate.issued") == 2 + 8


def test_ledger_that_refuses_delivers_nothing(site, listed, out, monkeypatch):
    path = listed(f"{camera(1)},,")
    record = site.recorder.record

    def refuse(events):
        if any(event.kind == "certificate.issued" for event in events):
            raise RefusedError("ledger.test", "the ledger refuses")
        return record(events)

    with monkeypatch.context() as patch:
        patch.setattr(site.recorder, "record", refuse)
        with pytest.raises(RefusedError):
            provision(site.open(), path, Setting(out))
    assert deliveries(out) == {}
    assert site.recorder.kinds[-1] == "provision.failed"
    assert provision(site.open(), path, Setting(out)).issued == 2


def test_delivery_that_a_power_cut_emptied_is_made_again(site, listed, out, tmp_path):
    folder = tmp_path / "csr"
    folder.mkdir()
    (folder / f"{camera(1)}.csr").write_bytes(make_csr(ec.generate_private_key(ec.SECP256R1())))
    path = listed(f"{camera(1)},,")
    provision(site.open(), path, Setting(out, requests=folder))
    file = deliveries(out)[f"{camera(1)}.camera.pem"]
    whole = file.read_bytes()
    file.write_bytes(b"")
    done = provision(site.open(), path, Setting(out, requests=folder))
    assert (done.issued, done.certificates, file.read_bytes()) == (0, 1, whole)


def test_two_runs_in_one_folder(site, listed, out, monkeypatch):
    path = listed(f"{camera(1)},,")
    found = []
    original = provisioning.prepare

    def second(*args):
        with pytest.raises(RefusedError) as caught:
            provision(site.open(), path, Setting(out))
        found.append(caught.value.code)
        return original(*args)

    monkeypatch.setattr(provisioning, "prepare", second)
    provision(site.open(), path, Setting(out))
    assert found == ["identity.provision.busy"]


def test_wrong_passphrase_of_the_ca_makes_nothing(site, listed, out):
    with pytest.raises(UsageError):
        provision(site.open(b"wrong"), listed(f"{camera(1)},,"), Setting(out))
    assert not out.exists()


def test_damaged_spool_is_said(site, listed, out, monkeypatch):
    path = listed(f"{camera(1)},,")

    def cut(*args, **kwargs):
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(provisioning, "deliver", cut)
        with pytest.raises(PowerCut):
            provision(site.open(), path, Setting(out))
    (spool,) = (out / ".provision").glob("keys-*")
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    spool.write_bytes(b"\x93broken")
    with pytest.raises(FormatError) as caught:
        provision(site.open(), path, Setting(out))
    assert caught.value.code == "identity.provision.spool"


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lists_of_anything(tmp_path, data):
    path = tmp_path / "fuzz"
    path.write_bytes(data)
    try:
        read_listing(path)
    except SecguardError:
        return


@given(
    st.text(st.sampled_from('gbid,";\t\r\n\0=名1{}:[]'), max_size=120), st.sampled_from(["utf-8", "gb18030", "utf-16"])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lists_of_nearly_csv(tmp_path, text, encoding):
    path = tmp_path / "fuzz"
    path.write_bytes(("gbid,name\n" + text).encode(encoding))
    try:
        listing = read_listing(path)
    except SecguardError:
        return
    assert all(line.gbid for line in listing.lines)


def test_cipher_opens_only_what_is_its_own():
    mine, other = KeyCipher.derive(b"a", 10), KeyCipher.derive(b"b", 10)
    key = generate().private_key()
    sealed = mine.seal(key)
    assert mine.open(sealed).private_numbers() == key.private_numbers()
    assert serialization.load_der_private_key(sealed, b"a").private_numbers() == key.private_numbers()
    for wrong in (sealed[:-1], b"", sealed[:20], b"\x30\x00"):
        with pytest.raises(FormatError):
            mine.open(wrong)
    with pytest.raises(FormatError):
        other.open(sealed)
    assert "key" not in repr(mine)
    assert mine.check() != other.check()


def test_sync_without_syncfs(tmp_path, monkeypatch):
    class Bare:
        def __init__(self, *args, **kwargs):
            pass

    called = []
    monkeypatch.setattr(parcel.ctypes, "CDLL", Bare)
    monkeypatch.setattr(parcel.os, "sync", lambda: called.append(True))
    parcel._sync(tmp_path)
    assert called == [True]
