from datetime import UTC, datetime
from typing import Any

import pytest

from secguard.core import FormatError
from secguard.events import ACCESS_KINDS, Actor, Event, Result, access_of, check_access
from secguard.events.ecs import ecs


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"bytes": "12 MB"}, "data.bytes"),
        ({"bytes": -1}, "data.bytes"),
        ({"hits": 1 << 63}, "data.hits"),
        ({"seconds": -0.5}, "data.seconds"),
        ({"camera": 7}, "data.camera"),
        ({"cameras": ["a"] * 1001}, "data.cameras"),
        ({"files": [{"sha256": "zz"}]}, "data.files[0].sha256"),
        ({"start": "yesterday"}, "data.start"),
        ({"start": "2026-10-01T08:00:00"}, "data.start"),
        ({"start": "2026-10-01T08:00:00+08:00", "end": "2026-10-01T00:00:00-01:00"}, None),
        ({"start": "2026-10-01T08:00:00+08:00", "end": "2026-09-30T23:59:59Z"}, "data.end"),
    ],
)
def test_known_fields_are_held_to_their_types(data: dict[str, Any], place: str | None) -> None:
    if place is None:
        check_access("video.played", data)
        return
    with pytest.raises(FormatError) as caught:
        check_access("video.played", data)
    assert caught.value.code == "events.data"
    assert place in f"{caught.value.message} {caught.value.where}"


def test_what_is_not_known_is_kept_within_bounds() -> None:
    check_access("video.played", {"vendor": {"anything": [1, None]}, **{f"k{n}": n for n in range(255)}})
    check_access("certificate.issued", {"bytes": "not an access"})
    for data in ({f"k{n}": n for n in range(257)}, {"k" * 129: 1}):
        with pytest.raises(FormatError) as caught:
            check_access("log.received", data)
        assert caught.value.code == "events.data.keys"


def test_every_access_is_an_ecs_document() -> None:
    """Categories and types are those that ECS 9 allows together."""
    allowed = {
        "authentication": {"start", "end"},
        "iam": {"change"},
        "configuration": {"change"},
        "file": {"creation", "deletion"},
        "api": {"access"},
    }
    for kind in ACCESS_KINDS:
        for outcome in Result:
            event = Event(
                id="e", kind=kind, time=datetime(2026, 1, 1, tzinfo=UTC), actor=Actor(name="a"), outcome=outcome
            )
            made = ecs(event)["event"]
            assert made["outcome"] in {"success", "failure", "unknown"}
            assert set(made["type"]) - {"denied"} <= allowed[made["category"][0]]
            assert ("denied" in made["type"]) == (outcome is Result.DENIED)


def test_an_export_as_ecs() -> None:
    event = Event(
        id="e-1",
        kind="video.exported",
        time=datetime(2026, 10, 1, 0, 0, 0, 5, tzinfo=UTC),
        actor=Actor(name="张三", role="侦查员", org="刑侦支队", address="10.1.2.3"),
        subject="32011600001310000001",
        case="案2026-7",
        approver="李四",
        reason="侦查",
        data={
            "start": "2026-09-30T08:00:00+08:00",
            "end": "2026-09-30T09:00:00+08:00",
            "bytes": 1 << 40,
            "seconds": 1.5,
            "recipient": "法院",
            "files": [{"name": "a.mp4", "sha256": "AB" * 32, "bytes": 5}],
            "via": {"source": "vms", "received": "2026-10-01T00:00:01Z", "peer": "10.9.9.9"},
        },
    )
    assert access_of(event.data).bytes == 1 << 40
    document = ecs(event)
    assert document["@timestamp"] == "2026-10-01T00:00:00.000005Z"
    assert document["event"] | {"duration": 1_500_000_000, "reason": "侦查", "provider": "vms"} == document["event"]
    assert document["file"] == {"name": "a.mp4", "size": 5, "hash": {"sha256": "ab" * 32}}
    assert document["related"] == {
        "user": ["张三", "李四", "法院"],
        "ip": ["10.1.2.3", "10.9.9.9"],
        "hash": ["ab" * 32],
    }
    assert document["source"] == {"address": "10.1.2.3", "ip": "10.1.2.3"}
    assert document["secguard"]["start"] == "2026-09-30T08:00:00+08:00"
    odd = ecs(Event(id="e", kind="video.played", time=event.time, actor=Actor(name="a"), data={"bytes": "x", "via": 1}))
    assert "network" not in odd
