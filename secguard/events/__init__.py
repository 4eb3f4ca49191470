"""Floor 2: the one vocabulary of acts, how an event is written down, and who records it."""

from secguard.events.access import Access, AccessFile, access_of, check_access
from secguard.events.acts import close_dangling, ending_id, long_act
from secguard.events.codec import MAX_EVENT, decode_stored, decode_untrusted, encode, encode_many, event_from, read_json
from secguard.events.event import Actor, Assurance, Event, Result, new_event_id
from secguard.events.kinds import ACCESS_KINDS, ALIASES, KINDS, SOURCE_KINDS, canonical_kind
from secguard.events.recorder import Receipt, Recorder
from secguard.events.redact import may_hold_secrets, redact

__all__ = [
    "ACCESS_KINDS",
    "ALIASES",
    "KINDS",
    "MAX_EVENT",
    "SOURCE_KINDS",
    "Access",
    "AccessFile",
    "Actor",
    "Assurance",
    "Event",
    "Receipt",
    "Recorder",
    "Result",
    "access_of",
    "canonical_kind",
    "check_access",
    "close_dangling",
    "decode_stored",
    "decode_untrusted",
    "encode",
    "encode_many",
    "ending_id",
    "event_from",
    "long_act",
    "may_hold_secrets",
    "new_event_id",
    "read_json",
    "redact",
]
