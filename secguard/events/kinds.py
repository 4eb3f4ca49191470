"""The closed list of kinds of act, version 1. A kind is `noun.verb`, the verb in the past tense."""

import difflib

from secguard.core.errors import FormatError

__all__ = ["ACCESS_KINDS", "ALIASES", "KINDS", "SOURCE_KINDS", "canonical_kind"]

KINDS: dict[str, str] = {
    # identity
    "ca.created": "a root or issuing authority was made",
    "ca.requested": "a key was made for an issuing authority, and the root's signature asked for",
    "ca.certified": "the root certified an issuing authority",
    "ca.installed": "an issuing authority came into force",
    "ca.retired": "an issuing authority stopped issuing",
    "ca.saved": "a backup of the authorities' keys was made",
    "ca.restored": "the authorities' keys were restored from a backup",
    "device.registered": "a device was entered into the registry",
    "device.updated": "a device's record was changed",
    "device.retired": "a device went out of service",
    "devices.imported": "a list of devices was entered into the registry",
    "devices.compared": "the registry was compared with a platform's catalog",
    "certificate.issued": "a certificate was issued",
    "certificate.renewed": "a certificate was renewed",
    "certificate.revoked": "a certificate was revoked",
    "certificate.refused": "an enrolment was refused",
    "enrolment.allowed": "a device was allowed to enrol with a one-time secret",
    "enrolment.withdrawn": "a one-time secret that was not yet used was withdrawn",
    "provision.started": "certificates for many devices were begun",
    "provision.finished": "certificates for many devices were delivered",
    "provision.failed": "certificates for many devices were broken off",
    "endpoints.probed": "live devices were asked for their certificates",
    "crl.published": "a certificate revocation list was published",
    # video evidence
    "video.signed": "a recording was signed",
    "video.sealed": "a recording was sealed by a manifest",
    "video.verified": "a recording was verified",
    "video.protected": "a recording was encrypted",
    "video.unprotected": "a recording was decrypted",
    "clip.made": "a clip was cut from a recording",
    "evidence.exported": "an evidence bundle was handed out",
    "evidence.verified": "an evidence bundle was verified",
    # access to video on the platform
    "video.viewed": "live video was watched",
    "video.played": "recorded video was played back",
    "video.downloaded": "recorded video was downloaded",
    "video.exported": "recorded video was exported",
    "video.queried": "recordings were searched",
    "video.shared": "video was shared with another party",
    "video.deleted": "recorded video was deleted",
    "camera.controlled": "a camera was moved or configured (PTZ)",
    "user.logged-in": "a user signed in",
    "user.logged-out": "a user signed out",
    "user.changed": "an account or its rights were changed",
    "config.changed": "a platform's configuration was changed",
    "key.released": "a decryption key was released",
    "log.received": "a message of a system's log was taken in as it is",
    # isolation
    "scan.started": "an isolation scan began",
    "scan.finished": "an isolation scan ended with a verdict",
    "scan.failed": "an isolation scan ended without a verdict",
    "finding.opened": "a scan found a leak that was not known",
    "finding.reopened": "a scan found a leak that had been closed",
    "finding.closed": "a leak was closed: by a scan that did not find it again, or under a case number",
    "baseline.set": "a scan was made the one that others are compared with",
    # audit and the ledger itself
    "audit.imported": "a file of events was imported",
    "audit.searched": "an auditor searched the events",
    "audit.reconciled": "an index was compared with the ledger",
    "index.refused": "a search server did not take an event, which was put aside",
    "audit.pruned": "bodies of events were deleted by policy",
    "audit.held": "events were put on hold for a case",
    "audit.released": "a hold on events was released",
    "audit.reported": "a report on accesses was made",
    "ledger.filled": "an entry that fills up a bundle, so that the journal lets go of deleted events",
    "record.rejected": "a record that could not be read was put aside",
    "source.lost": "a source lost records or fell silent",
    "source.returned": "a source that had fallen silent sends again",
    "source.drifted": "a source's clock does not agree with this machine's",
    "source.allowed": "a token to hand in events was made",
    "source.withdrawn": "a token to hand in events was withdrawn",
    "clock.jumped": "this machine's clock was set back or forward",
    "collect.started": "collecting from the sources began",
    "collect.finished": "collecting from the sources ended",
    "collect.failed": "collecting from the sources was broken off",
    "import.started": "an import began",
    "import.finished": "an import ended",
    "import.failed": "an import was broken off",
}

ACCESS_KINDS = frozenset(
    {
        "camera.controlled",
        "config.changed",
        "key.released",
        "user.changed",
        "user.logged-in",
        "user.logged-out",
        "video.deleted",
        "video.downloaded",
        "video.exported",
        "video.played",
        "video.queried",
        "video.shared",
        "video.viewed",
    }
)
"""Acts on video whose `data` has the fields of `secguard.events.access.Access`."""

SOURCE_KINDS = ACCESS_KINDS | {"log.received", "source.lost"}
"""What a platform may report; all other acts are recorded by secguard itself, and other rooms rely on that."""

ALIASES: dict[str, str] = {
    "video.view": "video.viewed",
    "video.live": "video.viewed",
    "live.view": "video.viewed",
    "live.viewed": "video.viewed",
    "video.play": "video.played",
    "video.playback": "video.played",
    "playback.started": "video.played",
    "video.download": "video.downloaded",
    "video.export": "video.exported",
    "video.query": "video.queried",
    "video.search": "video.queried",
    "video.searched": "video.queried",
    "video.retrieve": "video.downloaded",
    "video.retrieved": "video.downloaded",
    "video.share": "video.shared",
    "video.delete": "video.deleted",
    "camera.control": "camera.controlled",
    "camera.ptz": "camera.controlled",
    "ptz.control": "camera.controlled",
    "user.login": "user.logged-in",
    "user.logout": "user.logged-out",
    "config.change": "config.changed",
    "key.release": "key.released",
}
"""What sources write instead; import maps them, and keeps the word they wrote in `data.source_kind`."""


def canonical_kind(kind: str) -> str:
    """Map a source's word to the closed list.

    Raises:
        FormatError: the kind is neither in the list nor an alias; the hint names near ones.
    """
    if kind in KINDS:
        return kind
    if kind in ALIASES:
        return ALIASES[kind]
    near = difflib.get_close_matches(kind[:64], [*KINDS, *ALIASES], n=3)
    raise FormatError(
        "events.kind.unknown",
        f"unknown kind {kind[:64]!r}",
        hint=f"did you mean {' or '.join(near)}?" if near else "docs/events.md lists the kinds",
        where="kind",
    )
