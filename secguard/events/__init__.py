"""Floor 2: the one vocabulary of acts, how an event is written down, and who records it."""

from secguard.events.acts import close_dangling, ending_id, long_act
from secguard.events.codec import MAX_EVENT, decode_stored, decode_untrusted, encode, encode_many
from secguard.events.event import Actor, Assurance, Event, Result, new_event_id
from secguard.events.kinds import ALIASES, KINDS, SOURCE_KINDS, canonical_kind
from secguard.events.recorder import Receipt, Recorder
from secguard.events.redact import redact

__all__ = [
    "ALIASES",
    "KINDS",
    "MAX_EVENT",
    "SOURCE_KINDS",
    "Actor",
    "Assurance",
    "Event",
    "Receipt",
    "Recorder",
    "Result",
    "canonical_kind",
    "close_dangling",
    "decode_stored",
    "decode_untrusted",
    "encode",
    "encode_many",
    "ending_id",
    "long_act",
    "new_event_id",
    "redact",
]
