"""CSV that no spreadsheet runs, JUnit that every XML parser reads, and files written whole or not at all."""

import csv
import errno
import io
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secguard.core import Axis, Finding, Outcome, SystemPartError, UsageError, catalogue
from secguard.report import (
    Bar,
    BarPlot,
    Cell,
    Code,
    Facts,
    Findings,
    LinePlot,
    Matrix,
    Paragraph,
    Proof,
    Proven,
    Report,
    Series,
    Table,
    Text,
    Timeline,
    write_report,
)
from secguard.report.junit import render_junit
from secguard.report.tables import csv_cell, render_csv

NOW = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
CODE = next(iter(catalogue()))


def report(words: str) -> Report:
    both = Text(words, words + "中")
    found = Finding(CODE, Axis.INTEGRITY, Outcome.UNKNOWN, words)
    return Report(
        title=both,
        subject=Code(words),
        outcome=Outcome.FAIL,
        summary=words,
        axes={Axis.INTEGRITY: Outcome.FAIL},
        facts=[(words, words)],
        made=NOW,
        sections=[
            Paragraph([words], title=words),
            Facts(words, [(words, 3)]),
            Table(both, [words, "n"], [[words, -3], [Code(words), None]]),
            Matrix(both, [words], ["b"], {(0, 0): Cell(Outcome.FAIL, words, [words])}),
            Timeline(both, [Bar(words, 0.0, 2.0, None, words)]),
            Findings([found]),
            BarPlot(both, [(words, 2)]),
            LinePlot(both, [Series(words, [(0, 1)])], x_names=[words]),
            Proven([Proof(words, None, words), Proof(words, Outcome.PASS, words)]),
        ],
    )


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\n=1",
        " =1",
        "\u3000=1",
        "＝1",
        "－1",
        "|calc",
        "%0A=1",
        "=cmd|'/C calc'!A0",
    ],
)
def test_formulas_are_made_harmless(text: str) -> None:
    assert csv_cell(text).startswith("'")
    assert csv_cell(Code(text)).startswith("'")


def test_a_carriage_return_is_written_out() -> None:
    assert csv_cell("\r=1") == "<U+000D>=1"


def test_numbers_and_plain_texts_stay() -> None:
    assert csv_cell(-3) == "-3"
    assert csv_cell(2.5) == "2.5"
    assert csv_cell("A-2026-1042") == "A-2026-1042"
    assert csv_cell(None) == ""
    assert csv_cell(NOW) == "2026-11-23 01:30:00 UTC"
    assert csv_cell(Outcome.FAIL, "zh") == "不通过"
    assert csv_cell(Text("a", "甲"), "both") == "a / 甲"


@given(st.text(st.characters(), max_size=20), st.sampled_from(["en", "zh", "both"]))
def test_no_cell_of_any_report_starts_a_formula(words: str, lang: str) -> None:
    text = render_csv(report(words), lang)
    text.encode()
    for row in csv.reader(io.StringIO(text, newline="")):
        for cell in row:
            assert not cell or cell == "-3" or cell[0] not in "=+-@\t\r\n|%＝＋－＠"


def test_a_lone_table_is_plain_csv() -> None:
    rows = [["王小明", 3], ["a,b", None]]
    text = render_csv(Report(title="t", sections=[Table("x", [Text("Actor", "人员"), "n"], rows)]), "zh")
    assert list(csv.reader(io.StringIO(text))) == [["人员", "n"], ["王小明", "3"], ["a,b", ""]]


def test_csv_opens_in_spreadsheets_with_its_chinese(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    write_report(path, report("中文"), "zh")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert "不通过" in path.read_text(encoding="utf-8-sig")


@given(st.text(st.characters(), max_size=30), st.sampled_from(["en", "zh", "both"]))
def test_junit_is_xml_whatever_the_words(words: str, lang: str) -> None:
    ET.fromstring(render_junit(report(words), lang).encode())


def test_junit_counts() -> None:
    root = ET.fromstring(render_junit(report("x")).encode())
    suite = root[0]
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases)
    for tag, name, count in (("failure", "failures", 3), ("error", "errors", 1), ("skipped", "skipped", 2)):
        assert len(suite.findall(f"testcase/{tag}")) == int(suite.attrib[name]) == count
    failed = suite.find("testcase/failure")
    assert failed is not None
    assert failed.attrib["type"] == "axis.integrity"


def test_unknown_never_reads_as_pass() -> None:
    only = Report(title="t", outcome=Outcome.UNKNOWN)
    suite = ET.fromstring(render_junit(only).encode())[0]
    assert suite.attrib["errors"] == "1"


@pytest.mark.parametrize("name", ["r.html", "r.csv", "r.xml", "R.HTML"])
def test_the_suffix_chooses_the_form(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_report(path, report("x"))
    start = {"html": b"<!doctype html>", "csv": b"\xef\xbb\xbf", "xml": b"<?xml"}[path.suffix[1:].lower()]
    assert path.read_bytes().startswith(start)
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_unknown_kind_and_language(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as kind:
        write_report(tmp_path / "r.pdf", report("x"))
    assert kind.value.code == "report.kind"
    with pytest.raises(UsageError) as language:
        write_report(tmp_path / "r.html", report("x"), "de")
    assert language.value.code == "report.language"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.html"
    path.write_text("old")

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("secguard.core.files.os.write", full)
    with pytest.raises(SystemPartError):
        write_report(path, report("x"))
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
