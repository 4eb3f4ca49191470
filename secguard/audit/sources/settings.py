"""`[audit.sources.NAME]` of secguard.toml: where events come from, and how another system's record becomes an event."""

import difflib
import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from secguard.audit.sources.times import parse_zone
from secguard.core.errors import UsageError
from secguard.events import ALIASES, KINDS, SOURCE_KINDS, Result

__all__ = ["FileSource", "HttpSource", "Source", "SyslogSource", "load_sources"]

_Place = Annotated[str, msgspec.Meta(pattern=r"^(|(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5})$", max_length=300)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=31_536_000)]
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_TARGETS = frozenset(
    {"id", "kind", "time", "subject", "case", "approver", "reason", "outcome"}
    | {"actor.name", "actor.role", "actor.org", "actor.address"}
)


class _Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """What all sources have.

    Attributes:
        encoding: of the bytes: `utf-8`, `gb18030` (reads GBK and GB2312), or `auto`: the first that fits.
        map: from a field of our event (`id kind time subject case approver reason outcome actor.name actor.role
            actor.org actor.address data.*`) to a dotted path in the record; alternatives with `|`. Empty: the records
            are our events already.
        kinds: from the record's word to our kind; `-` ignores such records (they are counted).
        outcomes: from the record's word to `success`, `failure`, `denied` or `unknown`.
        defaults: values of fields that the record lacks.
        time_format: `auto`, `unix`, `unix-ms`, `unix-us`, or a format of strptime(3).
        zone: of times that name none.
        other: what becomes of a record with a kind that is not mapped, or of a text that is no event: `reject` puts
            it aside, `record` keeps it as `log.received`, `ignore` counts it only. Empty: `record` for syslog and
            text, else `reject`.
        keep: keep the whole record under `data.record`.
        pattern: a regular expression for texts; its named groups are `match.NAME` in paths.
        silent_after: seconds without a record after which the source is reported as silent; 0: never.
        clock_tolerance: seconds that the source's clock may be off; 0: not judged.
        queue_mb: megabytes of records that may wait for the ledger.
    """

    encoding: Literal["auto", "utf-8", "gb18030"] = "auto"
    map: dict[str, str] = {}
    kinds: dict[str, str] = {}
    outcomes: dict[str, Result] = {}
    defaults: dict[str, str] = {}
    time_format: Annotated[str, msgspec.Meta(max_length=64)] = "auto"
    zone: str = "Z"
    other: Literal["", "reject", "record", "ignore"] = ""
    keep: bool = False
    pattern: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    silent_after: _Seconds = 86_400
    clock_tolerance: _Seconds = 60
    queue_mb: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16


class FileSource(_Source, frozen=True, kw_only=True, tag="file"):
    """Files that grow; they may be rotated by renaming, or by copying and truncating.

    Attributes:
        paths: files, or patterns with `*` and `?` in the last part; relative to the workspace.
        format: `json` (one object a line), `syslog` (as a syslog server writes files), or `text`.
        start: where to begin in files that are there at the very first start.
    """

    paths: Annotated[list[str], msgspec.Meta(min_length=1, max_length=64)]
    format: Literal["json", "syslog", "text"] = "json"
    start: Literal["beginning", "end"] = "beginning"


class _Network(_Source, frozen=True, kw_only=True):
    """What sources on the network have.

    Attributes:
        peers: networks that may send; empty: all.
        certificate: PEM file of this server's chain; empty: the site's own server certificate.
        key: PEM file of its key, mode 0600.
        ca: PEM file of the CAs that clients' certificates must lead to; empty: for `tls`, those of the site.
        crl: PEM file of their revocation lists.
        clients: names (DNS or IP SAN, or CN; `*` for one label), or SHA-256 fingerprints, of the clients that may
            send; empty: all that `ca` vouches for.
        connections: how many at once.
    """

    peers: list[str] = []
    certificate: str = ""
    key: str = ""
    ca: str = ""
    crl: str = ""
    clients: Annotated[list[str], msgspec.Meta(max_length=1000)] = []
    connections: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1024


class SyslogSource(_Network, frozen=True, kw_only=True, tag="syslog"):
    """Syslog (RFC 5424 and RFC 3164) on any of three transports.

    Attributes:
        udp: `host:port` (RFC 5426).
        tcp: `host:port` (RFC 6587, both framings).
        tls: `host:port` (RFC 5425), clients show certificates.
        sequence: path of a number that the sender counts up (`sd.meta.sequenceId`): gaps are recorded as losses, and
            what is sent twice is recorded once.
        buffer_mb: the kernel's receive buffer for UDP.
    """

    udp: _Place = ""
    tcp: _Place = ""
    tls: _Place = ""
    sequence: Annotated[str, msgspec.Meta(max_length=256)] = ""
    buffer_mb: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 8


class HttpSource(_Network, frozen=True, kw_only=True, tag="http"):
    """`POST /v1/events`, JSON lines; answered when the events are on the disk.

    Attributes:
        listen: `host:port`; TLS, but on a loopback address plain HTTP is allowed.
        plain: serve plain HTTP; only on a loopback address, for a proxy on this machine.
        body_mb: bytes of a request.
        require: what a client must show: a token, a certificate, either of them, or both.
    """

    listen: _Place
    plain: bool = False
    body_mb: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    require: Literal["either", "token", "certificate", "both"] = "either"


Source = FileSource | SyslogSource | HttpSource

_TYPES: dict[str, type[FileSource] | type[SyslogSource] | type[HttpSource]] = {
    "file": FileSource,
    "syslog": SyslogSource,
    "http": HttpSource,
}


def _wrong(where: str, message: str, hint: str = "docs/collect.md lists the keys and their values") -> UsageError:
    return UsageError("audit.source.config", message, hint=hint, where=where)


def _check(source: Source, where: str) -> None:
    try:
        parse_zone(source.zone)
    except UsageError as error:
        raise _wrong(where, error.message, error.hint) from None
    _check_defaults(source, where)
    for target in (*source.map, *source.defaults):
        if target not in _TARGETS and not (target.startswith("data.") and len(target) <= 128):
            near = difflib.get_close_matches(target, _TARGETS, n=1)
            raise _wrong(
                where, f"no field {target[:40]!r} in an event", f"did you mean {near[0]}?" if near else "data.NAME"
            )
    for word, kind in source.kinds.items():
        if kind != "-" and kind not in SOURCE_KINDS:
            why = "is recorded by secguard itself" if kind in KINDS else "is no kind"
            near = difflib.get_close_matches(kind, SOURCE_KINDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "docs/events.md lists them"
            raise _wrong(where, f"{kind[:40]!r} (for {word[:40]!r}) {why}", hint)
    if source.map and "kind" not in source.map and "kind" not in source.defaults:
        raise _wrong(where, "the map names no kind", "map.kind, or defaults.kind")
    if source.pattern:
        try:
            re.compile(source.pattern)
        except re.error as error:
            raise _wrong(where, f"pattern: {error}") from None
    if isinstance(source, FileSource):
        for path in source.paths:
            if any(sign in path.rpartition("/")[0] for sign in "*?["):
                raise _wrong(where, f"a pattern in a folder's name: {path[:80]!r}", "only the file's name may have one")
        return
    for network in source.peers:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise _wrong(where, f"peers: {error}", "for example 10.16.0.0/12") from None
    places = (source.udp, source.tcp, source.tls) if isinstance(source, SyslogSource) else (source.listen,)
    for listen in places:
        if listen and int(listen.rpartition(":")[2]) > 65_535:
            raise _wrong(where, f"no port {listen.rpartition(':')[2]}", "0 to 65535")
    if isinstance(source, SyslogSource):
        if not (source.udp or source.tcp or source.tls):
            raise _wrong(where, "no place to listen", "set udp, tcp or tls to host:port")
    elif not source.listen:
        raise _wrong(where, "no place to listen", "set listen to host:port")
    elif source.plain and not _loopback(source.listen):
        raise _wrong(where, "plain HTTP would show tokens on the network", "listen on 127.0.0.1, or use TLS")
    if bool(source.certificate) != bool(source.key):
        raise _wrong(where, "a certificate needs its key, and the other way round")


def _check_defaults(source: Source, where: str) -> None:
    """A default that no event may have would put every record aside."""
    kind, outcome = source.defaults.get("kind"), source.defaults.get("outcome")
    known = SOURCE_KINDS | ALIASES.keys() | source.kinds.keys()
    if kind is not None and kind not in known and "*" not in source.kinds:
        near = difflib.get_close_matches(kind, SOURCE_KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "docs/events.md lists them"
        raise _wrong(where, f"defaults.kind: {kind[:40]!r} is no kind of a source", hint)
    words = {item.value for item in Result} | set(source.outcomes)
    if outcome is not None and outcome not in words and "*" not in source.outcomes:
        raise _wrong(where, f"defaults.outcome: {outcome[:40]!r}", ", ".join(item.value for item in Result))


def _loopback(place: str) -> bool:
    host = place.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_sources(tables: Mapping[str, Any], where: str = "secguard.toml") -> dict[str, Source]:
    """Check the tables of all sources.

    Raises:
        UsageError: `audit.source.config`: an unknown key (its nearest neighbour is named), a value out of range.
    """
    sources: dict[str, Source] = {}
    for name, table in tables.items():
        place = f"{where}: audit.sources.{name}"
        if not _NAME.fullmatch(name) or name in {"secguard", "import"}:
            raise _wrong(
                place, f"{name[:40]!r} cannot name a source", "lower-case letters, digits, - and _; 32 at most"
            )
        if not isinstance(table, dict):
            raise _wrong(place, "not a table")
        kind = _TYPES.get(str(table.get("kind")))
        if kind is None:
            raise _wrong(place, f"kind {str(table.get('kind'))[:40]!r}", "file, syslog or http")
        fields = [field.encode_name for field in msgspec.structs.fields(kind)]
        for key in table:
            if key not in fields and key != "kind":
                near = difflib.get_close_matches(key, fields, n=1)
                raise _wrong(
                    place, f"unknown key {key[:40]!r}", f"did you mean {near[0]}?" if near else ", ".join(fields)
                )
        try:
            source = msgspec.convert(table, kind)
        except msgspec.ValidationError as error:
            raise _wrong(place, str(error)) from None
        _check(source, place)
        sources[name] = source
    return sources
