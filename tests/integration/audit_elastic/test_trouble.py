"""Whatever happens to the server: one clear line, nothing lost, and it goes on by itself when the cause is gone."""

import base64
import json
import shutil
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from proxy_kit import Answer, Asked, Proxy

from secguard.audit import ElasticIndex, catch_up, compare
from secguard.core import FormatError, RefusedError, SecguardError, SystemPartError
from secguard.events import Event
from secguard.ledger import Ledger
from secguard.service.indexing import follow
from secguard.workspace import Workspace
from secguard.workspace.indexes import Following, following_file, standing_of_index
from secguard.workspace.site import create_site

Make = Callable[..., Sequence[Event]]
Open = Callable[..., ElasticIndex]
Pass = Callable[[Asked], Answer]
_JSON = {"content-type": "application/vnd.elasticsearch+json;compatible-with=9", "x-elastic-product": "Elasticsearch"}
_HTML = {"content-type": "text/html"}
# As a server of 8.19 answers a client of 9.
_EIGHT = (
    b'{"error":{"root_cause":[{"type":"media_type_header_exception","reason":"Invalid media-type value on headers '
    b'[Accept, Content-Type]"}],"type":"media_type_header_exception","reason":"Invalid media-type value on headers '
    b'[Accept, Content-Type]","caused_by":{"type":"status_exception","reason":"Accept version must be either version 8 '
    b'or 7, but found 9."}},"status":400}'
)
_BUSY = b'{"error":{"type":"es_rejected_execution_exception","reason":"rejected execution"},"status":429}'


@pytest.fixture
def proxy(elastic: Any, tmp_path: Path) -> Generator[Proxy]:
    between = Proxy(elastic.url, elastic.ca, tmp_path)
    yield between
    between.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secguard.audit.index.elastic.client.DELAYS", (0.01, 0.02))
    monkeypatch.setattr("secguard.service.indexing._LONGEST", 0.05)
    monkeypatch.setattr("secguard.service.indexing._TICK", 0.02)
    monkeypatch.setattr("secguard.audit.index.elastic.index._VERIFY_SECONDS", 0.0)


def _until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def _wrong_password(asked: Asked, ask: Pass) -> Answer:
    wrong = base64.b64encode(b"secguard:no").decode()
    others = {name: value for name, value in asked.headers.items() if name.lower() != "authorization"}
    return ask(asked._replace(headers={**others, "Authorization": f"Basic {wrong}"}))


def _answer_lost(asked: Asked, ask: Pass) -> Answer | None:
    answer = ask(asked)
    return None if asked.path.partition("?")[0].endswith("_bulk") else answer


SPOILT = [
    (lambda *_: Answer(429, _BUSY, _JSON), "audit.elastic.busy", "429"),
    (lambda *_: Answer(502, b"<h1>Bad Gateway</h1>", _HTML), "audit.elastic.busy", "502"),
    (lambda *_: Answer(400, _EIGHT, _JSON), "audit.elastic.version", "older than version 9"),
    (lambda *_: Answer(200, b'{"tagline": "OpenSearch"}', {"content-type": "application/json"}),
     "audit.elastic.product", "no Elasticsearch"),
    (lambda *_: None, "audit.elastic.unreachable", "does not answer"),
    (_answer_lost, "audit.elastic.unreachable", "does not answer"),
    (_wrong_password, "audit.elastic.credentials", "does not accept the user"),
]  # fmt: skip


def test_the_follower_waits_says_why_and_goes_on(elastic: Any, proxy: Proxy, events: Make, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    create_site(folder, anchor=folder / "state" / "anchor")
    (folder / "password").write_text(elastic.passwords["secguard"])
    (folder / "password").chmod(0o600)
    config = folder / "secguard.toml"
    index = {"kind": "elasticsearch", "url": proxy.url, "ca": str(proxy.ca), "user": "secguard",
             "password_file": "password"}  # fmt: skip
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in index.items())
    config.write_text(f"{config.read_text().split('[index]')[0]}\n[index]\n{lines}")
    stop = threading.Event()

    def run() -> None:
        with Workspace.find(folder) as own:
            follow(own, stop)

    following = threading.Thread(target=run)
    with Workspace.find(folder) as workspace, elastic.client() as admin:
        ledger = workspace.ledger

        def status(name: str) -> str:
            return str(standing_of_index(workspace).get(name, ""))

        def said_by_the_follower() -> str:  # as `status` does, but without asking the server each time
            return msgspec.json.decode(following_file(workspace.state).read_bytes(), type=Following).problem

        def all_there() -> bool:
            return bool(workspace.index.position == ledger.size)

        def trouble(begin: Callable[[], Any], end: Callable[[], Any], code: str, said: str) -> None:
            """It happens, is named, ends, and all is there."""
            begin()
            ledger.record(events(2))
            _until(lambda: said_by_the_follower().startswith(code))
            problem, health = status("index problem"), status("index health")
            assert said in problem, problem
            assert "\n" not in problem + health
            assert int(status("index behind")) >= 2
            end()
            _until(all_there)
            assert (status("index health"), status("index problem")) == ("ok", "")

        ledger.record(events(3))
        following.start()
        try:
            _until(all_there)
            (name,) = workspace.index._file.read().indices  # type: ignore[attr-defined]
            for spoil, code, said in SPOILT:
                trouble(
                    lambda spoil=spoil: setattr(proxy, "spoil", spoil),
                    lambda: setattr(proxy, "spoil", None),
                    code,
                    said,
                )
            other = tmp_path / "other.pem"
            trouble(
                lambda: (proxy.new_certificate(other), setattr(proxy, "spoil", lambda *_: None), time.sleep(0.1)),
                lambda: (shutil.copy(other, proxy.ca), setattr(proxy, "spoil", None)),
                "audit.elastic.tls",
                "self-signed certificate",
            )
            workspace.__dict__.pop("index").close()

            def block(what: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
                setting = f"index.blocks.{what}"
                return (
                    lambda: admin.indices.put_settings(index=name, settings={setting: True}),
                    lambda: admin.indices.put_settings(index=name, settings={setting: None}),
                )

            trouble(*block("read_only_allow_delete"), "audit.elastic.busy", "flood-stage")  # the disk was full
            trouble(*block("write"), "audit.index.item", "blocked by")
            opened = {"index": name, "wait_for_active_shards": 1}
            trouble(
                lambda: admin.indices.close(index=name),
                lambda: admin.indices.open(**opened),
                "audit.index.replaced",
                "is closed",
            )
            trouble(
                lambda: admin.indices.delete(index=name),
                Workspace.find(folder).index.clear,  # as `audit reindex` begins
                "audit.index.replaced",
                "was deleted",
            )
        finally:
            stop.set()
            following.join()
            left = workspace.index._file.read().indices  # type: ignore[attr-defined]
        assert compare(workspace.index, ledger)[:2] == ([], {"missing": 0, "extra": 0, "altered": 0})
        for name in left:
            admin.indices.delete(index=name)


def test_a_proxy_that_takes_small_requests_only(  # noqa: PLR0917 - fixtures
    proxy: Proxy, ledger: Ledger, elastic: Any, open_index: Open, events: Make, tmp_path: Path
) -> None:
    def small(asked: Asked, ask: Pass) -> Answer:
        return Answer(413, b"<h1>Request Entity Too Large</h1>", _HTML) if len(asked.body) > 20_000 else ask(asked)

    proxy.spoil = small
    open_index()  # removes the documents in the end
    server = elastic.as_user("secguard")._replace(url=proxy.url, ca=proxy.ca)
    index = ElasticIndex.open(tmp_path / "small.json", server, ledger.origin)
    ledger.record([*events(60), *events(1, data={"note": "long " * 5000}), *events(20)])
    assert catch_up(index, ledger) == 81
    assert index.refused == {60}
    letter = ledger.event(81)
    assert (letter.kind, letter.data["index"]) == ("index.refused", 60)
    assert "takes no request of that size" in letter.data["why"]
    catch_up(index, ledger)
    assert compare(index, ledger)[1] == {"missing": 1, "extra": 0, "altered": 0}
    index.close()


def test_an_alias_in_the_place_of_the_index(elastic: Any, ledger: Ledger, open_index: Open, events: Make) -> None:
    index = open_index()
    ledger.record(events(1))
    name = f"{index._stem}-0-000000"
    with elastic.client() as client:
        client.indices.create(index=f"{name}-real", aliases={name: {}})
    with pytest.raises(RefusedError, match="no index of its own on the server, but an alias") as caught:
        catch_up(index, ledger)
    assert caught.value.code == "audit.index.replaced"
    assert index.position == 0


def test_a_closed_index_is_no_dead_letter(
    elastic: Any, ledger: Ledger, open_index: Open, events: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secguard.audit.index.elastic.index._VERIFY_SECONDS", 60.0)
    index = open_index()
    ledger.record(events(2))
    catch_up(index, ledger)
    (name,) = index._file.read().indices
    index._verify(index._file.read())  # the next look at it is a minute away
    ledger.record(events(2))
    with elastic.client() as client:
        client.indices.close(index=name)
        with pytest.raises(FormatError, match="closed") as caught:
            catch_up(index, ledger)
        assert caught.value.code == "audit.index.item"
        assert index.health() == ("degraded", f"the index {name} is closed on the server")
        assert (index.position, ledger.size) == (2, 4)
        client.indices.open(index=name)
    assert catch_up(index, ledger) == 2


def test_an_index_of_an_earlier_version_asks_to_be_rebuilt(elastic: Any, ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"origin": ledger.origin, "epoch": 1 << 24, "position": 7, "v": 1}))
    with pytest.raises(SecguardError, match="another version") as caught:
        ElasticIndex.open(path, elastic.as_user("secguard"), ledger.origin)
    assert "index-template.json" in caught.value.hint
    assert "audit reindex" in caught.value.hint
    assert not isinstance(caught.value, SystemPartError)
    ElasticIndex.open(path, elastic.as_user("secguard"), ledger.origin, rebuild=True).close()
