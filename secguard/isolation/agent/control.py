"""Control messages: orders of the controller and answers of the agent, one format for every way of carrying them.

A message is one line of JSON: a DSSE envelope, and for a plan or observations a second envelope, bound to the first by
its SHA-256. An order is signed by the key that the plan names as its controller, and says agent, run, plan and a number
that only grows: it cannot be used for another agent, another run, or twice. An answer is signed by the agent's key.
"""

import hashlib
import secrets
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from secguard.core.errors import FormatError, RefusedError, SecguardError, SystemPartError
from secguard.core.limits import MAX_DOCUMENT
from secguard.keys import Signer, seal, unseal

__all__ = [
    "ANSWER_TYPE",
    "MAX_MESSAGE",
    "ORDER_TYPE",
    "Answer",
    "Controller",
    "Message",
    "Order",
    "Problem",
    "open_answer",
    "open_message",
    "open_order",
]

ORDER_TYPE = "application/vnd.secguard.isolation.order+json"
ANSWER_TYPE = "application/vnd.secguard.isolation.answer+json"
MAX_MESSAGE = MAX_DOCUMENT
"""Bytes of a message."""
_MAX_TEXT = 400
_MAX_PROBLEMS = 1000


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an agent is to do.

    Attributes:
        op: `plan` takes and checks the attached plan and gets ready, `phase` sends one phase, `sweep` sends its part of
            one round of the sweeps and `keep` ends that round, `report` stops and brings the observations, `stop` ends
            the run without any.
        agent: whom it is for.
        run: the run ID of the plan.
        plan: SHA-256 of the plan's payload.
        seq: grows with each order of a run and agent.
        number: the phase, 1 to 3, or the round.
        attached: SHA-256 of the attached document; empty if there is none.
    """

    op: Literal["plan", "phase", "sweep", "keep", "report", "stop"]
    agent: str
    run: str
    plan: str
    seq: int
    number: int = 0
    attached: str = ""
    v: Literal[1] = 1


class Problem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error as an agent tells it."""

    code: str
    message: str
    hint: str = ""
    where: str = ""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an agent says.

    Attributes:
        op: the order's, or `hello` (the first word of an agent), or `progress` while an order is being carried out.
        agent: who says it.
        run: the run; empty in `hello`.
        seq: the order's number.
        nonce: 16 random bytes in hex, so that no two answers are alike.
        addresses: in `hello`: its global addresses.
        key: in `hello`: its public key (SPKI, base64).
        certificate: in `hello`: SHA-256 of its certificate; empty if it has none.
        problems: what went wrong, in words.
        rounds: in `plan`: rounds of the sweeps that an earlier life of the agent has kept.
        error: why the order was not carried out.
        done: in `progress`: how much of `total` is done, in `unit`.
        attached: SHA-256 of the attached document; empty if there is none.
    """

    op: Literal["hello", "plan", "phase", "sweep", "keep", "report", "stop", "progress"]
    agent: str
    run: str = ""
    seq: int = 0
    nonce: str = msgspec.field(default_factory=lambda: secrets.token_hex(16))
    addresses: tuple[str, ...] = ()
    key: str = ""
    certificate: str = ""
    problems: tuple[str, ...] = ()
    rounds: tuple[int, ...] = ()
    error: Problem | None = None
    done: float = 0
    total: float = 0
    unit: str = ""
    attached: str = ""
    v: Literal[1] = 1

    def failure(self) -> SecguardError | None:
        """The error that it tells, if it tells one."""
        if self.error is None:
            return None
        kind = RefusedError if ".plan." in self.error.code else SystemPartError
        return kind(
            self.error.code[:100],
            f"agent {self.agent}: {self.error.message[:_MAX_TEXT]}",
            hint=self.error.hint[:_MAX_TEXT],
            where=self.error.where[:_MAX_TEXT],
        )


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An envelope and what is attached to it, each as the JSON it came in."""

    envelope: msgspec.Raw
    attached: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def document(self) -> bytes:
        """The attached envelope; empty if there is none."""
        return b"" if bytes(self.attached) == b"null" else bytes(self.attached)


def _pack(payload: Order | Answer, kind: str, signer: Signer, document: bytes) -> bytes:
    envelope = seal(msgspec.json.encode(payload), kind, signer).strip()
    return msgspec.json.encode(Message(msgspec.Raw(envelope), msgspec.Raw(document.strip() or b"null"))) + b"\n"


def _digest(document: bytes) -> str:
    return hashlib.sha256(document.strip()).hexdigest() if document.strip() else ""


def open_message(line: bytes) -> Message:
    """Take a line apart; nothing in it is believed yet.

    Raises:
        FormatError: not a message, or too large.
    """
    if len(line) > MAX_MESSAGE:
        raise FormatError("isolation.control.large", f"a message of more than {MAX_MESSAGE} bytes")
    try:
        return msgspec.json.decode(line, type=Message)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise FormatError("isolation.control.format", "not a control message") from None


def open_order(message: Message, key: PublicKeyTypes) -> Order:
    """Check an order's signature, and what is attached to it.

    Raises:
        FormatError: not an order.
        RefusedError: not signed by `key`, or with another attachment.
    """
    order: Order = _open(message, ORDER_TYPE, Order, key)
    return order


def open_answer(message: Message, key: PublicKeyTypes | None) -> Answer:
    """Check an answer's signature, and what is attached to it.

    Args:
        message: what came.
        key: the agent's key; None takes the one that a `hello` shows, which the caller has to judge.

    Raises:
        FormatError: not an answer.
        RefusedError: not signed by `key`, or with another attachment.
    """
    answer: Answer = _open(message, ANSWER_TYPE, Answer, key)
    return answer


def _open(message: Message, kind: str, form: Any, key: PublicKeyTypes | None) -> Any:
    from secguard.isolation.agent.keys import parse_key

    try:
        payload, signed = unseal(bytes(message.envelope), kind, [] if key is None else [key])
        value = msgspec.json.decode(payload, type=form)
        if key is None and value.op == "hello":
            _, signed = unseal(bytes(message.envelope), kind, [parse_key(value.key)])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise FormatError("isolation.control.format", "not a control message") from None
    if signed is None:
        raise RefusedError("isolation.control.signature", f"{'an order' if form is Order else 'an answer'} is forged")
    if value.attached != _digest(message.document):
        raise RefusedError("isolation.control.attached", "a control message came with another document than it says")
    return value


def answer(signer: Signer, document: bytes = b"", **values: Any) -> bytes:
    """An agent's signed answer, one line; `values` are those of `Answer`."""
    problems = tuple(text[:_MAX_TEXT] for text in values.pop("problems", ()))[:_MAX_PROBLEMS]
    said = Answer(problems=problems, attached=_digest(document), **values)
    return _pack(said, ANSWER_TYPE, signer, document)


class Controller:
    """Signs the orders of one run for its agents; the key is this run's alone."""

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self._seq = 0

    def order(self, agent: str, run: str, plan: str, op: str, *, number: int = 0, document: bytes = b"") -> bytes:
        """A signed order, one line."""
        self._seq += 1
        made = Order(
            op=op,  # type: ignore[arg-type]  # checked where it is opened
            agent=agent,
            run=run,
            plan=plan,
            seq=self._seq,
            number=number,
            attached=_digest(document),
        )
        return _pack(made, ORDER_TYPE, self.signer, document)
