"""`secguard.toml`: what it may say; an unknown key is refused with its nearest known neighbour."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from secguard.core.errors import FormatError, UsageError
from secguard.core.limits import MAX_CONFIG, read_bounded

__all__ = [
    "AuditConfig",
    "Config",
    "IdentityConfig",
    "IndexConfig",
    "IsolationConfig",
    "LedgerConfig",
    "ServeConfig",
    "SiteConfig",
    "WitnessConfig",
    "load_config",
]

_Area = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{2}([0-9]{2}([0-9]{2}([0-9]{2})?)?)?$")]
_Listen = Annotated[str, msgspec.Meta(pattern=r"^(|(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5})$", max_length=300)]
_Domain = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?$")]


class SiteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[site]`: who runs this.

    Attributes:
        name: the organisation's name, in certificates and reports.
        area: administrative area code (2 to 8 digits); every device ID of the site begins with it.
        domain: DNS domain under which devices are named.
        edition: edition of GB/T 28181 whose type codes apply, 2016 or 2022.
    """

    area: _Area
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] = "secguard"
    domain: _Domain = "video.internal"
    edition: Literal[2016, 2022] = 2022


class WitnessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[[ledger.witnesses]]`: one who cosigns this log's checkpoints; paths are relative to the workspace.

    Attributes:
        url: prefix of its HTTP interface (C2SP tlog-witness); empty: it is not asked from here.
        certificate: its certificate and those above it, PEM, leaf first; the root must certify it as a witness.
        key: or its verifier key (`name+id+base64`), for a witness that the root does not certify.
        ca: PEM file of the only CA that is believed for `https`; empty: those of this machine.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^(|https?://.+)$", max_length=300)] = ""
    certificate: str = ""
    key: Annotated[str, msgspec.Meta(max_length=400)] = ""
    ca: str = ""


class LedgerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[ledger]`: the log's name, and where its last checkpoint is kept a second time.

    Attributes:
        origin: the log's name in checkpoints; unique in the world.
        anchor: folder of the second store, best on another disk; empty: `$XDG_STATE_HOME/secguard/anchors`.
        quorum: how many witnesses must have cosigned a checkpoint.
        witnesses: who is asked to.
    """

    origin: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9./_-]{1,63}$")]
    anchor: str = ""
    quorum: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    witnesses: Annotated[list[WitnessConfig], msgspec.Meta(max_length=64)] = []


class IdentityConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[identity]`: what certificates say.

    Attributes:
        country: two-letter code in subjects.
        crl_url: base URL of CRLs, without a slash at the end; empty: certificates name none.
        crl_days: days until a CRL is stale.
        crl_shards: number of lists that the revocations of an issuing CA are spread over, besides its full list.
        ocsp_url: URL of the OCSP responder; empty: certificates name none.
        ca_url: base URL of the CAs' certificates, without a slash at the end; empty: certificates name none.
    """

    country: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}$")] = "CN"
    crl_url: Annotated[str, msgspec.Meta(max_length=200)] = ""
    crl_days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 7
    crl_shards: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    ocsp_url: Annotated[str, msgspec.Meta(max_length=200)] = ""
    ca_url: Annotated[str, msgspec.Meta(max_length=200)] = ""


class IndexConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[index]`: where searches look; paths are relative to the workspace.

    Attributes:
        kind: `sqlite`, in `state/index/`, or `elasticsearch`.
        url: `https://host:9200`; without name and password.
        ca: PEM file of the only CA that is believed; empty: those of this machine.
        user: name for basic sign-in.
        password_file: file of mode 0600 with its password.
        api_key_file: file of mode 0600 with an encoded API key, instead of user and password.
    """

    kind: Literal["sqlite", "elasticsearch"] = "sqlite"
    url: Annotated[str, msgspec.Meta(pattern=r"^(https://[^\s/@]+(/[^\s@]*)?)?$", max_length=500)] = ""
    ca: str = ""
    user: Annotated[str, msgspec.Meta(max_length=256)] = ""
    password_file: str = ""
    api_key_file: str = ""


class ServeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[serve]`: where `secguard serve` listens.

    Attributes:
        est: `host:port` of enrolment over TLS (EST); empty: none. Port 0 takes a free one.
        status: `host:port` of revocation lists and OCSP, plain HTTP; empty: none.
        ledger: `host:port` of the log's checkpoint and tiles, plain HTTP; empty: none.
        host: the name or address that devices connect to, whose server certificate is shown; empty: that of `est`.
        base64: layout of EST's base64 by label, and under `default`: `auto`, `wrapped` or `unwrapped`.
        grace_hours: how long a superseded certificate still authenticates its device.
        connections: how many connections at once, of each of them.
    """

    est: _Listen = ""
    status: _Listen = ""
    ledger: _Listen = ""
    host: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.:-]*$", max_length=253)] = ""
    base64: dict[str, Literal["auto", "wrapped", "unwrapped"]] = {}
    grace_hours: Annotated[int, msgspec.Meta(ge=0, le=720)] = 24
    connections: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 4096


class AuditConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[audit]`: where events come from.

    Attributes:
        serve: `secguard serve` collects, too; otherwise `secguard audit collect` does, in a process of its own.
        sources: a table a source, as `secguard.audit.sources.settings` describes them; checked when the file is read.
    """

    serve: bool = False
    sources: dict[str, Any] = {}


class IsolationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[isolation]`: the scheduled scan; paths are relative to the workspace, flags of `isolation run` win.

    Attributes:
        policy: the policy that `isolation run` takes when none is named.
        every: how often it is to be scanned: `30m`, `24h`, `7d`; empty: no schedule.
        agents: agents that serve HTTPS: name -> `https://host:port`.
        cert: the controller's certificate (isolation-agent profile) and its CA's, PEM.
        cert_key: its private key, a file.
        on_finding: command line that is told when the outcome changes, on its standard input.
        webhook: `https://` URL that is told the same by POST.
        webhook_ca: PEM file of the only CA that is believed for it; empty: those of this machine.
        webhook_secret: file of mode 0600 with the key that signs what it is told.
    """

    policy: str = ""
    every: Annotated[str, msgspec.Meta(pattern=r"^([1-9][0-9]{0,4}[mhd])?$")] = ""
    agents: dict[str, Annotated[str, msgspec.Meta(pattern=r"^https://[^\s/@]+/?$", max_length=300)]] = {}
    cert: str = ""
    cert_key: str = ""
    on_finding: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    webhook: Annotated[str, msgspec.Meta(pattern=r"^(https://[^\s@]+)?$", max_length=500)] = ""
    webhook_ca: str = ""
    webhook_secret: str = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    site: SiteConfig
    ledger: LedgerConfig
    identity: IdentityConfig = IdentityConfig()
    index: IndexConfig = IndexConfig()
    serve: ServeConfig = ServeConfig()
    audit: AuditConfig = AuditConfig()
    isolation: IsolationConfig = IsolationConfig()


def _refuse_unknown(value: dict[str, Any], kind: type[msgspec.Struct], path: str, where: str) -> None:
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key, item in value.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise UsageError(
                "workspace.config.key",
                f"unknown key {path}{key}",
                hint=f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}",
                where=where,
            )
        inner = fields[key]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and isinstance(item, dict):
            _refuse_unknown(item, inner, f"{path}{key}.", where)


def load_config(path: Path) -> Config:
    """Read and check `secguard.toml`.

    Raises:
        UsageError: there is no such file, an unknown key, or a value out of range.
        FormatError: not TOML in UTF-8.
    """
    data = read_bounded(path, MAX_CONFIG)
    try:
        value = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise FormatError(
            "workspace.config.format", f"not TOML: {error}", hint="correct that line", where=str(path)
        ) from error
    _refuse_unknown(value, Config, "", str(path))
    try:
        config = msgspec.convert(value, Config)
    except msgspec.ValidationError as error:
        raise UsageError("workspace.config.value", str(error), where=str(path)) from error
    if config.audit.sources:  # the room of audit takes its time to import
        from secguard.audit.sources.settings import load_sources

        load_sources(config.audit.sources, str(path))
    return config
