"""`secguard audit report` from the command line."""

import csv
import io
from pathlib import Path


def test_report_csv_page_and_register(site, events, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_bytes(events(200))
    site.run("import", tmp_path / "e.jsonl")
    page, register, table = tmp_path / "r.html", tmp_path / "register.html", tmp_path / "r.csv"
    asked = ("--camera", "32011600001310000002", "--period", "2026-10", "--zone", "+08:00")
    answer = site.ask("report", *asked, "--report", page, "--register", register, "--lang", "zh", "--case", "内审1")
    data = answer["data"]
    assert data["total"] == len(data["accesses"]) == 5
    assert data["exceptions"] == 5, "nobody approved any of them"
    assert {row["subject"] for row in data["accesses"]} == {"32011600001310000002"}
    assert "视频访问审计报告" in page.read_text()
    assert "查阅/调取登记表" in register.read_text()
    site.run("report", *asked, "--report", table)
    rows = list(csv.reader(io.StringIO(table.read_text("utf-8-sig"))))
    assert sum(row[1:2] == ["download"] for row in rows) == 5
    asked_for = site.ask("search", "kind:audit.reported")["data"]["hits"]
    assert [hit.get("case", "") for hit in asked_for] == ["", "内审1"]
    assert site.ask("report", code=2)["error"]["code"] == "audit.report.scope"
    assert site.ask("report", "--period", "2026-10", "--zone", "Mars", code=2)["error"]["code"] == "audit.search.zone"
