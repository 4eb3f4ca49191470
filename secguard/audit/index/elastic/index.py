"""The index on Elasticsearch: documents that are only ever added, and a position that moves after they are in.

1. A row becomes a document whose `_id` is the log's origin and the ledger index, so that delivering it twice makes one.
2. Documents are created, never overwritten. Where one stands already it must say the same, or it is refused: whoever
   may write to the server could have put another one there first.
3. The position stands in a file beside the ledger, and moves when the server has a whole batch on its disk and shows it
   to searches. A process or server that dies in between leaves documents that the next run finds and compares.
4. An index on the server holds 16,777,216 entries of the log (one tile of level 3), so an `_id` is unique without
   asking other indices. The account needs no right to delete: `clear` begins a new generation of indices.
"""

import hashlib
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from secguard.audit.index.elastic.client import ElasticServer, Server, reason_of
from secguard.audit.index.elastic.delivery import deliver, name_of
from secguard.audit.index.elastic.documents import INDEX_FIELD, TIME_FIELD, mapping_problems, row_from
from secguard.audit.index.elastic.position import PositionFile, State
from secguard.audit.index.elastic.query import compile_dsl
from secguard.audit.index.index import Counted, Cursor, Damage, Found, Health, Refused, refuse
from secguard.audit.index.places import PLACES
from secguard.audit.index.rows import Row
from secguard.audit.query.groups import ByField, Grouping, check_groups, groups_of
from secguard.audit.query.query import Node
from secguard.core import FormatError, RefusedError, SecguardError, SystemPartError

__all__ = ["EPOCH", "ElasticIndex"]

EPOCH = 256**3
"""Ledger entries that one index holds."""

_MAX_REFUSED = 10_000
_VERIFY_SECONDS = 30.0
_HEALTH_SECONDS = 5.0
_BUCKETS = 5000
_CLOSED = "is closed on the server"
_ALL: dict[str, Any] = {"allow_no_indices": True, "expand_wildcards": ["open", "closed"]}
_PAGE = 5000  # documents a search hands over; a server's limit is 10,000


class ElasticIndex:
    """`secguard.audit.index.index.Index` on a server."""

    def __init__(self, path: Path, server: ElasticServer, origin: str, epoch: int) -> None:
        self._file = PositionFile(path, State(origin, epoch))
        self._server = Server(server)
        self._origin = origin
        self._epoch = epoch
        self._verified: set[str] = set()
        self._verify_due = 0.0
        self._sharded: set[str] = set()
        slug = re.sub(r"[^a-z0-9.]+", "-", origin).strip("-.")
        self._stem = f"secguard-audit-{slug}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"

    @classmethod
    def open(
        cls, path: Path, server: ElasticServer, origin: str, *, epoch: int = EPOCH, rebuild: bool = False
    ) -> "ElasticIndex":
        """Open the index; the server is asked when it is needed.

        Args:
            path: the file with the position; its directory is made.
            server: where the documents are.
            origin: name of the log.
            epoch: ledger entries an index on the server holds; never changed for an index that holds some.
            rebuild: the caller empties it next: an unreadable position file is removed.

        Raises:
            FormatError: the position file is damaged.
        """
        index = cls(path, server, origin, epoch)
        try:
            index._file.read()
        except FormatError:
            if not rebuild:
                raise
            index._file.remove()
        return index

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    @property
    def position(self) -> int:
        """Number of events whose documents are in; known without asking the server."""
        return self._file.read().position

    @property
    def origin(self) -> str | None:
        """Name of the log; None while empty."""
        state = self._file.read()
        return state.origin if state.position else None

    @property
    def refused(self) -> frozenset[int]:
        """Ledger indices of the events that the server did not take."""
        return frozenset(self._file.read().refused)

    @property
    def generation(self) -> int:
        """Counts the times the index was built anew."""
        return self._file.read().generation

    @property
    def ecs(self) -> bool:
        """Yes: whole documents."""
        return True

    @property
    def file(self) -> None:
        """None: the rows are on the server."""
        return None

    def prepare(self, count: int) -> None:
        """Nothing: the server decides how it writes."""

    def settle(self) -> None:
        """Nothing."""

    # Indices on the server

    def _pattern(self, state: State) -> str:
        return f"{self._stem}-{state.generation}-*"

    def _name(self, state: State, seq: int) -> str:
        return f"{self._stem}-{state.generation}-{seq // self._epoch:06d}"

    def _survey(self, pattern: str) -> dict[str, Any]:
        found = self._server.call(lambda client: client.indices.get(index=pattern, **_ALL))
        return dict(found.body)

    def _replaced(self, problem: str) -> RefusedError:
        hint = "install audit/elasticsearch/index-template.json on the server, then: secguard audit reindex"
        if problem.endswith(_CLOSED):
            hint = "open it again, then all goes on; nothing is lost"
        return RefusedError("audit.index.replaced", problem, hint=hint, where=self._server.url)

    def _verify(self, state: State) -> None:
        """Refuse to work on indices that are not what this process or an earlier one made.

        Asked every 30 seconds: whoever may add documents can, on servers of today, change the mapping too.
        """
        if time.monotonic() >= self._verify_due or not self._verified >= state.indices.keys():
            there = self._survey(self._pattern(state))
            problems = _problems(state.indices, there)
            if problems:
                raise self._replaced(problems[0])
            self._note_shards(there)
            self._verified |= state.indices.keys()
            self._verify_due = time.monotonic() + _VERIFY_SECONDS

    def _ensure(self, state: State, name: str) -> State:
        if name in state.indices:
            self._verify(state)
            return state
        if name not in self._survey(f"{name}*"):
            # 400: another process was faster; the mapping comes from the installed template.
            self._server.call(lambda client: client.options(ignore_status=400).indices.create(index=name))
        there = self._survey(f"{name}*")
        if name not in there:
            raise self._replaced(f"{name} is no index of its own on the server, but an alias or none")
        uuid = there[name]["settings"]["index"]["uuid"]
        problems = _problems({name: uuid}, there)
        if problems:
            raise self._replaced(problems[0])
        state = replace(state, indices={**state.indices, name: uuid})
        self._file.write(state)
        self._verified.add(name)
        self._note_shards(there)
        return state

    def _note_shards(self, there: dict[str, Any]) -> None:
        self._sharded |= {
            name for name, found in there.items() if found["settings"]["index"].get("number_of_shards") != "1"
        }

    # Writing

    def add(
        self,
        origin: str,
        first: int,
        stop: int,
        rows: Sequence[Row],
        put_aside: Callable[[Sequence[Refused]], None] = refuse,
    ) -> bool:
        """Deliver the documents of rows, then move the position; False if another process was faster.

        Raises:
            RefusedError: another document stands where one of these belongs, or the index is of another log.
            FormatError: the server takes no documents, or too many are not taken; one is named.
            SystemPartError: the server was away or busy for all attempts; the position did not move.
        """
        if origin != self._origin:
            raise RefusedError("audit.index.foreign", f"the index belongs to the log {self._origin}, not {origin}")
        with self._file.alone() as state:
            if state.position != first:
                return False
            refused: list[Refused] = []
            for _, group in groupby(rows, lambda row: row.seq // self._epoch):
                batch = list(group)
                name = self._name(state, batch[0].seq)
                state = self._ensure(state, name)  # noqa: PLW2901 - it now knows one index more
                refused += deliver(self._server, name, origin, batch, one_shard=name not in self._sharded)
            if refused:
                if len(state.refused) + len(refused) > _MAX_REFUSED:
                    refuse(refused)
                put_aside(refused)
            self._file.write(replace(state, position=stop, refused=[*state.refused, *(one.seq for one in refused)]))
        return True

    def clear(self) -> None:
        """Begin a new generation of indices; the old ones are deleted if the account may do that."""
        old = self._survey(f"{self._stem}-*")
        found = (re.fullmatch(r".*-(\d{1,9})-\d{6,}", name) for name in old)
        numbers = [int(match[1]) for match in found if match]
        with self._file.alone() as state:
            generation = max([*numbers, state.generation]) + 1 if old else state.generation
            self._file.write(State(self._origin, self._epoch, generation=generation))
            self._verified.clear()
        for name in old:
            with suppress(RefusedError):
                self._server.call(lambda client, name=name: client.indices.delete(index=name))  # type: ignore[misc]

    # Reading

    @contextmanager
    def _snapshot(self, state: State) -> Iterator[dict[str, Any]]:
        """A view that does not change while several pages are read (a point in time)."""
        opened = self._server.call(
            lambda client: client.open_point_in_time(index=self._pattern(state), keep_alive="2m")
        )
        try:
            yield {"pit": {"id": opened["id"], "keep_alive": "2m"}}
        finally:
            with suppress(SystemPartError, RefusedError):
                self._server.call(lambda client: client.close_point_in_time(id=opened["id"]))

    def _answer(self, **body: Any) -> dict[str, Any]:
        # Part of an answer is none: every shard must have searched.
        answer = self._server.call(lambda client: client.search(allow_partial_search_results=False, **body))
        return dict(answer.body)

    def _search(self, **body: Any) -> dict[str, Any]:
        hits: dict[str, Any] = self._answer(**body)["hits"]
        return hits

    def find(self, query: Node, *, limit: int, after: Cursor | None = None) -> Found:
        """The newest `limit` matching events, and how many there are."""
        state = self._file.read()
        if not state.indices:
            return Found(0, [], state.position, None)
        self._verify(state)
        snapshot = after.snapshot if after else state.position
        asked: dict[str, Any] = {
            "query": _filtered(snapshot, query),
            "sort": [{TIME_FIELD: "desc"}, {INDEX_FIELD: "desc"}],
            "source": False,
        }
        large = limit >= _PAGE
        if after:  # a point in time sorts by its own third key as well, and no document has this value of it
            asked["search_after"] = [*after[1:], (1 << 63) - 1] if large else after[1:]
        places: list[list[int]] = []
        total = 0
        with self._snapshot(state) if large else nullcontext({"index": self._pattern(state)}) as where:
            while len(places) <= limit:
                size = min(limit + 1 - len(places), _PAGE)
                hits = self._search(**where, **asked, size=size, track_total_hits=not places)
                if not places:
                    total = hits["total"]["value"]
                places += [hit["sort"][:2] for hit in hits["hits"]]
                if len(hits["hits"]) < size:
                    break
                asked["search_after"] = hits["hits"][-1]["sort"]
        following = Cursor(snapshot, *places[limit - 1]) if len(places) > limit else None
        return Found(total, [seq for _, seq in places[:limit]], state.position, following)

    def walk(self, query: Node, *, size: int) -> Generator[Found]:
        """All events that match, `size` at a time, in one point in time."""
        state = self._file.read()
        if not state.indices:
            yield Found(0, [], state.position, None)
            return
        self._verify(state)
        asked: dict[str, Any] = {
            "query": _filtered(state.position, query),
            "sort": [{TIME_FIELD: "desc"}, {INDEX_FIELD: "desc"}],
            "source": False,
            "size": min(size, _PAGE),
        }
        total = 0
        with self._snapshot(state) as where:
            while True:
                first = "search_after" not in asked
                hits = self._search(**where, **asked, track_total_hits=first)
                places = [hit["sort"][:2] for hit in hits["hits"]]
                total = hits["total"]["value"] if first else total
                more = len(places) == asked["size"]
                following = Cursor(state.position, *places[-1]) if more else None
                yield Found(total, [seq for _, seq in places], state.position, following)
                if not more:
                    return
                asked["search_after"] = hits["hits"][-1]["sort"]

    def count(self, query: Node, by: Grouping) -> Counted:
        """How many events match, by the values of a field or by time.

        A terms aggregation guesses where values stand in several indices; a composite one counts them all.
        """
        state = self._file.read()
        if not state.indices:
            return Counted(0, [], state.position)
        self._verify(state)
        if isinstance(by, ByField):
            source: dict[str, Any] = {"terms": {"field": ".".join(PLACES[by.field]), "missing_bucket": True}}
        else:
            shift = f"{-by.shift // 1000}ms"
            interval = f"{by.step // 1000}ms"
            source = {"date_histogram": {"field": "@timestamp", "fixed_interval": interval, "offset": shift}}
        composite: dict[str, Any] = {"sources": [{"key": source}], "size": _BUCKETS}
        counts: list[tuple[str | int, int]] = []
        with self._snapshot(state) as where:
            while True:
                body = {"size": 0, "query": _filtered(state.position, query), "aggs": {"by": {"composite": composite}}}
                found = self._answer(**where, **body, track_total_hits=False)["aggregations"]["by"]
                for bucket in found["buckets"]:
                    key = bucket["key"]["key"]
                    counts.append(("" if key is None else key if isinstance(key, str) else key * 1000,
                                   bucket["doc_count"]))  # fmt: skip
                check_groups(len(counts))
                if "after_key" not in found:
                    break
                composite["after"] = found["after_key"]
        return Counted(sum(count for _, count in counts), groups_of(counts, by), state.position)

    def forget(self, seqs: Sequence[int]) -> int:
        """Delete the documents of events; returns how many there were.

        Raises:
            RefusedError: the account may not delete, as it should be; an administrator does.
        """
        state = self._file.read()
        operations = [{"delete": {"_index": self._name(state, seq), "_id": name_of(self._origin, seq)}} for seq in seqs]
        count = 0
        for at in range(0, len(operations), _PAGE):
            part = operations[at : at + _PAGE]
            answer = self._server.call(
                lambda client, part=part: client.bulk(operations=part, refresh=True)  # type: ignore[misc]
            )
            results = [result["delete"] for result in answer.body["items"]]
            for result in results:
                if result["status"] not in {200, 404}:
                    raise RefusedError(
                        "audit.elastic.forbidden",
                        f"the account may not delete documents: {reason_of(result)}",
                        hint="have an administrator delete them, or rebuild: secguard audit reindex",
                        where=self._server.url,
                    )
            count += sum(result["status"] == 200 for result in results)
        return count

    def health(self) -> Health:
        """Whether the server answers, and the indices are what they should be."""
        try:
            state = self._file.read()
            there = self._server.call(
                lambda client: client.options(request_timeout=_HEALTH_SECONDS).indices.get(
                    index=self._pattern(state), **_ALL
                )
            )
        except SecguardError as error:
            return Health("down", error.message)
        problems = _problems(state.indices, there.body)
        if state.refused:
            problems.append(f"{len(state.refused)} events were not taken by the server")
        return Health("degraded" if problems else "ok", problems[0] if problems else "Elasticsearch")

    def rows(self, start: int, stop: int) -> list[Row]:
        """The rows of all documents with ledger indices [start, stop), in order, also several of the same index."""
        found = self._rows({"range": {INDEX_FIELD: {"gte": start, "lt": stop}}}, _PAGE)
        if len(found) < _PAGE or stop - start < 2:
            return found
        middle = (start + stop) // 2
        return self.rows(start, middle) + self.rows(middle, stop)

    def stray(self, stop: int) -> list[Row]:
        """Rows of documents outside [0, stop), at most 1000."""
        return self._rows({"bool": {"must_not": [{"range": {INDEX_FIELD: {"gte": 0, "lt": stop}}}]}}, 1000)

    def _rows(self, query: dict[str, Any], size: int) -> list[Row]:
        state = self._file.read()
        if not state.indices:
            return []
        order = [{INDEX_FIELD: "asc"}]
        hits = self._search(index=self._pattern(state), query=query, sort=order, size=size, track_total_hits=False)
        return [self._row(state, hit) for hit in hits["hits"]]

    def _row(self, state: State, hit: dict[str, Any]) -> Row:
        row = row_from(hit.get("_source"))
        if row.digest and (hit["_index"], hit["_id"]) == (self._name(state, row.seq), name_of(self._origin, row.seq)):
            return row
        place = hit["sort"][0]
        known = isinstance(place, int) and abs(place) < 1 << 62  # the server sorts by the extreme value where none is
        return row._replace(seq=place if known else -1, digest=b"")

    def damage(self) -> Damage:
        """Indices that were deleted, replaced or mapped otherwise, and ones that stand among them."""
        state = self._file.read()
        there = self._survey(self._pattern(state))
        problems = _problems(state.indices, there)
        problems += [f"the index {name} is not ours" for name in sorted(there.keys() - state.indices.keys())]
        return Damage(problems, [])


def _filtered(snapshot: int, query: Node) -> dict[str, Any]:
    return {"bool": {"filter": [{"range": {INDEX_FIELD: {"lt": snapshot}}}, compile_dsl(query)]}}


def _problems(expected: dict[str, str], there: dict[str, Any]) -> list[str]:
    """What is wrong with indices that should be there, by name and UUID."""
    problems: list[str] = []
    for name, uuid in expected.items():
        if name not in there:
            problems.append(f"the index {name} was deleted on the server")
            continue
        settings = there[name].get("settings", {}).get("index", {})
        if settings.get("verified_before_close") == "true":
            problems.append(f"the index {name} {_CLOSED}")
        if settings.get("uuid") != uuid:
            problems.append(f"the index {name} was replaced on the server")
        if "analysis" in settings:
            problems.append(f"the index {name} brings its own text analysis")
        problems += [f"the index {name}: {text}" for text in mapping_problems(there[name].get("mappings", {}))]
    return problems
