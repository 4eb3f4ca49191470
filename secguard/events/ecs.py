"""An event as a document of the Elastic Common Schema 9; what ECS has no field for stands under `secguard.*`."""

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC
from functools import lru_cache
from typing import Any

from secguard.core.errors import FormatError
from secguard.events.access import Access, access_of
from secguard.events.event import Event
from secguard.events.kinds import ACCESS_KINDS

__all__ = ["CATEGORIES", "ECS_VERSION", "ecs"]

ECS_VERSION = "9.0.0"

CATEGORIES: dict[str, tuple[str, str]] = {
    "user.logged-in": ("authentication", "start"),
    "user.logged-out": ("authentication", "end"),
    "user.changed": ("iam", "change"),
    "config.changed": ("configuration", "change"),
    "device.updated": ("configuration", "change"),
    "video.exported": ("file", "creation"),
    "video.downloaded": ("file", "creation"),
    "clip.made": ("file", "creation"),
    "evidence.exported": ("file", "creation"),
    "video.deleted": ("file", "deletion"),
}
"""ECS `event.category` and `event.type`; all other acts are uses of an interface."""


_GB_ID = re.compile(r"[0-9]{20}")


@lru_cache(maxsize=1 << 14)
def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)).partition("%")[0]  # no field of the type holds a zone
    except ValueError:
        return ""


def _filled(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value or value == 0}


def _distinct(values: Iterable[str | None]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _cameras(event: Event, access: Access) -> list[str]:
    """The cameras an act names, else its subject, if that is an ID of GB/T 28181."""
    named = _distinct((access.camera, *access.cameras))
    own = event.kind in ACCESS_KINDS and _GB_ID.fullmatch(event.subject)
    return named or ([event.subject] if own else [])


def _access(event: Event) -> Access:
    try:
        return access_of(event.data) if event.kind in ACCESS_KINDS else Access()
    except FormatError:  # recorded before the vocabulary had the field
        return Access()


def ecs(event: Event) -> dict[str, Any]:
    """The document of an event: `event.*`, `user.*`, `source.*`, `file.*`, `related.*`, ours under `secguard.*`.

    It says what the event says, no more; the ledger's index and digests are for whoever stores it to add.
    """
    access, actor = _access(event), event.actor
    category, kind = CATEGORIES.get(event.kind, ("api", "access"))
    denied = event.outcome.value == "denied"
    ip = _address(actor.address)
    via = event.data.get("via")
    via = via if isinstance(via, dict) else {}
    file = access.files[0] if access.files else None
    digests = _distinct(item.sha256.lower() if item.sha256 else None for item in access.files)
    return _filled(
        **{"@timestamp": event.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")},
        ecs={"version": ECS_VERSION},
        event=_filled(
            kind="event",
            module="secguard",
            dataset="secguard.audit",
            category=[category],
            type=[kind, "denied"] if denied else [kind],
            action=event.kind,
            outcome="failure" if denied else event.outcome.value,
            id=event.id,
            reason=event.reason,
            provider=_text(via.get("source")),
            created=_text(via.get("received")),
            duration=round(access.seconds * 1e9) if access.seconds is not None and access.seconds < 9e9 else None,
        ),
        user=_filled(name=actor.name, roles=[actor.role] if actor.role else []),
        organization=_filled(name=actor.org),
        source=_filled(address=actor.address, ip=ip),
        user_agent=_filled(original=access.client),
        network=_filled(protocol=access.protocol, bytes=access.bytes),
        file=_filled(
            name=file.name if file else "",
            size=file.bytes if file else None,
            hash=_filled(sha256=digests[0] if digests else ""),
        ),
        related=_filled(
            user=_distinct((actor.name, event.approver, access.recipient)),
            ip=_distinct((ip, _address(_text(via.get("peer"))))),
            hash=digests,
        ),
        secguard=_filled(
            subject=event.subject,
            case=event.case,
            approver=event.approver,
            outcome=event.outcome.value,
            assurance=actor.assurance.value,
            camera=_cameras(event, access),
            start=access.start.isoformat() if access.start else None,
            end=access.end.isoformat() if access.end else None,
            expires=access.expires.isoformat() if access.expires else None,
            bytes=access.bytes,
            hits=access.hits,
            session=access.session,
            stream=access.stream,
            recipient=access.recipient,
            command=access.command,
            setting=access.setting,
            key_id=access.key_id,
            query=access.query,
        ),
    )
