"""Reports: what is in them, what is an exception, that asking is recorded, and that no text becomes markup."""

import contextlib
import csv
import io
import re
import xml.dom.minidom
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_kit import say

from secguard.audit.reports import Scope, access_report, gather, render_register, volumes_of
from secguard.core.errors import SecguardError, UsageError
from secguard.events import Actor, Result
from secguard.report.html import render_html
from secguard.report.tables import render_csv

CAMERA = "32011600001310000001"
CHINA = timezone(timedelta(hours=8))


@pytest.fixture
def filled(log, make):
    at = datetime(2026, 10, 7, 16, 30, tzinfo=UTC)  # the 8th in China
    justified = {"case": "案1", "approver": "赵局"}
    li = Actor(name="李四", org="治安大队")
    log.record(
        [
            make(1, kind="video.viewed", time=at, **justified),
            make(
                2,
                kind="video.exported",
                time=at,
                actor=li,
                case="案1",
                data={"recipient": "技侦", "files": [{"name": "=x.mp4"}]},
            ),
            make(
                3,
                kind="video.played",
                time=at + timedelta(days=2),
                data={"start": "2026-10-01T08:00:00+08:00", "end": "2026-10-01T09:00:00+08:00"},
            ),
            make(4, kind="video.downloaded", time=at, subject="folder", data={"camera": CAMERA}, **justified),
            make(5, kind="video.exported", time=at, outcome=Result.DENIED),
            make(6, kind="user.logged-in", time=at),
            make(7, kind="video.viewed", time=at, subject="32011600001310000002", **justified),
            make(8, kind="video.viewed", time=at - timedelta(days=60), **justified),
            make(9, kind="video.viewed", time=at, subject="elsewhere", reason=f"near {CAMERA}", **justified),
        ]
    )
    return log


def test_a_report_on_a_camera(filled, index, clock, auditor) -> None:
    scope = Scope(camera=CAMERA, period="2026-10", zone=CHINA)
    found = gather(scope, index, filled, clock, auditor, case="内审1", reason="季度审计")
    assert [row.event.id for row in found.rows] == ["e-1", "e-2", "e-4", "e-5", "e-3"], "by subject and by data.camera"
    assert [(row.event.id, row.missing) for row in found.exceptions] == [
        ("e-2", ("approver",)),
        ("e-3", ("case", "approver")),
    ], "what was denied needs no approval"
    assert dict(found.by_kind()) == {"video.viewed": 1, "video.exported": 2, "video.downloaded": 1, "video.played": 1}
    assert {day.isoformat(): counts.total() for day, counts in found.by_day().items()} == {
        "2026-10-08": 4,
        "2026-10-09": 0,
        "2026-10-10": 1,
    }, "days are those of the zone"
    assert found.by_actor()["李四"] == {"taken": 1, "missing": 1}
    asked = filled.event(found.recorded)
    assert (asked.kind, asked.subject, asked.case, asked.reason) == ("audit.reported", CAMERA, "内审1", "季度审计")
    assert (asked.data["total"], asked.data["exceptions"]) == (5, 2)
    assert gather(scope, index, filled, clock, auditor).findings == (), "the record is no part of the next report"


def test_reports_on_a_person_a_case_and_a_range(filled, index, clock, auditor) -> None:
    def names(**scope: str) -> list[str]:
        return [row.event.id for row in gather(Scope(**scope), index, filled, clock, auditor).rows]

    assert names(actor="李四") == ["e-2"]
    assert names(case="案1", period="2026-10-07") == ["e-1", "e-2", "e-4", "e-7", "e-9"]
    assert names(period="2026-08-01..2026-09-30") == ["e-8"]
    assert names(query="outcome:denied") == ["e-5"]
    assert names(actor='x" OR kind:*') == [], "a name is a name, no query"
    for scope in (
        {},
        {"period": "yesterday-ish"},
        {"period": "2026 OR kind:*"},
        {"period": "2026-10.."},
        {"period": "2026-10..2026-09"},
        {"query": "a:("},
        {"query": "a) OR (kind:user.logged-in"},
    ):
        with pytest.raises(UsageError):
            names(**scope)


def test_what_the_index_made_up_is_not_in_the_report(filled, index, clock, auditor) -> None:
    gather(Scope(actor="李四"), index, filled, clock, auditor)
    (place,) = index._db.execute("SELECT seq FROM event WHERE id = 'e-1'").fetchone()
    say(index._db, place, "actor", "李四")
    found = gather(Scope(actor="李四"), index, filled, clock, auditor)
    assert [row.event.id for row in found.rows] == ["e-2"]
    assert [item.code for item in found.findings] == ["audit.index.altered"]


def test_documents(filled, index, clock, auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gather(Scope(camera=CAMERA, zone=CHINA), index, filled, clock, auditor)
    report = access_report(found)
    for lang in ("en", "zh"):
        page = render_html(report, lang)
        assert page.count('<svg class="plot lines"') == 1
        assert CAMERA in page
        rows = list(csv.reader(io.StringIO(render_csv(report, lang).lstrip("\ufeff"))))
        assert sum("李四" in row for row in rows) == 3, "by person, as an exception, and among all"
    assert "2026-10-01 08:00:00 – 09:00:00" in render_html(report, "zh")
    register = render_register(found, "浦口分局", "zh")
    assert "视频图像信息查阅/调取登记表" in register
    assert "@page { size: A4 landscape" in register
    assert register.count('class="who"') == 1 + 6, "watched, searched, taken: head and rows"
    assert register.count("missing") - register.count("td.missing") == 3
    empty = gather(Scope(actor="nobody"), index, filled, clock, auditor)
    monkeypatch.setattr("secguard.audit.reports.register.VOLUME", 4)
    volumes = [render_register(found, "浦口分局", "zh", volume) for volume in range(1, volumes_of(found) + 1)]
    numbers = [re.findall(r'<td class="no">(\d+)', volume) for volume in volumes]
    assert numbers == [["1", "2", "3", "4"], ["5", "6"]]
    assert "<b>分册</b>2 / 2" in volumes[1]
    assert "期间无查阅、调取记录" in render_register(empty, "x", "zh")
    assert "Nothing was viewed" in render_register(empty, "x", "en")
    assert render_html(access_report(empty), "zh")


@settings(max_examples=30)
@given(st.text(max_size=40))
def test_no_text_becomes_markup(text: str) -> None:
    """Every field of an event, and the names around it, in page and register."""
    from secguard.audit.reports.accesses import Accesses, _access
    from secguard.events import Event

    hostile = f'<script>"&{text}'
    event = Event(
        id="e",
        kind="video.exported",
        time=datetime(2026, 10, 1, tzinfo=UTC),
        actor=Actor(name=hostile, org=hostile),
        subject=hostile,
        case=hostile,
        approver=hostile,
        reason=hostile,
        data={"recipient": hostile, "files": [{"name": hostile}]},
    )
    checkpoint = {"origin": "x/}</style><script>", "size": 1, "root": hostile}
    row = _access(0, event)
    found = Accesses(Scope(camera=hostile), [row], 1, checkpoint, 0, (), 1, datetime(2026, 11, 1, tzinfo=UTC))
    register = render_register(found, hostile, "en")
    assert "<script" not in register
    assert register.count("<style>") == register.count("</style>") == 1
    body = re.sub(r"(?s)^.*?<body>|</body>.*$", "", register)
    xml.dom.minidom.parseString(f"<r>{body}</r>".encode())
    assert "<script" not in render_html(access_report(found), "en")


@settings(max_examples=60)
@given(
    st.builds(
        Scope,
        camera=st.text(max_size=12),
        actor=st.text(max_size=12),
        period=st.text(max_size=12),
        query=st.text(max_size=12),
    )
)
def test_any_scope_is_a_question_or_refused(scope: Scope) -> None:
    from secguard.audit import parse

    with contextlib.suppress(SecguardError):
        parse(scope.text(), now=datetime(2026, 10, 1, tzinfo=UTC), zone=UTC)
