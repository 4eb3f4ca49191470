"""The register on the command line: from the platform's catalog to a signed coverage report."""

import json
import shutil
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[2] / "vectors" / "catalog"
CAMERA = "32011600001320000001"


@pytest.fixture
def device(secguard, site):
    def call(*words, code=0):
        done = secguard("identity", "device", *words, "--json", cwd=site)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)

    return call


def catalog(path: Path, count: int) -> Path:
    items = "".join(
        f"<Item><DeviceID>320116000013200{n:05}</DeviceID><Name>路口{n}</Name><Manufacturer>华安</Manufacturer>"
        f"<Model>M</Model><Address>长江路{n}号</Address><Status>ON</Status>"
        f"<Longitude>118.7</Longitude><Latitude>32.3</Latitude></Item>"
        for n in range(count)
    )
    text = (
        '<?xml version="1.0" encoding="GB2312"?>\n<Response><CmdType>Catalog</CmdType><SN>1</SN>'
        f"<DeviceID>32011600002000000001</DeviceID><SumNum>{count}</SumNum>"
        f'<DeviceList Num="{count}">{items}</DeviceList></Response>'
    )
    path.write_bytes(text.encode("gb2312"))
    return path


def test_1003_in_the_catalog_and_1000_in_the_register(device, secguard, site, tmp_path):
    document = device("import", catalog(tmp_path / "a.xml", 1000), "--datum", "WGS-84")
    assert (document["data"]["new"], document["outcome"]) == (1000, None)
    (site / "policies" / "register.yaml").write_text(
        "register: 1\nmeasures: [registered, complete, located]\n"
        'areas:\n  "320116": {datum: GCJ-02, box: [118, 32, 119, 33]}\n'
    )
    whole = catalog(tmp_path / "b.xml", 1003)
    found = device(
        "coverage", "--catalog", whole, "-o", tmp_path / "r.dsse.json", "--report", tmp_path / "r.html", code=1
    )
    three = [f"320116000013200{n:05}" for n in (1000, 1001, 1002)]
    assert found["data"]["registered"] == {"passed": 1000, "unknown": 0, "total": 1003, "percent": 99.7}
    assert found["data"]["located"]["percent"] == 99.7
    assert found["data"]["unregistered"] == three
    assert found["receipt"]
    assert all(gbid in (tmp_path / "r.html").read_text() for gbid in three)
    assert device("coverage", "--catalog", whole, "--target", "99.7")["outcome"] == "pass"

    shutil.copy(site / "certs" / "root.pem", tmp_path)
    words = (
        "identity",
        "device",
        "coverage-verify",
        tmp_path / "r.dsse.json",
        "--root",
        tmp_path / "root.pem",
        "--json",
    )
    done = secguard(*words, "--catalog", whole, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["data"]["stated"]["rates"]["registered"]["passed"] == 1000
    assert secguard(*words, "--catalog", tmp_path / "a.xml", cwd=tmp_path).returncode == 1


def test_a_device_from_entry_to_retirement(device, site):
    device("add", CAMERA, "--name", "东门", "--mac", "AA-BB-CC-00-00-01")
    assert device("set", CAMERA, "--site", "长江路", "--clear", "mac")["data"]["changed"]["mac"][1] == ""
    shown = device("show", CAMERA)["data"]
    assert (shown["site"], shown["status"]) == ("长江路", "registered")
    assert any(part["meaning"] == "Network camera (IPC)" for part in shown["id"])
    listed = device("list", "--missing", "vendor-serial", "--area", "320116")["data"]
    assert [item["gbid"] for item in listed["devices"]] == [CAMERA]
    assert device("retire", CAMERA)["data"]["status"] == "retired"
    assert device("list", "--status", "registered")["data"]["total"] == 0
    error = device("show", "32011600001320000009", code=2)["error"]
    assert (error["code"], error["hint"]) == ("identity.device.unknown", f"did you mean {CAMERA}?")


def test_problems_are_listed_and_written(device, site, tmp_path):
    bad = tmp_path / "list.csv"
    bad.write_text(f"gbid,name,mac\n{CAMERA},=1+1,\n1234,x,\n32011600001320000002,y,zz\n", encoding="utf-8")
    document = device("import", bad, code=1)
    assert [item["where"] for item in document["data"]["problems"]] == ["list.csv:3", "list.csv:4"]
    assert document["data"]["imported"] is False
    assert device("list")["data"]["total"] == 0
    document = device("import", bad, "--keep-going", code=1)
    assert document["data"]["imported"] is True
    assert "list.csv:4" in (tmp_path / "list.csv.errors.csv").read_text(encoding="utf-8-sig")
    device("export", "-o", tmp_path / "out.csv")
    assert ",'=1+1," in (tmp_path / "out.csv").read_text(encoding="utf-8-sig")
    assert device("import", tmp_path / "out.csv")["data"]["unchanged"] == 1


def test_spreadsheets_catalogs_and_traps(device, tmp_path):
    assert device("import", VECTORS / "list.csv", "--dry-run")["data"]["new"] == 2
    assert device("import", VECTORS / "city.xml", "--dry-run")["data"]["new"] == 4
    assert device("import", VECTORS / "laughs.xml", code=1)["data"]["problems"][0]["code"] == "identity.import.xml"
    assert device("import", tmp_path / "none.csv", code=2)["error"]["code"] == "core.file.missing"
    assert device("list")["data"]["total"] == 0
