"""The index on a real Elasticsearch: all arrives once, forgeries and outages show, answers equal SQLite's."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from secguard.audit import ElasticIndex, SqliteIndex, catch_up, compare, parse, reconcile, reindex, row_of, search
from secguard.audit.index.elastic.delivery import name_of
from secguard.audit.index.elastic.documents import document_of
from secguard.core import FixedClock, Outcome, RefusedError, SecguardError, SystemPartError, UsageError
from secguard.events import Actor, Event, encode
from secguard.ledger import Ledger

NOW = datetime(2026, 11, 1, 8, tzinfo=UTC)
_AWAY = 60 if os.environ.get("SECGUARD_TEST_PROFILE") == "nightly" else 0
AUDITOR = Actor(name="auditor")
Make = Callable[..., Sequence[Event]]
Open = Callable[..., ElasticIndex]


def other_ca() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])  # the same name, another key
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(NOW - timedelta(days=99)).not_valid_after(NOW + timedelta(days=9999))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def names(elastic: Any, ledger: Ledger) -> list[str]:
    with elastic.client() as client:
        return sorted(client.indices.get(index=f"secguard-audit-{ledger.origin.replace('/', '-')}-*"))


def test_some_thousand_events_are_found_as_on_sqlite(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make, tmp_path: Path
) -> None:
    ledger.record(events(1200))
    index = open_index()
    assert catch_up(index, ledger) == 1200
    assert index.position == ledger.size
    other = SqliteIndex.open(tmp_path / "audit.db")
    catch_up(other, ledger)
    asked = [
        *(
            "",
            "查",
            "线",
            "录像",
            "张三",
            "监控录",
            "调阅监控录像",
            "li",
            "l*",
            "check",
            "录像1*",
            "reason:查",
            "reason:*",
        ),
        *("case:*", "NOT case:*", "subject:*7 OR actor:李?", "kind:video.download AND NOT (查找 OR 张三)"),
        *("time:2026-10-01", "time>=2026-10-01T00:00:03", "seq:[10 TO 20]", 'actor:"Li Si" 配合', "不存在的词"),
    ]
    found = {}
    for text in asked:
        query = parse(text, now=NOW)
        here, there = (one.find(query, limit=70) for one in (index, other))
        assert (here.total, list(here.seqs), here.next) == (there.total, list(there.seqs), there.next), text
        found[text] = here.total
    assert found[""] == 1200
    assert found["线"] == found["reason:查"] / 3 == 240
    assert found["不存在的词"] == 0
    watched = {"start": "2026-10-01T08:00:00+08:00", "end": "2026-10-01T08:10:00+08:00"}
    ledger.record(events(1, data=watched, actor=Actor(name="王五")))
    catch_up(index, ledger)
    between = [{"range": {"secguard.start": {"lt": "2026-10-01T00:05:00Z"}}},
               {"range": {"secguard.end": {"gt": "2026-10-01T08:05:00+08:00"}}}]  # fmt: skip
    with elastic.client() as client:  # what people ask in Kibana
        (name,) = names(elastic, ledger)
        for asked, count in (
            ({"bool": {"filter": between}}, 1),
            ({"range": {"secguard.bytes": {"gte": 1190}}}, 10),
            ({"term": {"secguard.camera": "32011600001310000007"}}, 24),
            ({"term": {"source.ip": "10.16.0.0/24"}}, 1200),
        ):
            assert client.count(index=name, query=asked)["count"] == count
    other.close()


def test_pages_join_and_do_not_see_what_comes_later(
    ledger: Ledger, open_index: Open, events: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secguard.audit.index.elastic.index._PAGE", 500)
    ledger.record(events(530))
    index = open_index()
    catch_up(index, ledger)
    query = parse("", now=NOW)
    short = index.find(query, limit=3)
    first = index.find(query, limit=510)  # more than one request, in one point in time
    ledger.record(events(10))
    catch_up(index, ledger)
    seen = list(first.seqs)
    cursor = first.next
    while cursor is not None:
        page = index.find(query, limit=25, after=cursor)
        assert page.total == 530
        seen += page.seqs
        cursor = page.next
    assert sorted(seen) == list(range(530))
    large = index.find(query, limit=525, after=short.next)  # from a cursor, in more than one request
    assert list(large.seqs) == seen[3:528]
    assert index.find(query, limit=1).total == 540


def test_one_index_an_epoch_and_a_lost_position_file(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make, tmp_path: Path
) -> None:
    ledger.record(events(25))
    index = open_index(epoch=10)
    catch_up(index, ledger)
    assert [name.rsplit("-", 2)[1:] for name in names(elastic, ledger)] == [["0", f"{n:06d}"] for n in range(3)]
    (tmp_path / "index.json").unlink()
    again = open_index(epoch=10)
    assert (again.position, catch_up(again, ledger)) == (0, 25)  # all are there, and say the same
    assert compare(again, ledger)[:2] == ([], {"missing": 0, "extra": 0, "altered": 0})
    with pytest.raises(SecguardError, match="another version"):
        open_index(epoch=11)


def test_two_processes_index_at_once(
    ledger: Ledger, open_index: Open, events: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secguard.audit.index.following._BATCH", 100)
    ledger.record(events(1500))
    indices = [open_index(), open_index()]
    threads = [threading.Thread(target=catch_up, args=(index, ledger)) for index in indices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert indices[0].position == 1500
    assert indices[0].find(parse("", now=NOW), limit=1).total == 1500


def test_search_verifies_against_the_ledger(elastic: Any, ledger: Ledger, open_index: Open, events: Make) -> None:
    ledger.record(events(20))
    index = open_index()
    clock = FixedClock(NOW)
    page = search("张三", index, ledger, clock, AUDITOR, wait=True)
    assert (page.total, len(page.hits), page.outcome) == (5, 5, Outcome.PASS)
    (name,) = names(elastic, ledger)
    with elastic.client("shipper") as client:  # whoever may add can do this
        client.create(index=name, id="twice", document=document_of(row_of(4, encode(ledger.event(4)), ecs=True)),
                      refresh=True)  # fmt: skip
    page = search("张三", index, ledger, clock, AUDITOR, wait=True)
    assert sorted(hit.index for hit in page.hits) == [0, 4, 8, 12, 16]
    assert [(item.code, item.data["index"]) for item in page.findings] == [("audit.index.extra", 4)]
    assert page.outcome is Outcome.FAIL
    with elastic.client() as client:  # made to be found
        client.update(index=name, id=name_of(ledger.origin, 1), doc={"user": {"name": "赵六"}}, refresh=True)
    page = search("actor:赵六", index, ledger, clock, AUDITOR, wait=True)
    assert page.outcome is Outcome.FAIL
    assert [item.code for item in page.findings] == ["audit.index.altered"]


def test_a_forged_document_put_first_is_an_alarm(elastic: Any, ledger: Ledger, open_index: Open, events: Make) -> None:
    ledger.record(events(5))
    index = open_index()
    catch_up(index, ledger)
    (name,) = names(elastic, ledger)
    with elastic.client("shipper") as client:  # whoever may add can do this
        forged = {"event": {"id": "forged", "sequence": 5}, "user": {"name": "nobody"}}
        client.create(index=name, id=name_of(ledger.origin, 5), document=forged, refresh=True)
    ledger.record(events(3))
    with pytest.raises(RefusedError, match="another document stands where event") as caught:
        catch_up(index, ledger)
    assert caught.value.code == "audit.index.conflict"
    assert index.position == 5
    findings, counts, *_ = compare(index, ledger)
    assert counts["extra"] >= 1
    assert ("audit.index.extra", 5, "forged") in [
        (item.code, item.data.get("index"), item.data.get("id")) for item in findings
    ]
    reindex(index, ledger)
    assert compare(index, ledger)[0] == []
    made = events(1)
    document = document_of(row_of(ledger.size, encode(made[0]), ecs=True))
    document["secguard"]["bytes"] = 1  # all that our own queries ask for is as it should be
    (*_, name) = names(elastic, ledger)
    with elastic.client("shipper") as client:
        client.create(index=name, id=name_of(ledger.origin, ledger.size), document=document, refresh=True)
    ledger.record(made)
    with pytest.raises(RefusedError, match="another document stands where event"):
        catch_up(index, ledger)


def test_reconcile_names_every_change_on_the_server(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make
) -> None:
    ledger.record(events(30))
    index = open_index()
    catch_up(index, ledger)
    (name,) = names(elastic, ledger)
    ids = [ledger.event(place).id for place in range(30)]

    def place(seq: int) -> dict[str, Any]:
        return {"index": name, "id": name_of(ledger.origin, seq), "refresh": True}

    with elastic.client() as client:
        client.update(**place(3), doc={"secguard": {"subject": "32011600001310000099"}})
        client.update(**place(4), doc={"related": {"user": ["somebody"]}})  # fields that queries do not use
        client.update(**place(5), doc={"secguard": {"bytes": 1}})
        client.delete(**place(7))
        source = client.get(index=name, id=name_of(ledger.origin, 9))["_source"]
        client.create(index=name, id="by-hand", document=source, refresh=True)  # doubles event 9
        client.create(index=name, id="far", document={"event": {"id": "far", "sequence": 999}}, refresh=True)
        client.create(index=name, id="none", document={"user": {"name": "x"}}, refresh=True)
        client.delete(**place(12))
        moved = client.get(index=name, id=name_of(ledger.origin, 13))["_source"]
        client.delete(**place(13))
        client.create(index=name, id="moved", document=moved, refresh=True)
    done = reconcile(index, ledger, FixedClock(NOW), AUDITOR)
    assert done.verdict.outcome is Outcome.FAIL
    named = sorted((item.code, item.data["index"], item.data["id"]) for item in done.verdict.findings)
    assert named == [
        ("audit.index.altered", 3, ids[3]),
        ("audit.index.altered", 4, ids[4]),
        ("audit.index.altered", 5, ids[5]),
        ("audit.index.altered", 13, ids[13]),
        ("audit.index.extra", -1, ""),
        ("audit.index.extra", 9, ids[9]),
        ("audit.index.extra", 999, "far"),
        ("audit.index.missing", 7, ids[7]),
        ("audit.index.missing", 12, ids[12]),
    ]
    assert (done.missing, done.extra, done.altered) == (2, 3, 4)
    changed = {item.data["index"]: item.data.get("columns") for item in done.verdict.findings}
    assert (changed[3], changed[4], changed[5]) == ("subject", "related.user", "secguard.bytes")
    assert reindex(index, ledger) == 31
    assert reconcile(index, ledger, FixedClock(NOW), AUDITOR).verdict.outcome is Outcome.PASS


def test_a_deleted_or_remapped_index_is_damage(elastic: Any, ledger: Ledger, open_index: Open, events: Make) -> None:
    ledger.record(events(20))
    index = open_index(epoch=10)
    catch_up(index, ledger)
    first, second = names(elastic, ledger)
    with elastic.client() as client:
        client.indices.delete(index=first)
        client.indices.create(index=first)
        client.indices.delete(index=second)
        client.indices.create(index=second[:-1] + "7", mappings={"dynamic": "false", "properties": {}})
    with elastic.client("shipper") as client, pytest.warns(Warning, match="update mapping"):
        client.indices.put_mapping(index=first, dynamic="true")  # the server's create_doc still allows this
    findings, counts, *_ = compare(index, ledger)
    problems = [item.data["problem"] for item in findings if item.code == "audit.index.damaged"]
    assert problems == [
        f"the index {first} was replaced on the server",
        f"the index {first}: its mapping is not strict",
        f"the index {second} was deleted on the server",
        f"the index {second[:-1]}7 is not ours",
    ]
    assert counts["missing"] == 20
    ledger.record(events(1))
    with pytest.raises(RefusedError, match="replaced on the server"):
        open_index(epoch=10).find(parse("", now=NOW), limit=5)


def test_without_the_template_nothing_is_indexed(elastic: Any, ledger: Ledger, open_index: Open, events: Make) -> None:
    ledger.record(events(3))
    index = open_index()
    wrong = {"event": {"properties": {"sequence": {"type": "long"}, "id": {"type": "text"}}}}
    with elastic.client() as client:  # as an index made without the template would be
        client.indices.create(index=f"{index._stem}-0-000000", mappings={"properties": wrong})
    with pytest.raises(RefusedError, match=r"field event\.id is not mapped as keyword") as caught:
        catch_up(index, ledger)
    assert "index-template.json" in caught.value.hint
    assert index.position == 0


def test_the_shipper_can_only_add(elastic: Any, ledger: Ledger, open_index: Open, events: Make) -> None:
    from elasticsearch import AuthorizationException, ConflictError

    ledger.record(events(5))
    index = open_index("shipper")
    catch_up(index, ledger)
    (name,) = names(elastic, ledger)
    identity = {"index": name, "id": name_of(ledger.origin, 2)}
    for user in ("shipper", "secguard"):
        with elastic.client(user) as client:
            for act in (
                lambda client=client: client.index(**identity, document={}),
                lambda client=client: client.update(**identity, doc={"user": {"name": "x"}}),
                lambda client=client: client.delete(**identity),
                lambda client=client: client.indices.delete(index=name),
                lambda client=client: client.indices.put_settings(index=name, settings={"refresh_interval": "-1"}),
            ):
                with pytest.raises(AuthorizationException):
                    act()
            with pytest.raises(ConflictError):
                client.create(**identity, document={"event": {"sequence": 2}})
    with elastic.client("searcher") as client, pytest.raises(AuthorizationException):
        client.create(index=name, id="new", document={"event": {"sequence": 2}})
    with pytest.raises(RefusedError, match="may not do that") as caught:
        index.find(parse("", now=NOW), limit=1)
    assert caught.value.code == "audit.elastic.forbidden"
    assert compare(open_index(), ledger)[0] == []
    reindex(open_index(), ledger)  # a new generation; the old indices stay, for this account cannot delete
    assert [found.rsplit("-", 2)[1] for found in names(elastic, ledger)] == ["0", "1"]


def test_an_item_the_server_does_not_take_is_named(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make
) -> None:
    index = open_index()
    ledger.record(events(3))
    catch_up(index, ledger)
    (name,) = names(elastic, ledger)
    with elastic.client() as client:
        client.indices.put_settings(index=name, settings={"index.blocks.write": True})
    made = events(2)
    ledger.record(made)
    with pytest.raises(SecguardError, match=f"event {made[0].id} .* blocked") as caught:
        catch_up(index, ledger)
    assert caught.value.code == "audit.index.item"
    assert index.position == 3
    with elastic.client() as client:
        client.indices.put_settings(index=name, settings={"index.blocks.write": False})
    assert catch_up(index, ledger) == 2


ODD = {"via": {"received": "yesterday"}}


def strict_times(elastic: Any, index: ElasticIndex) -> None:
    """An index as an older template would make it: it takes no time that it cannot read."""
    name = f"{index._stem}-0-000000"
    with elastic.client() as client:
        client.indices.create(index=name)
        strict = {"event": {"properties": {"created": {"type": "date", "ignore_malformed": False}}}}
        client.indices.put_mapping(index=name, properties=strict)


def test_an_event_the_server_never_takes_is_put_aside_and_said(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make
) -> None:
    index = open_index()
    strict_times(elastic, index)
    clock = FixedClock(NOW)
    inside = Actor(name="张三")
    ledger.record([*events(3, actor=inside), *events(1, actor=inside, data=ODD), *events(3, actor=inside)])
    assert catch_up(index, ledger) == 7
    letter = ledger.event(7)
    assert (letter.kind, letter.data["event"], letter.data["index"]) == ("index.refused", ledger.event(3).id, 3)
    assert "event.created" in letter.data["why"]
    assert index.refused == {3}
    assert index.health().state == "degraded"
    page = search("张三", index, ledger, clock, AUDITOR, wait=True)
    assert (page.total, page.outcome) == (6, Outcome.UNKNOWN)
    assert [item.code for item in page.findings] == ["audit.index.refused"]
    assert search("kind:index.refused", index, ledger, clock, AUDITOR).total == 1
    findings, counts, *_ = compare(index, ledger)
    assert [(item.code, item.data["index"]) for item in findings] == [("audit.index.refused", 3)]
    assert counts == {"missing": 1, "extra": 0, "altered": 0}
    index._file.write(index._file._empty)  # the position is lost: nothing is doubled, neither there nor in the ledger
    size = ledger.size
    again = open_index(file="again.json")
    catch_up(again, ledger)
    assert (again.refused, ledger.size) == ({3}, size)
    reindex(index, ledger)  # with the right template
    assert index.refused == frozenset()
    assert compare(index, ledger)[0] == []


def test_a_server_that_takes_nothing_is_no_dead_letter(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make
) -> None:
    index = open_index()
    strict_times(elastic, index)
    ledger.record(events(150, data=ODD))
    with pytest.raises(SecguardError, match="and 149 more") as caught:
        catch_up(index, ledger)
    assert caught.value.code == "audit.index.item"
    assert (index.position, ledger.size) == (0, 150)


def test_rows_of_pruned_bodies_are_deleted_by_an_administrator(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make
) -> None:
    ledger.record(events(6))
    index = open_index()
    catch_up(index, ledger)
    with pytest.raises(RefusedError, match="may not delete"):
        index.forget([2, 3])
    assert index.health() == ("ok", "Elasticsearch")
    administrator = open_index("admin")
    assert administrator.forget([2, 3, 99]) == 2
    assert [row.seq for row in index.rows(0, 10)] == [0, 1, 4, 5]


def test_errors_of_sign_in_and_trust(elastic: Any, ledger: Ledger, events: Make, tmp_path: Path) -> None:
    ledger.record(events(1))
    right = elastic.as_user("secguard")
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(other_ca())
    (tmp_path / "text.pem").write_text("no certificate")
    for server, kind, code in (
        (right._replace(ca=stranger), SystemPartError, "audit.elastic.tls"),
        (right._replace(ca=tmp_path / "none.pem"), UsageError, "audit.elastic.ca"),
        (right._replace(ca=tmp_path / "text.pem"), UsageError, "audit.elastic.settings"),
        (right._replace(password="wrong"), UsageError, "audit.elastic.credentials"),
        (right._replace(user="", password="", api_key="bm90OnJlYWw="), UsageError, "audit.elastic.credentials"),
    ):
        index = ElasticIndex.open(tmp_path / f"{code}.json", server, ledger.origin)
        with pytest.raises(kind) as caught:
            catch_up(index, ledger)
        index.close()
        assert caught.value.code == code
        assert caught.value.hint
        assert "wrong" not in repr(server)


def test_kills_under_load_lose_nothing_and_double_nothing(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secguard.audit.index.elastic.client.DELAYS", (0.1, 0.2, 0.4))
    if not hasattr(elastic, "kill") or not (elastic.folder / "ready.json").exists():
        pytest.skip("needs a server of its own: unset SECGUARD_TEST_ES_URL")
    index = open_index()
    stopping = threading.Event()
    failures: list[SecguardError] = []

    def ship() -> None:
        while not stopping.is_set() or index.position < ledger.size:
            try:
                catch_up(index, ledger)
            except SystemPartError as error:
                failures.append(error)
            time.sleep(0.01)

    shipping = threading.Thread(target=ship)
    shipping.start()
    for _ in range(12):
        ledger.record(events(400))
    while index.position == 0:
        time.sleep(0.01)
    elastic.kill()
    before = index.position
    away = time.monotonic()
    for _ in range(5):
        ledger.record(events(400))  # recording does not wait for the index
    while time.monotonic() < away + _AWAY:
        time.sleep(0.5)
    elastic.restart()
    stopping.set()
    shipping.join()
    assert before < ledger.size == index.position == 6800
    assert {error.code for error in failures} <= {"audit.elastic.unreachable", "audit.elastic.busy"}
    found = index.find(parse("", now=NOW), limit=7000)
    assert found.total == len(set(found.seqs)) == 6800
    assert compare(index, ledger)[0] == []
