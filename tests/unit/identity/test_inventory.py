"""Importing, editing and exporting the register: one step or none, and every change recorded."""

from pathlib import Path

import msgspec
import pytest

from secguard.core import RefusedError, UsageError
from secguard.events import Actor
from secguard.identity import DeviceRecord, Request
from secguard.identity.inventory import importing
from secguard.identity.inventory.edit import add_device, retire_device, set_device
from secguard.identity.inventory.export import export_devices
from secguard.identity.inventory.fields import EDITABLE
from secguard.identity.inventory.importing import import_devices
from secguard.identity.inventory.read import read_list
from secguard.identity.inventory.register import Register
from secguard.identity.registry.devices import DeviceFilter

from .conftest import CAMERA

VECTORS = Path(__file__).parents[2] / "vectors" / "catalog"
IDS = [f"3201160000132000000{n}" for n in range(1, 10)]


@pytest.fixture
def register(empty_site):
    return make_register(empty_site)


def make_register(site) -> Register:
    return Register(
        site.state, registry=site.registry, clock=site.clock, recorder=site.recorder, actor=Actor(name="admin")
    )


def source(tmp_path, *lines: str, head="gbid,name,vendor_serial,mac,maker,longitude,latitude,status"):
    path = tmp_path / "list.csv"
    path.write_text("\n".join([head, *lines]), encoding="utf-8")
    return read_list(path)


def gbids(register) -> list[str]:
    return [record.gbid for record in register.registry.devices()]


def test_import_of_a_spreadsheet(register):
    plan = import_devices(register, read_list(VECTORS / "list.csv"), defaults={"datum": "GCJ-02"})
    assert plan.counts == {"new": 2, "changed": 0, "unchanged": 0, "missing": 0, "refused": 0, "skipped": 0}
    assert "联系人" in plan.notes[0]
    first, second = register.registry.devices()
    assert (first.mac, first.longitude, first.datum, first.maker) == ("3c:e3:6b:00:00:02", 118.731204, "GCJ-02", "华安")
    assert second.name == "西门,球机"
    assert second.registered == second.updated == "2026-11-01T12:00:00Z"


def test_import_of_a_catalog_takes_devices_only(register):
    plan = import_devices(register, read_list(VECTORS / "city.xml"), port=443)
    assert plan.counts["new"] == 4
    assert dict(plan.skipped) == {"directory": 3, "server": 1, "alarm": 1}
    recorder, camera, dome, _ = register.registry.devices()
    assert recorder.gbid[10:13] == "118"
    assert camera.address == "10.10.1.1:443"
    assert (dome.longitude, dome.latitude, dome.datum) == (None, None, "")


def test_an_import_is_recorded_with_its_digest(register, empty_site, tmp_path):
    file = source(tmp_path, f"{IDS[0]},a,,,,,,")
    import_devices(register, file, case="2026-7", reason="acceptance")
    imported, registered = empty_site.recorder.events.values()
    assert (imported.kind, registered.kind, registered.subject) == ("devices.imported", "device.registered", IDS[0])
    assert imported.data["sha256"] == file.sha256
    assert (imported.case, imported.reason, imported.data["new"]) == ("2026-7", "acceptance", 1)
    digest = imported.data["changes_sha256"]
    assert (empty_site.state / "imports" / digest[:2] / digest[2:]).read_bytes().startswith(b'{"new":')
    empty_site.recorder.events.clear()
    import_devices(register, source(tmp_path, f"{IDS[0]},b,,,,,,"))
    assert empty_site.recorder.kinds == ["devices.imported", "device.updated"]
    empty_site.recorder.events.clear()
    assert import_devices(register, source(tmp_path, f"{IDS[0]},b,,,,,,")).unchanged == 1
    assert not empty_site.recorder.events


def test_many_changes_are_one_event(register, empty_site, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "MAX_EVENTS", 2)
    import_devices(register, source(tmp_path, *(f"{gbid},,,,,,," for gbid in IDS[:3])))
    assert empty_site.recorder.kinds == ["devices.imported"]


def test_nothing_is_half_imported(register, tmp_path):
    lines = [f"{IDS[0]},good,,,,,,", f"{IDS[1]},bad,,zz,,500,1,", "123,,,,,,,"]
    plan = import_devices(register, source(tmp_path, *lines))
    assert gbids(register) == []
    told = {(item.where, item.field) for item in plan.problems}
    assert told == {("list.csv:3", "mac"), ("list.csv:3", "longitude"), ("list.csv:4", "gbid")}
    assert all(item.code and item.reason and item.hint for item in plan.problems)
    import_devices(register, source(tmp_path, *lines), keep_going=True)
    assert gbids(register) == [IDS[0]]


def test_an_import_that_cannot_be_recorded_did_not_happen(register, empty_site, tmp_path):
    empty_site.recorder.broken = True
    with pytest.raises(RefusedError, match="the ledger refuses"):
        import_devices(register, source(tmp_path, f"{IDS[0]},,,,,,,"))
    assert gbids(register) == []


def test_a_dry_run_tells_and_changes_nothing(register, empty_site, tmp_path):
    import_devices(register, source(tmp_path, *(f"{gbid},a,,,,,," for gbid in IDS[:3])))
    before = register.registry.devices()
    empty_site.recorder.events.clear()
    plan = import_devices(
        register, source(tmp_path, f"{IDS[0]},b,,,,,,", f"{IDS[1]},a,,,,,,", f"{IDS[5]},n,,,,,,"), dry_run=True
    )
    assert [record.gbid for record in plan.new] == [IDS[5]]
    assert [(change.gbid, change.fields) for _, change in plan.changed] == [(IDS[0], {"name": ("a", "b")})]
    assert plan.unchanged == 1
    assert plan.missing == [IDS[2]]
    assert register.registry.devices() == before
    assert not empty_site.recorder.events


@pytest.mark.parametrize(
    ("line", "field", "code"),
    [
        (f"{IDS[0]},x,SN-OTHER,,HA,,,", "vendor_serial", "serial"),
        (f"{IDS[1]},x,SN1,,HA,,,", "vendor_serial", "shared"),
        (f"{IDS[1]},x,,aa:bb:cc:00:00:01,,,,", "mac", "shared"),
        (f"{IDS[2]},x,,,,,,", "status", "retired"),
        (f"{IDS[0]},x,,,,,,retired", "status", "status"),
        (f"{IDS[3]},x,,,,118.5,,", "latitude", "coordinates"),
        (f"{IDS[3]},x,,,,32.3,118.7,", "latitude", "latitude"),
        (f"{IDS[3]},x,,,,32.3,80.5,", "longitude", "coordinates"),
        (f"{IDS[3]},x,,,,0,0,", "longitude", "coordinates"),
        ("99011600001320000001,x,,,,,,", "gbid", ""),
    ],
)
def test_rows_that_contradict_the_register(register, tmp_path, line, field, code):
    import_devices(register, source(tmp_path, f"{IDS[0]},a,SN1,AABBCC000001,HA,,,", f"{IDS[2]},r,,,,,,retired"))
    (problem,) = import_devices(register, source(tmp_path, line)).problems
    assert problem.field == field
    assert problem.code == (f"identity.import.{code}" if code else "gbid.province")
    assert problem.hint


def test_the_same_id_twice_in_a_file(register, tmp_path):
    plan = import_devices(register, source(tmp_path, f"{IDS[0]},a,,,,,,", f"{IDS[0]},b,,,,,,"))
    (problem,) = plan.problems
    assert (problem.where, problem.code) == ("list.csv:3", "identity.import.duplicate")
    assert "list.csv:2" in problem.reason


def test_another_maker_may_use_the_same_serial_number(register, tmp_path):
    plan = import_devices(register, source(tmp_path, f"{IDS[0]},,SN1,,HA,,,", f"{IDS[1]},,SN1,,HB,,,"))
    assert not plan.problems
    assert len(gbids(register)) == 2


def test_a_message_sent_twice_counts_once(register, tmp_path):
    twice = (VECTORS / "pages.xml").read_bytes() * 2
    (tmp_path / "c.xml").write_bytes(twice)
    plan = import_devices(register, read_list(tmp_path / "c.xml"))
    assert (plan.counts["new"], plan.repeated, plan.problems) == (3, 3, [])


def test_a_catalog_cut_short_is_told(register):
    plan = import_devices(register, read_list(VECTORS / "cut.xml"))
    assert any("not whole" in note for note in plan.notes)


HOSTILE = ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", "|x", "%0A", "'=1", "''@", "＝1", "1E5", "00123", "'quoted'"]


@pytest.mark.parametrize("excel", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_an_export_reads_the_same_again(register, tmp_path, suffix, encoding, excel):
    for number, text in enumerate(HOSTILE[:9]):
        fields = {"name": text, "site": HOSTILE[-number], "vendor_serial": f"00{number}", "model": f"{number}E5"}
        place = {"longitude": "118.700001", "latitude": "-0.5", "must_sign": "yes", "mac": f"aabbcc00000{number}"}
        add_device(register, IDS[number], {**fields, **place, "zone": "video", "address": "[fd00::1]:443"})
    path = tmp_path / f"out{suffix}"
    count = export_devices(path, register.registry.devices(), encoding=encoding, lang="zh", excel=excel)
    assert count == 9
    plan = import_devices(register, read_list(path))
    assert (plan.unchanged, plan.problems, plan.changed) == (9, [], [])
    if suffix == ".csv":
        text = path.read_bytes().decode(encoding)
        for line in text.splitlines()[1:]:
            assert not any(cell[:1] in set("=+@|%\t\r＝") for cell in line.replace('"', "").split(","))
            assert line.startswith("'3201") == excel


def test_export_refuses_another_kind_of_file(register, tmp_path):
    with pytest.raises(UsageError, match="unknown kind"):
        export_devices(tmp_path / "x.xlsx", [])


def test_add_set_and_clear(register, empty_site):
    add_device(register, IDS[0], {"name": "东门", "longitude": "118.5", "latitude": "32.1"})
    with pytest.raises(RefusedError, match="is registered"):
        add_device(register, IDS[0], {})
    record, changed = set_device(register, IDS[0], {"name": "西门", "longitude": "", "latitude": ""}, case="7")
    assert changed == {"name": ("东门", "西门"), "longitude": (118.5, None), "latitude": (32.1, None)}
    assert record.longitude is None
    assert empty_site.recorder.kinds == ["device.registered", "device.updated"]
    assert set_device(register, IDS[0], {"name": "西门"})[1] == {}
    assert len(empty_site.recorder.events) == 2
    with pytest.raises(UsageError, match="no latitude"):
        set_device(register, IDS[0], {"longitude": "118"})
    with pytest.raises(UsageError, match="not registered"):
        set_device(register, IDS[1], {"name": "x"})
    with pytest.raises(UsageError, match="cannot be set"):
        set_device(register, IDS[0], {"status": "active"})


def test_one_device_one_record(register):
    add_device(register, IDS[0], {"mac": "aabbcc000001", "vendor_serial": "S1", "maker": "HA"})
    for fields in ({"mac": "AA-BB-CC-00-00-01"}, {"vendor_serial": "S1", "maker": "ha"}):
        with pytest.raises(RefusedError, match=IDS[0]):
            add_device(register, IDS[1], fields)
    retire_device(register, IDS[0], None)
    add_device(register, IDS[1], {"mac": "AA-BB-CC-00-00-01"})
    with pytest.raises(RefusedError, match=IDS[1]):
        set_device(register, IDS[0], {}, status="registered")


@pytest.mark.parametrize(
    ("start", "end", "good"),
    [
        ("issued", "installed", True),
        ("issued", "active", True),
        ("installed", "active", True),
        ("active", "installed", True),
        ("retired", "registered", True),
        ("registered", "active", False),
        ("active", "registered", False),
        ("issued", "retired", False),
        ("retired", "active", False),
    ],
)
def test_status_follows_rules(register, start, end, good):
    with register.registry.transaction():
        register.registry.save([DeviceRecord(IDS[0], status=start)])
    if good:
        assert set_device(register, IDS[0], {}, status=end)[0].status == end
    else:
        with pytest.raises(UsageError, match="cannot become"):
            set_device(register, IDS[0], {}, status=end)


def test_retire_revokes_with_cessation_of_operation(site):
    register, authority = make_register(site), site.open()
    authority.issue([Request(CAMERA, "camera", vendor_serial="S1")])
    with pytest.raises(RefusedError, match="certificates in force"):
        set_device(register, CAMERA, {"vendor_serial": "S2"})
    record, revoked = retire_device(register, CAMERA, authority, case="7")
    assert record.status == "retired"
    assert {row.reason for row in revoked} == {"cessationOfOperation"}
    assert site.recorder.kinds[-1] == "device.retired"
    assert all(row.status == "revoked" for row in site.registry.certificates(CAMERA))
    assert retire_device(register, CAMERA, authority)[1] == []


def test_retire_and_keep_the_certificate(site):
    register, authority = make_register(site), site.open()
    authority.issue([Request(CAMERA, "camera")])
    with pytest.raises(UsageError, match="no CA"):
        retire_device(register, CAMERA, None)
    record, revoked = retire_device(register, CAMERA, None, keep=True)
    assert (record.status, revoked) == ("retired", [])
    assert site.registry.active(CAMERA, "camera") is not None


def test_filters_and_pages(register):
    with register.registry.transaction():
        register.registry.save([
            DeviceRecord(IDS[0], "东门", zone="video", longitude=1.0),
            DeviceRecord(IDS[1], "西门", status="issued"),
            DeviceRecord("32011700001180000001", "录像机", site="东区"),
        ])  # fmt: skip
    find, count = register.registry.find_devices, register.registry.count_devices

    def names(**values):
        chosen = DeviceFilter(**values)
        found = [record.name for record in find(chosen)]
        assert count(chosen) == len(found)
        return found

    assert names(area="320116") == ["东门", "西门"]
    assert names(type_code="118") == ["录像机"]
    assert names(status="issued") == ["西门"]
    assert names(zone="video") == ["东门"]
    assert names(missing=("longitude", "zone")) == ["西门", "录像机"]
    assert names(text="东") == ["东门", "录像机"]
    assert [record.name for record in find(DeviceFilter(), after=IDS[0], limit=1)] == ["西门"]


def test_every_field_can_be_set(register):
    values = {
        "name": "n", "vendor_serial": "s", "mac": "aabbcc000001", "model": "m", "maker": "k", "address": "h:1",
        "site": "p", "longitude": "118", "latitude": "32", "datum": "WGS-84", "zone": "z", "sensitivity": "c",
        "must_sign": "yes",
    }  # fmt: skip
    assert set(values) == set(EDITABLE)
    record = add_device(register, IDS[0], values)
    assert all(msgspec.structs.asdict(record)[name] for name in EDITABLE)
