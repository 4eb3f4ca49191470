"""Lists of devices as hostile or careless people write them: never a traceback, never silence."""

import contextlib
import gc
import resource
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secguard.core import FormatError, SecguardError, UsageError
from secguard.identity.inventory.fields import CHINESE, EDITABLE, field_named, guard, parse_field, unguard
from secguard.identity.inventory.read import read_list
from secguard.identity.inventory.rows import MAX_TEXT

VECTORS = Path(__file__).parents[2] / "vectors" / "catalog"
ID = "32011600001320000001"
HEAD = b"gbid,name\r\n"


def read(tmp_path, data: bytes, name="list", **options):
    path = tmp_path / name
    path.write_bytes(data)
    return read_list(path, **options)


def reasons(source) -> str:
    return " ".join(f"{item.where} {item.code} {item.reason}" for item in source.problems)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_in_every_dress(tmp_path, end, encoding, delimiter):
    lines = [["设备编码", "名称"], [ID, f'"长江路{delimiter}""东"""'], ["", ""], [ID[:-1] + "2", "西门"]]
    text = end.decode().join(delimiter.join(line) for line in lines)
    source = read(tmp_path, text.encode(encoding))
    assert not source.problems
    assert [row.values for row in source.rows] == [
        {"gbid": ID, "name": f'长江路{delimiter}"东"'},
        {"gbid": ID[:-1] + "2", "name": "西门"},
    ]
    assert [row.where for row in source.rows] == ["list:2", "list:4"]


def test_a_cell_over_several_lines_does_not_shift_the_line_numbers(tmp_path):
    source = read(tmp_path, HEAD + f'{ID},"a\r\nb"\r\n{ID},c\r\n'.encode())
    assert [(row.where, row.values["name"]) for row in source.rows] == [("list:2", "a\r\nb"), ("list:4", "c")]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"name,model\r\na,b\r\n", "no column holds"),
        (b"gbid,DeviceID\r\n1,2\r\n", "two columns mean gbid"),
        (b"gbid,vendor_serail\r\n1,2\r\n", "unknown column"),
        (b"gbid," + b"x," * 300 + b"\r\n", "columns"),
        (HEAD + ID.encode() + b',"open', "not CSV"),
        (HEAD + ID.encode() + b',"a"b\r\n', "not CSV"),
        (HEAD + ID.encode() + b"," + b"a" * 10_000_000 + b"\r\n", "not CSV"),
        (HEAD + ID.encode() + b',"' + b"a\n" * 5_000_000, "not CSV"),
        (b"x" * 3_000_000, "not CSV"),
        (b"\x00" * 100_000, "no column holds"),
        (b"[" * 100_000, "nested too deep"),
        (b'[{"gbid":' + b'{"a":' * 100_000, "not JSON"),
        (b'[{"gbid":"1"}', "does not end"),
        (b'[{"gbid":"1"} nonsense]', "not JSON"),
        (b'[{"gbid":NaN}]', "not JSON"),
        (b'[{"gbid":' + b"9" * 100_000 + b"}]", "not JSON"),
        (b'{"gbid":"1"', "not JSON"),
        (b'[{"name":"' + b"a" * 10_000_000 + b'"}]', "not JSON"),
        (b"<", "not XML"),
        (b"<a>" * 200_000, "deeper"),
        (b"<Response><CmdType>Catalog</CmdType>" + b"x" * 10_000_000, "more than"),
        (b"<Response><CmdType>Catalog</CmdType><a b='" + b"x" * 10_000_000 + b"'/></Response>", "more than"),
        (b"<Response><CmdType>Catalog</CmdType><DeviceList><Item>" + b"<q/>" * 300_000, "others"),
        (b"<Response><CmdType>Catalog</CmdType><Item><Name>a & b</Name></Item></Response>", "not XML"),
        (b"<Response><CmdType>Keepalive</CmdType></Response>", "no answer to a catalog query"),
        (b"<Notify><CmdType>Catalog</CmdType></Notify>", "notification"),
        (b"<html></html>", "no answer"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><Response/>", "document type"),
        (b"<?xml version='1.0' encoding='utf-7'?><Response>+ADw-</Response>", "no answer"),
        (b"<?xml version='1.0'?><Response>\x00</Response>", "not XML"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_cannot_be_read_is_told(tmp_path, data, told):
    assert told in reasons(read(tmp_path, data))


def test_entities_are_never_expanded(tmp_path):
    began = time.monotonic()
    source = read_list(VECTORS / "laughs.xml")
    assert "document type" in reasons(source)
    assert not source.rows
    assert time.monotonic() - began < 5


def test_memory_stays_bounded(tmp_path):
    """Megabytes of nothing but brackets, tags or cells cost far less than the objects that they could become."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (b"[" + b"[]," * 3_000_000, b"<Response>" + b"<a/>" * 500_000, HEAD + b"," * 9_000_000):
        assert read(tmp_path, data).problems
    gc.collect()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_workbook_is_named_as_one(tmp_path):
    with pytest.raises(FormatError, match="spreadsheet") as caught:
        read(tmp_path, b"PK\x03\x04rest")
    assert caught.value.code == "identity.import.workbook"


def test_an_unknown_encoding_is_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown encoding"):
        read(tmp_path, HEAD, encoding="ebcdic")


def test_bytes_that_are_no_text_cost_only_their_row(tmp_path):
    good = "32011600001320000002,长江路口的摄像机\r\n".encode()
    source = read(tmp_path, HEAD + ID.encode() + b",\xff\xfe\r\n" + good, encoding="utf-8")
    with pytest.raises(UsageError, match="no text"):
        parse_field("name", source.rows[0].values["name"])
    assert source.rows[1].values["name"] == "长江路口的摄像机"


def test_more_cells_than_heads_mean_a_shifted_row(tmp_path):
    source = read(tmp_path, HEAD + ID.encode() + b",a,b\r\n")
    assert "more" in source.rows[0].bad[0][1] or "under" in source.rows[0].bad[0][1]
    assert not read(tmp_path, HEAD + ID.encode() + b",a,,,\r\n").rows[0].bad


def test_a_long_cell_is_a_problem_of_its_row(tmp_path):
    source = read(tmp_path, HEAD + ID.encode() + b"," + b"a" * (MAX_TEXT + 1) + b"\r\n")
    assert source.rows[0].bad[0][0] == "name"


@pytest.mark.parametrize(
    "data",
    [
        b'[{"gbid":"1","name":"a"},{"gbid":"2","name":"b"}]',
        b'{"gbid":"1","name":"a"}\n{"gbid":"2","name":"b"}\n',
        b'\xef\xbb\xbf{"gbid":"1","name":"a"}\r\n\r\n{"gbid":"2","name":"b"}',
        b'{"schema":"x","data":{"total":2,"devices":[{"gbid":"1","name":"a"},{"gbid":"2","name":"b"}],"next":null}}',
    ],
)
def test_json_in_every_dress(tmp_path, data):
    source = read(tmp_path, data)
    assert not source.problems
    assert [row.values for row in source.rows] == [{"gbid": "1", "name": "a"}, {"gbid": "2", "name": "b"}]


def test_json_values_of_other_kinds(tmp_path):
    data = b'[{"gbid":32011600001320000001,"longitude":118.5,"must_sign":true,"mac":null,"name":["a"]},7]'
    source = read(tmp_path, data)
    assert source.rows[0].values == {"gbid": ID, "longitude": "118.5", "must_sign": "true", "mac": ""}
    assert source.rows[0].bad == [("name", "not a text or a number")]
    assert source.rows[1].bad == [("", "not an object")]


@settings(max_examples=60)
@given(st.binary(max_size=400), st.sampled_from(["", "csv", "json", "catalog"]))
def test_noise(tmp_path_factory, data, form):
    path = tmp_path_factory.mktemp("noise") / "f"
    path.write_bytes(data)
    with contextlib.suppress(SecguardError):
        for row in read_list(path, form=form).rows:
            for name, text in row.values.items():
                if name in EDITABLE:
                    with contextlib.suppress(UsageError):
                        parse_field(name, text)


@settings(max_examples=80)
@given(st.data())
def test_a_damaged_catalog(tmp_path_factory, data):
    whole = bytearray((VECTORS / "city.xml").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "drop", "double"])):
            case "flip":
                whole[at] = data.draw(st.integers(0, 255))
            case "cut":
                del whole[at + 1 :]
            case "drop":
                del whole[at : at + 5]
            case "double":
                whole[at:at] = whole[at : at + 60]
        if not whole:
            break
    path = tmp_path_factory.mktemp("damaged") / "c.xml"
    path.write_bytes(bytes(whole) or b" ")
    source = read_list(path, form="catalog")
    assert source.rows or source.problems or source.messages


@given(st.text(max_size=12) | st.text("'=+-@\t\r\n|% 1E.", max_size=6))
def test_guarding_is_undone_exactly(text):
    for numbers in (False, True):
        guarded = guard(text, numbers=numbers)
        assert unguard(guarded) == text or (guarded == text and unguard(text) != text and text.startswith("'"))


@pytest.mark.parametrize("name", sorted(CHINESE))
def test_heads_in_both_languages(name):
    assert field_named(CHINESE[name]) == name
    assert field_named(name.upper()) == name
    assert field_named(name.replace("_", " ")) == name


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("mac", "AA-BB-CC-00-11-22", "aa:bb:cc:00:11:22"),
        ("mac", "aabb.cc00.1122", "aa:bb:cc:00:11:22"),
        ("mac", "AABBCC001122", "aa:bb:cc:00:11:22"),
        ("datum", "gcj02", "GCJ-02"),
        ("datum", "wgs 84", "WGS-84"),
        ("address", "Cam-1.example:0443", "cam-1.example:443"),
        ("address", "[FD00::1]:443", "[fd00::1]:443"),
        ("longitude", " 118.5 ", 118.5),
        ("must_sign", "是", True),
        ("must_sign", "No", False),
        ("status", "在线", ""),
        ("status", "retired", "retired"),
        ("name", " a\tb\r\nc ", "a b c"),
        ("name", "   ", ""),
        ("gbid", f" {ID} ", ID),
    ],
)
def test_texts_become_values(name, text, value):
    assert parse_field(name, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mac", "aa:bb:cc:00:11"),
        ("mac", "aa:bb-cc:00:11:22"),
        ("mac", "00:00:00:00:00:00"),
        ("mac", "ff:ff:ff:ff:ff:ff"),
        ("mac", "01:00:5e:00:00:01"),
        ("address", "长江路1号"),
        ("address", "10.1.1.1"),
        ("address", "10.1.1.1:99999"),
        ("longitude", "181"),
        ("longitude", "1e400"),
        ("longitude", "nan"),
        ("longitude", "1_1.0"),
        ("latitude", "-90.1"),
        ("datum", "Beijing54"),
        ("must_sign", "maybe"),
        ("status", "broken"),
        ("zone", "a b"),
        ("vendor_serial", "DS_1"),
        ("vendor_serial", "序列"),
        ("name", "a\x00b"),
        ("name", "a\x1b[31mb"),
        ("name", "a\u202eb"),
        ("name", "x" * 129),
        ("gbid", "3.20116E+19"),
        ("gbid", "3201160000132000000"),
    ],
)
def test_texts_that_are_no_value(name, text):
    with pytest.raises(UsageError) as caught:
        parse_field(name, text)
    assert caught.value.where
