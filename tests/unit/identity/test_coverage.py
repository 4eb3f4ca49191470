"""The register against the catalog: rates that never flatter, exceptions by name, a signed report."""

import base64
import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import Axis, FormatError, Outcome, rfc3339
from secguard.core.findings import describe
from secguard.identity import DeviceRecord, Request
from secguard.identity.inventory import coverage as module
from secguard.identity.inventory.coverage import compare, per_cent
from secguard.identity.inventory.places import inside, to_gcj02, to_wgs84
from secguard.identity.inventory.policy import Bounds, RegisterPolicy, load_register_policy
from secguard.identity.inventory.rows import Message, Problem, Row, Source
from secguard.identity.inventory.sealed import make_statement, open_statement, seal_statement, verify
from secguard.identity.inventory.show import coverage_report
from secguard.identity.registry.devices import Certified
from secguard.report import write_report
from secguard.trust import read_crls

from .conftest import NOW

BOX = Bounds("WGS-84", box=(118.5, 32.0, 119.0, 32.6))
POLICY = RegisterPolicy(areas={"320116": BOX})
CA = {"devices": (rfc3339(NOW - timedelta(days=9)), rfc3339(NOW + timedelta(days=900)))}
FULL = {"maker": "HA", "model": "M", "site": "S", "longitude": 118.7, "latitude": 32.3, "datum": "WGS-84"}


def gbid(number: int) -> str:
    return f"32011600001320{number:06}"


def catalog(*numbers: int, **values) -> Source:
    rows = [Row(f"c.xml:{n}", {"gbid": gbid(n), "name": f"cam {n}", **values}) for n in numbers]
    return Source("c.xml", "00" * 32, 1, "catalog", rows=rows)


def record(number: int, **values) -> DeviceRecord:
    return DeviceRecord(gbid(number), f"cam {number}", **{**FULL, **values})


def certificate(number: int, *, start: int = -1, end: int = 30, issuer="devices", revoked: int | None = None):
    times = [rfc3339(NOW + timedelta(days=days)) for days in (start, end)]
    since = None if revoked is None else rfc3339(NOW + timedelta(days=revoked))
    status = "active" if revoked is None else "revoked"
    return Certified(gbid(number), issuer, f"{number:x}", "camera", status, *times, since, since and "keyCompromise")


def judged(source, records, certificates=(), policy=POLICY, **values):
    return compare(source, records, certificates, policy, NOW, issuers=CA, **values)


def codes(found) -> dict[str, str]:
    return {item.code: item.where for item in found.verdict.findings}


def test_1000_of_1003_are_99_7_per_cent_and_the_three_are_named():
    found = judged(catalog(*range(1003)), [record(n) for n in range(1000)], [certificate(n) for n in range(1000)])
    for name in module.MEASURES:
        rate = found.rates[name]
        assert (rate.passed, rate.total, per_cent(rate.passed, rate.total)) == (1000, 1003, 99.7)
    assert [item.gbid for item in found.exceptions] == [gbid(1000), gbid(1001), gbid(1002)]
    assert {item.code for item in found.exceptions} == {"identity.coverage.unregistered"}
    assert found.verdict.outcome is Outcome.FAIL
    named = set(codes(found))
    assert named >= {"identity.coverage.complete", "identity.coverage.certified", "identity.coverage.registered"}


def test_all_is_well():
    found = judged(catalog(1, 2), [record(1), record(2)], [certificate(1), certificate(2)])
    assert found.verdict.outcome is Outcome.PASS
    assert not found.verdict.findings


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_rates_are_never_rounded_up(part, whole):
    part = min(part, whole)
    rate = per_cent(part, whole)
    assert (rate == 100.0) == (part == whole)
    assert rate * whole <= part * 100 + 1e-6


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"status": "retired"}, "identity.coverage.retired"),
        ({"maker": ""}, "identity.coverage.incomplete"),
        ({"longitude": None, "latitude": None}, "identity.coverage.unlocated"),
        ({"longitude": 100.0}, "identity.coverage.outside"),
    ],
)
def test_a_record_that_falls_short(change, code):
    found = judged(catalog(1), [record(1, **change)], [certificate(1)])
    assert code in {item.code for item in found.exceptions}
    assert found.verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"end": -0.5}, "identity.coverage.expired"),
        ({"start": 1}, "identity.coverage.early"),
        ({"revoked": -0.5}, "identity.coverage.revoked"),
        ({"issuer": "gone"}, "identity.coverage.issuer"),
        (None, "identity.coverage.uncertified"),
        ({"revoked": 3}, ""),
    ],
)
def test_a_certificate_that_does_not_count(values, code):
    found = judged(catalog(1), [record(1)], [] if values is None else [certificate(1, **values)])
    assert [item.code for item in found.exceptions] == ([code] if code else [])


def test_one_valid_certificate_is_enough():
    both = [certificate(1, end=-0.5), certificate(1), certificate(1, revoked=-0.5)]
    assert judged(catalog(1), [record(1)], both).verdict.outcome is Outcome.PASS


def test_ghosts_and_duplicates_do_not_decide_unless_asked():
    source = catalog(1)
    source.rows.append(Row("c.xml:9", {"gbid": gbid(1), "name": "another"}))
    found = judged(source, [record(1), record(2), record(3, status="retired")], [certificate(1)])
    assert codes(found) == {"identity.coverage.ghost": gbid(2), "identity.coverage.duplicate": gbid(1)}
    assert found.ghosts == 1
    assert found.verdict.axes == {Axis.COVERAGE: Outcome.PASS, Axis.CONFORMANCE: Outcome.FAIL}
    assert found.verdict.outcome is Outcome.PASS
    strict = judged(source, [record(1)], [certificate(1)], require=[Axis.COVERAGE, Axis.CONFORMANCE])
    assert strict.verdict.outcome is Outcome.FAIL
    assert {"identity.coverage.ghost", "identity.coverage.duplicate"} == {item.code for item in found.exceptions}


def test_what_cannot_be_known_is_not_passed():
    assert judged(catalog(1), [record(1)], [certificate(1)], RegisterPolicy()).verdict.outcome is Outcome.UNKNOWN
    found = judged(catalog(1, 2), [record(1), record(2)], [certificate(1), certificate(2)], RegisterPolicy())
    assert codes(found) == {"identity.coverage.located": "located", "identity.coverage.no-bounds": "320116"}
    assert "identity.coverage.no-bounds" in {item.code for item in found.exceptions}
    edge = record(1, longitude=118.5001, latitude=32.3, datum="")
    found = judged(catalog(1), [edge], [certificate(1)])
    assert [item.code for item in found.exceptions] == ["identity.coverage.datum"]
    assert found.verdict.outcome is Outcome.UNKNOWN


def test_a_catalog_that_is_not_whole_is_unknown():
    source = catalog(1)
    source.messages = [Message("c.xml:1", "p", "17", total=2, claimed=1, items=1)]
    found = judged(source, [record(1)], [certificate(1)])
    assert (list(codes(found)), found.verdict.outcome) == (["identity.coverage.cut"], Outcome.UNKNOWN)
    source = catalog(1)
    source.problems = [Problem("c.xml:7", "", "identity.import.xml", "not XML")]
    assert codes(judged(source, [record(1)], [certificate(1)])) == {"identity.coverage.unreadable": "c.xml:7"}
    source = catalog(1)
    source.rows.append(Row("c.xml:8", {"gbid": "32x", "name": "what"}))
    found = judged(source, [record(1)], [certificate(1)])
    assert (list(codes(found)), found.verdict.outcome) == (["identity.coverage.not-an-id"], Outcome.UNKNOWN)
    found = judged(catalog(), [record(1)])
    assert "identity.coverage.empty" in {item.code for item in found.verdict.findings}
    assert found.verdict.outcome is Outcome.UNKNOWN


def test_a_target_below_100():
    certificates = [certificate(n) for n in range(9)]
    found = judged(catalog(*range(10)), [record(n) for n in range(9)], certificates, target=90.0)
    assert found.verdict.outcome is Outcome.PASS
    assert codes(found) == {"identity.coverage.unregistered": gbid(9)}
    missed = judged(catalog(*range(10)), [record(n) for n in range(9)], certificates, target=90.1)
    assert missed.verdict.outcome is Outcome.FAIL
    (told, *_) = (item for item in missed.verdict.findings if item.code == "identity.coverage.registered")
    assert "90.0 % (9 of 10" in describe(told, "en")
    assert "已登记：90.0%" in describe(told, "zh")


def test_only_the_area_and_the_types_that_count():
    source = catalog(1, 2)
    for other in ("32011700001320000001", "32011600001340000001", "320116", "32011600002000000001"):
        source.rows.append(Row("c.xml:5", {"gbid": other, "name": "x"}))
    found = judged(source, [record(1), record(2)], [certificate(1), certificate(2)], area="320116")
    assert found.entries == 2
    assert dict(found.skipped) == {"alarm": 1, "directory": 1, "server": 1}
    assert set(found.areas) == {"320116"}
    assert judged(source, []).entries == 3


def test_many_exceptions_are_listed_in_full_and_named_in_part(monkeypatch):
    monkeypatch.setattr(module, "MAX_NAMED", 5)
    found = judged(catalog(*range(20)), [])
    assert len(found.exceptions) == 20
    named = [item for item in found.verdict.findings if item.code == "identity.coverage.unregistered"]
    (more,) = (item for item in found.verdict.findings if item.code == "identity.coverage.more")
    assert (len(named), more.data["count"]) == (5, 20)


def test_the_state_of_the_register_is_bound():
    one = judged(catalog(1), [record(1)], [certificate(1)]).registry
    assert one == judged(catalog(1), [record(1)], [certificate(1)]).registry
    assert one != judged(catalog(1), [record(1, site="T")], [certificate(1)]).registry
    assert one != judged(catalog(1), [record(1)], []).registry


def test_datums():
    # a well-known pair: Tiananmen in WGS-84 and on a Chinese web map, to about 5 m
    east, north = to_gcj02(116.3912757, 39.906217)
    assert (east, north) == (pytest.approx(116.3975, abs=1e-4), pytest.approx(39.9076, abs=1e-4))
    assert to_wgs84(east, north) == (pytest.approx(116.3912757, abs=1e-7), pytest.approx(39.906217, abs=1e-7))
    assert to_gcj02(2.35, 48.85) == (2.35, 48.85)


@given(st.floats(75, 134), st.floats(4, 53))
def test_the_way_back_from_gcj02(longitude, latitude):
    assert to_wgs84(*to_gcj02(longitude, latitude)) == (
        pytest.approx(longitude, abs=1e-6),
        pytest.approx(latitude, abs=1e-6),
    )


def test_inside_a_polygon():
    bounds = Bounds("CGCS2000", polygon=((0, 0), (4, 0), (4, 4), (2, 1), (0, 4)))
    expected = {(1, 1): Outcome.PASS, (2, 3): Outcome.FAIL, (3.5, 2): Outcome.PASS, (5, 1): Outcome.FAIL}
    assert {point: inside(bounds, *point, "WGS-84") for point in expected} == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("register: 2", "`$.register`"),
        ("register: 1\nmandatroy: [name]", "mandatroy"),
        ("register: 1\nmandatory: [nam]", "nam"),
        ('register: 1\nareas: {"320116": {datum: WGS-84}}', "box or a polygon"),
        ('register: 1\nareas: {"3201x": {datum: WGS-84, box: [1, 1, 2, 2]}}', "area code"),
        ('register: 1\nareas: {"3201": {datum: WGS-84, box: [2, 1, 1, 2]}}', "west"),
        ('register: 1\nareas: {"3201": {datum: WGS-84, polygon: [[1, 1], [2, 2]]}}', "three"),
        ('register: 1\nareas: {"3201": {datum: WGS-84, box: [1, 1, 2, .inf]}}', "degrees"),
        ("register: 1\ntarget: 101", "target"),
        ("register: 1\ndigest: x", "digest"),
        ("register: &a 1", "alias"),
    ],
)
def test_a_policy_with_a_mistake(tmp_path, text, told):
    path = tmp_path / "register.yaml"
    path.write_text(text)
    with pytest.raises(FormatError) as caught:
        load_register_policy(path)
    assert told in str(caught.value) or told in caught.value.code
    assert ":" in caught.value.where


def test_the_policy_of_the_repository_is_the_default():
    shipped = load_register_policy(Path(__file__).parents[3] / "policies" / "register.yaml")
    assert shipped.digest
    default = RegisterPolicy(digest=shipped.digest)
    assert shipped == default
    assert load_register_policy(Path("/nowhere/register.yaml")) == RegisterPolicy()


@pytest.fixture
def signed(site):
    authority = site.open()
    found = judged(catalog(1, 2), [record(1)], [])
    signer, chain = authority.operator_signer()
    statement = make_statement(
        found, [catalog()], POLICY, made=NOW, chain=chain, crls=read_crls([authority.crl_folder])
    )
    return authority, seal_statement(statement, signer)[0]


def test_a_signed_report_needs_the_root_only(signed):
    authority, envelope = signed
    opened = open_statement(envelope)
    assert verify(opened, "r", [authority.root]).outcome is Outcome.PASS
    assert [item.gbid for item in opened.statement.exceptions if item.measure == "registered"] == [gbid(2)]
    good = verify(opened, "r", [authority.root], catalog={"c.xml": "00" * 32})
    other = verify(opened, "r", [authority.root], catalog={"c.xml": "11" * 32})
    assert (good.outcome, other.outcome) == (Outcome.PASS, Outcome.FAIL)
    assert [item.code for item in other.findings] == ["identity.coverage.catalog-differs"]


def test_a_changed_report_is_found(signed):
    authority, envelope = signed
    document = json.loads(envelope)
    payload = json.loads(base64.b64decode(document["payload"]))
    payload["entries"] = 3
    document["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    verdict = verify(open_statement(json.dumps(document).encode()), "r", [authority.root])
    assert "identity.coverage.signature" in {item.code for item in verdict.findings}
    assert verdict.outcome is Outcome.FAIL


def test_a_device_cannot_sign_it(site, signed):
    authority, _ = signed
    authority.issue([Request(gbid(1), "media-signing")])
    signer, chain = authority.device_signer(gbid(1))
    found = judged(catalog(1), [record(1)], [])
    statement = make_statement(
        found, [catalog()], POLICY, made=NOW, chain=chain, crls=read_crls([authority.crl_folder])
    )
    verdict = verify(open_statement(seal_statement(statement, signer)[0]), "r", [authority.root])
    assert verdict.axes[Axis.PROVENANCE] is Outcome.FAIL


@given(st.binary(max_size=200))
def test_noise_is_no_report(data):
    with pytest.raises(FormatError):
        open_statement(data)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_report_names_the_exceptions(tmp_path, lang):
    source = catalog(1, 2, 3)
    source.rows[0].values["name"] = "<script>"
    source.rows.append(Row("c.xml:8", {"gbid": "=cmd", "name": "=cmd"}))
    found = judged(source, [record(3, maker=""), record(7)], [certificate(3, end=-0.5)])
    for suffix in (".html", ".csv"):
        path = tmp_path / f"r{suffix}"
        write_report(path, coverage_report(found, [source], "2022"), lang)
        text = path.read_text(encoding="utf-8-sig")
        for number in (1, 2, 3, 7):
            assert gbid(number) in text
        assert "33.3" in text
        assert ("目录登记率" if lang == "zh" else "of the catalog is registered") in text
        if suffix == ".html":
            assert "<script" not in text
        else:
            assert "\n=cmd" not in text
