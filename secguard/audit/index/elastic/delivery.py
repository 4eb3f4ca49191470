"""Delivers documents: in chunks, again after a pause while the server is away or busy, and never over another one."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec

from secguard.audit.index.elastic.client import BUSY, Server, TooLargeError, TransientError, pauses, reason_of
from secguard.audit.index.elastic.documents import document_of, row_from
from secguard.audit.index.index import Refused, refuse
from secguard.audit.index.rows import Row
from secguard.core import RefusedError, SystemPartError

__all__ = ["deliver", "name_of"]

_CHUNK_ROWS = 2048
_CHUNK_BYTES = 8 << 20
_CONNECTIONS = 2  # a third brings nothing on a server of two processors
_NEVER = 400  # it is about the document; 403 and 404 are about the index, and others may change
_CLOSED = "index_closed_exception"  # an answer 400 that is about the index


class _Item(NamedTuple):
    row: Row
    name: str  # `_id`
    line: bytes


def name_of(origin: str, seq: int) -> str:
    """The `_id` of an event's document."""
    return f"{origin}-{seq}"


def deliver(server: Server, index: str, origin: str, rows: Iterable[Row], *, one_shard: bool = True) -> list[Refused]:
    """Create the documents of rows in one index; returns when they are on the server's disk and searches see them.

    Args:
        server: where.
        index: its name there.
        origin: name of the log.
        rows: one or more.
        one_shard: the last request alone makes all documents visible; else each does it for the shards it touches.

    Returns:
        The events whose documents the server does not take, whenever it is asked.

    Raises:
        RefusedError: `audit.index.conflict`: another document stands where one of these belongs.
        FormatError: `audit.index.item`: the server takes no documents; one is named.
        SystemPartError: the server was away or busy for all attempts; some may be in, and are found the next time.
    """
    refused: dict[int, Refused] = {}
    *others, last = _chunks(origin, rows)
    if others:
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            sent = [pool.submit(_send, server, index, chunk, refused, refresh=not one_shard) for chunk in others]
            for one in sent:
                one.result()
    _send(server, index, last, refused, refresh=True)
    return [refused[seq] for seq in sorted(refused)]


def _send(server: Server, index: str, chunk: list[_Item], refused: dict[int, Refused], *, refresh: bool) -> None:
    """Deliver one chunk, again after a pause while the server is away or busy."""
    waits, pending = pauses(), chunk
    while True:
        problem: SystemPartError
        try:
            pending, reason = _attempt(server, index, pending, refused, refresh=refresh)
            if not pending:
                return
            problem = SystemPartError(
                "audit.elastic.busy",
                f"the server does not take {len(pending)} documents now: {reason}",
                hint="nothing is lost; the next run goes on from here",
                where=server.url,
            )
        except TooLargeError as error:  # the limit may be that of a proxy
            half = len(pending) // 2
            if not half:
                (item,) = pending
                refused[item.row.seq] = Refused(item.row.seq, item.row.id, error.message)
                return
            for part in (pending[:half], pending[half:]):
                _send(server, index, part, refused, refresh=refresh)
            return
        except TransientError as error:  # whatever was delivered is found and compared by the next attempt
            problem = error
        wait = next(waits, None)
        if wait is None:
            raise problem
        time.sleep(wait)


def _chunks(origin: str, rows: Iterable[Row]) -> Iterator[list[_Item]]:
    chunk: list[_Item] = []
    size = 0
    for row in rows:
        line = msgspec.json.encode(document_of(row))
        if chunk and (len(chunk) >= _CHUNK_ROWS or size + len(line) > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(_Item(row, name_of(origin, row.seq), line))
        size += len(line)
    if chunk:
        yield chunk


def _attempt(
    server: Server, index: str, pending: list[_Item], refused: dict[int, Refused], *, refresh: bool
) -> tuple[list[_Item], str]:
    """One bulk request; returns what to send again, and why."""
    operations: list[Any] = []
    for item in pending:
        operations += (msgspec.json.encode({"create": {"_id": item.name}}), item.line)
    answer = server.call(
        lambda client: client.bulk(
            index=index, operations=operations, refresh=refresh, filter_path="items.*.status,items.*.error"
        )
    )
    results = [result.get("create", {}) for result in answer.body.get("items", [])]
    if len(results) != len(pending):
        raise SystemPartError("audit.elastic.failed", "the server's answer is incomplete", where=server.url)
    again: list[_Item] = []
    there: list[_Item] = []
    failed: list[Refused] = []
    reason = ""
    for item, result in zip(pending, results, strict=True):
        status = result.get("status")
        if status == 409:
            there.append(item)
        elif status in BUSY:
            again.append(item)
            reason = reason_of(result)
        elif status == _NEVER and result.get("error", {}).get("type") != _CLOSED:
            refused[item.row.seq] = Refused(item.row.seq, item.row.id, reason_of(result, whole=True))
        elif status != 201:
            failed.append(Refused(item.row.seq, item.row.id, reason_of(result)))
    again += _compare(server, index, there)
    if failed:
        refuse(failed)
    return again, reason


def _compare(server: Server, index: str, there: list[_Item]) -> list[_Item]:
    """Compare documents that stood there before; returns those that are gone by now."""
    if not there:
        return []
    ids = [item.name for item in there]
    answer = server.call(lambda client: client.mget(index=index, ids=ids))
    gone = []
    for item, found in zip(there, answer.body["docs"], strict=True):
        if not found.get("found"):
            gone.append(item)
        elif row_from(found.get("_source")) != item.row:
            raise RefusedError(
                "audit.index.conflict",
                f"another document stands where event {item.row.id} (ledger index {item.row.seq}) belongs",
                hint="somebody put it there; compare: secguard audit reconcile",
                where=f"{index}/{item.name}",
            )
    return gone
