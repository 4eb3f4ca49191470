"""Lists as platforms and spreadsheets really write them."""

import pytest

from secguard.core import Outcome
from secguard.identity import DeviceRecord
from secguard.identity.inventory.coverage import compare
from secguard.identity.inventory.importing import import_devices
from secguard.identity.inventory.policy import RegisterPolicy
from secguard.identity.inventory.read import read_list
from secguard.identity.inventory.rows import Row, Source

from .conftest import NOW
from .test_inventory import make_register


@pytest.fixture
def register(empty_site):
    return make_register(empty_site)


def gbid(number: int, kind: str = "132") -> str:
    return f"3201160000{kind}0{number:06}"


def item(number: int, kind: str = "132", **values: str) -> str:
    told = {"DeviceID": gbid(number, kind), "Name": "南京市江浦街道", "Manufacturer": "Hikvision", **values}
    return f"<Item>{''.join(f'<{name}>{text}</{name}>' for name, text in told.items())}</Item>\n"


def message(*items: str, total: int | None = None) -> str:
    return (
        '<?xml version="1.0" encoding="GB2312"?>\n<Response><CmdType>Catalog</CmdType><SN>7</SN>'
        f"<DeviceID>{gbid(1, '200')}</DeviceID><SumNum>{len(items) if total is None else total}</SumNum>"
        f'<DeviceList Num="{len(items)}">\n{"".join(items)}</DeviceList></Response>\n'
    )


def read(tmp_path, data: bytes, name: str = "list"):
    (tmp_path / name).write_bytes(data)
    return read_list(tmp_path / name)


@pytest.mark.parametrize("declared", ["GB2312", "UTF-8"])
def test_one_broken_character_does_not_change_the_encoding(tmp_path, declared):
    text = message(*(item(n) for n in range(20))).replace("GB2312", declared)
    data = text.encode().replace("街道</Name>".encode(), "街道".encode()[:-1] + b"</Name>", 1)
    source = read(tmp_path, data)
    assert source.encoding == "utf-8"
    assert source.rows[0].values["name"] == "南京市江浦街\ufffd"
    assert source.rows[1].values["name"] == "南京市江浦街道"


def test_one_broken_cell_of_a_spreadsheet_costs_one_row(register, tmp_path):
    lines = [f"{gbid(n)},南京市江浦街道".encode() for n in range(20)]
    plan = import_devices(register, read(tmp_path, b"gbid,name\n" + b"\n".join([*lines[:-1], lines[-1][:-1]])))
    assert [problem.gbid for problem in plan.problems] == [gbid(19)]


def test_a_message_that_was_sent_again_hides_no_missing_page(tmp_path):
    pages = [message(item(n), total=5) for n in (1, 2, 3, 4, 4)]
    source = read(tmp_path, "".join(pages).encode("gb18030"))
    found = compare(source, [], [], RegisterPolicy(), NOW, issuers={})
    cut = [one for one in found.verdict.findings if one.code == "identity.coverage.cut"]
    assert [(one.data["claimed"], one.data["found"]) for one in cut] == [(5, 4)]


def test_a_device_in_two_directories_is_one_device(register, tmp_path):
    data = message(item(1, ParentID=gbid(1, "215")), item(1, ParentID=gbid(2, "215"))).encode("gb18030")
    plan = import_devices(register, read(tmp_path, data))
    assert (len(plan.new), plan.repeated, plan.problems) == (1, 1, [])
    found = compare(plan.source, [], [], RegisterPolicy(), NOW, issuers={})
    assert not [why for why in found.exceptions if why.code == "identity.coverage.duplicate"]


def test_a_catalog_registers_the_types_of_the_policy_only(register, tmp_path):
    data = message(item(1), item(1, "600"), item(2, "134")).encode("gb18030")
    plan = import_devices(register, read(tmp_path, data))
    assert [record.gbid for record in plan.new] == [gbid(1)]
    assert sum(plan.skipped.values()) == 2


@pytest.mark.parametrize(("target", "passed", "total"), [(16.1, 161, 1000), (1.1, 11, 1000), (99.7, 997, 1000)])
def test_a_target_is_reached_at_its_very_edge(target, passed, total):
    rows = [Row(f"c:{n}", {"gbid": gbid(n)}) for n in range(total)]
    source = Source("c", "00" * 32, 1, "catalog", rows=rows)
    policy = RegisterPolicy(measures=("registered",))
    for count, outcome in ((passed, Outcome.PASS), (passed - 1, Outcome.FAIL)):
        records = [DeviceRecord(gbid(n)) for n in range(count)]
        found = compare(source, records, [], policy, NOW, issuers={}, target=target)
        assert found.verdict.outcome is outcome


def test_a_target_that_floating_point_misses():
    rows = [Row(f"c:{n}", {"gbid": gbid(n)}) for n in range(3000)]
    source = Source("c", "00" * 32, 1, "catalog", rows=rows)
    assert 33 * 100 < 1.1 * 3000  # so the figures as people wrote them decide
    records = [DeviceRecord(gbid(n)) for n in range(33)]
    policy = RegisterPolicy(measures=("registered",))
    assert compare(source, records, [], policy, NOW, issuers={}, target=1.1).verdict.outcome is Outcome.PASS


def test_ids_that_other_programs_wrote_for_spreadsheets(tmp_path):
    source = read(tmp_path, f'设备编码,经度(°),纬度(°)\n="{gbid(1)}",118.7,32.3\n"=""{gbid(2)}""",1,2\n'.encode())
    assert [row.values["gbid"] for row in source.rows] == [gbid(1), gbid(2)]
    assert source.rows[0].values["longitude"] == "118.7"


def test_a_platforms_own_answer_in_json(register, tmp_path):
    inner = f'[{{"gbDeviceId":"{gbid(1)}","gbName":"东门","gbManufacturer":"Hik","status":true}}]'
    plan = import_devices(register, read(tmp_path, f'{{"code":0,"data":{{"total":1,"list":{inner}}}}}'.encode()))
    assert [(one.gbid, one.name, one.maker, one.status) for one in plan.new] == [(gbid(1), "东门", "Hik", "registered")]


def test_a_key_named_twice_is_refused(tmp_path):
    source = read(tmp_path, f'[{{"gbid":"{gbid(1)}","gbid":"{gbid(2)}"}}]'.encode())
    assert not source.rows
    assert "names a key twice" in source.problems[0].reason


def test_exchanged_coordinates_are_called_so(register, tmp_path):
    plan = import_devices(register, read(tmp_path, f"gbid,longitude,latitude\n{gbid(1)},32.3,118.7\n".encode()))
    assert "exchanged" in plan.problems[0].reason
