"""The platform's GB/T 28181 catalog: what stands in it, and how it comes."""

from collections import Counter
from pathlib import Path

import pytest

from secguard.identity.inventory.kinds import Kind, kind_of
from secguard.identity.inventory.read import merge, read_list
from secguard.identity.inventory.text import find_encoding

VECTORS = Path(__file__).parents[2] / "vectors" / "catalog"
CITY = VECTORS / "city.xml"


def test_an_answer_in_gb2312():
    source = read_list(CITY)
    assert not source.problems
    assert (source.format, source.encoding) == ("catalog", "gb18030")
    kinds = Counter(kind_of(row.values["gbid"]) for row in source.rows)
    assert kinds == {Kind.DIRECTORY: 3, Kind.SERVER: 1, Kind.DEVICE: 4, Kind.ALARM: 1}
    recorder, camera, _, crossing, _ = source.rows[4:]
    assert recorder.values["mac"] == "3C-E3-6B-00-00-01"
    assert recorder.values["name"] == "东门硬盘录像机"
    assert camera.values["vendor_serial"] == "HA20260001"
    assert camera.values["site"] == "长江路1号"
    assert camera.values["parent"].endswith("32011600001180000001")
    assert crossing.values["name"] == "长江路&中山路口"


def test_passwords_are_not_kept():
    assert "secret-of-the-camera" in CITY.read_bytes().decode("gb2312")
    assert "secret-of-the-camera" not in str(read_list(CITY).rows)


def test_rows_know_their_line():
    source = read_list(CITY)
    lines = CITY.read_bytes().splitlines()
    for row in source.rows:
        number = int(row.where.rpartition(":")[2])
        assert lines[number - 1] == b"<Item>"
        assert row.values["gbid"].encode() in lines[number]


def test_pages_of_one_answer_in_one_file():
    source = read_list(VECTORS / "pages.xml")
    assert [row.values["name"] for row in source.rows] == ["北门一", "北门二", "北门三号摄像机"]
    assert [(m.total, m.claimed, m.items) for m in source.messages] == [(3, 2, 2), (3, 1, 1)]
    assert "is UTF-8" in " ".join(source.notes)
    lines = (VECTORS / "pages.xml").read_bytes().splitlines()
    assert all(lines[int(row.where.rpartition(":")[2]) - 1] == b"<Item>" for row in source.rows)


def test_pages_in_many_files(tmp_path):
    both = (VECTORS / "pages.xml").read_bytes()
    cut = both.index(b"</Response>") + len(b"</Response>\n")
    for name, part in (("1.xml", both[:cut]), ("2.xml", both[cut:])):
        (tmp_path / name).write_bytes(part)
    source = merge([read_list(tmp_path / "1.xml"), read_list(tmp_path / "2.xml")])
    assert len(source.rows) == 3
    assert source.format == "catalog"


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("declared", ['<?xml version="1.0" encoding="GB2312"?>', '<?xml version="1.0"?>', ""])
def test_every_encoding_declared_or_not(tmp_path, encoding, declared):
    text = CITY.read_bytes().decode("gb2312").partition("\n")[2]
    (tmp_path / "c.xml").write_bytes(f"\n \n{declared}\n{text}".lstrip("\n ").encode(encoding))
    source = read_list(tmp_path / "c.xml")
    assert not source.problems
    assert source.rows[5].values["name"] == "东门枪机"


def test_a_short_name_in_gb2312_is_not_taken_for_utf8():
    data = "<Name>\u8054\u901a</Name>".encode("gb2312")  # the pair that fooled an editor
    assert find_encoding(data, "GB2312").codec == "gb18030"
    assert find_encoding("<Name>\u8def\u53e3</Name>".encode(), "GB2312").codec == "utf-8"


def test_prefixes_and_case_do_not_matter(tmp_path):
    text = (
        '<gb:response xmlns:gb="urn:gb"><gb:CMDTYPE>catalog</gb:CMDTYPE><gb:DeviceList Num="1">'
        "<gb:Item><gb:deviceid>32011600001320000001</gb:deviceid><!-- x --><Name><![CDATA[a<b]]></Name></gb:Item>"
        "</gb:DeviceList></gb:response>"
    )
    (tmp_path / "c.xml").write_text(text)
    source = read_list(tmp_path / "c.xml")
    assert [row.values for row in source.rows] == [{"gbid": "32011600001320000001", "name": "a<b"}]


def test_a_damaged_message_leaves_the_others(tmp_path):
    good = (VECTORS / "cut.xml").read_bytes()
    (tmp_path / "c.xml").write_bytes(good + b"<Response><CmdType>Catalog</CmdType><Item></Response>\n" + good)
    source = read_list(tmp_path / "c.xml")
    assert len(source.rows) == 2
    (problem,) = source.problems
    assert problem.where == f"c.xml:{good.count(bytes([10])) + 1}"


@pytest.mark.parametrize(
    ("gbid", "kind"),
    [
        ("32", Kind.DIRECTORY),
        ("32011600", Kind.DIRECTORY),
        ("32011600001310000001", Kind.DEVICE),
        ("32011600001110000001", Kind.DEVICE),
        ("32011600001170000001", Kind.ALARM),
        ("32011600001360000001", Kind.PERIPHERAL),
        ("32011600002000000001", Kind.SERVER),
        ("32011600002150000001", Kind.DIRECTORY),
        ("32011600004000000001", Kind.USER),
        ("32011600005000000001", Kind.PLATFORM),
        ("32011600007000000001", Kind.OTHER),
        ("", Kind.OTHER),
        ("3201160000132000000x", Kind.OTHER),
    ],
)
def test_kinds(gbid, kind):
    assert kind_of(gbid) is kind
