"""The OCSP responder (RFC 6960; 9654 nonces; 9919 high volume): request bytes in, response bytes out.

Every answer is read from the registry at that moment, all certificates of a request at one point in time, so a
revocation that any process has committed is told from the next answer on. `good` is said only of certificates that were
issued; a serial number that the registry does not know, or whose certificate was never handed out, is `unknown`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secguard.core import Clock, FormatError, rfc3339
from secguard.identity.records import Status
from secguard.identity.registry import Registry
from secguard.identity.registry.revocations import Standing
from secguard.identity.status import der
from secguard.identity.status.crl import REASON_CODES
from secguard.identity.status.delegate import Delegate
from secguard.identity.status.request import CertId, OcspRequest, parse_request
from secguard.trust.der import children, oid, single

__all__ = ["INTERNAL_ERROR", "LIFETIME", "Answer", "Responder", "ResponseStatus"]

LIFETIME = timedelta(hours=1)
"""From thisUpdate to nextUpdate of a response."""

_CACHED = timedelta(seconds=60)
"""How long a response without a nonce is given again, while nothing changes in the registry."""
_MAX_CACHED = 4096

_BASIC = oid("1.3.6.1.5.5.7.48.1.1")
_NONCE = oid("1.3.6.1.5.5.7.48.1.2")
_CUTOFF = oid("1.3.6.1.5.5.7.48.1.6")
_INVALIDITY = oid("2.5.29.24")
_HASHES = {single(oid("1.3.14.3.2.26"), 0x06): "sha1", single(oid("2.16.840.1.101.3.4.2.1"), 0x06): "sha256"}
_GOOD, _UNKNOWN = b"\x80\x00", b"\x82\x00"
_HANDED_OUT = {Status.ACTIVE, Status.SUPERSEDED}


class ResponseStatus(IntEnum):
    """OCSPResponseStatus (RFC 6960, 4.2.1)."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    UNAUTHORIZED = 6


class Answer(NamedTuple):
    """A response.

    Attributes:
        der: its bytes.
        status: see `ResponseStatus`.
        this_update: when the answer was true; None for an error.
        next_update: until when it may be used; None for an error.
    """

    der: bytes
    status: ResponseStatus
    this_update: datetime | None = None
    next_update: datetime | None = None


def _error(status: ResponseStatus) -> Answer:
    return Answer(der.sequence(der.tlv(0x0A, bytes((status,)))), status)


INTERNAL_ERROR = _error(ResponseStatus.INTERNAL_ERROR)
"""The answer when the registry cannot be read."""


class Responder:
    """Answers for the CAs it is given.

    Args:
        registry: a connection of its own: it must not see what another thread has not committed yet.
        clock: gives the times of answers.
    """

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._issuers: dict[tuple[bytes, bytes, bytes], str] = {}
        self._cutoffs: dict[str, bytes] = {}
        self._delegates: dict[str, Delegate] = {}
        self._cache: dict[bytes, tuple[int, Answer]] = {}

    def serve(self, authorities: Iterable[tuple[str, x509.Certificate]], delegates: Iterable[Delegate]) -> None:
        """Take over the CAs to answer for, and the keys that answer; those before are forgotten."""
        issuers: dict[tuple[bytes, bytes, bytes], str] = {}
        cutoffs: dict[str, bytes] = {}
        for name, certificate in authorities:
            subject = certificate.subject.public_bytes()
            key = _key_bits(certificate)
            for algorithm, digest in _HASHES.items():
                issuers[algorithm, hashlib.new(digest, subject).digest(), hashlib.new(digest, key).digest()] = name
            value = der.tlv(0x04, der.generalized_time(certificate.not_valid_before_utc))
            cutoffs[name] = der.sequence(_CUTOFF, value)
        self._issuers, self._cutoffs = issuers, cutoffs
        self._delegates = {delegate.issuer: delegate for delegate in delegates}
        self._cache.clear()

    def respond(self, request: bytes) -> Answer:
        """Answer a request.

        The response is signed by the key that the CA of the certificates has delegated. Certificates of no CA of the
        site get `unknown` beside others; a request about those only, or about certificates of two CAs of the site, for
        which no one key may speak, is answered `unauthorized`.

        Raises:
            SystemPartError, sqlite3.Error: the registry cannot be read.
        """
        now = self._clock.now().astimezone(UTC).replace(microsecond=0)
        found = self._cached(request, now)
        if found is not None:
            return found
        try:
            parsed = parse_request(request)
        except FormatError:
            return _error(ResponseStatus.MALFORMED_REQUEST)
        if parsed.nonce is not None:
            return self._answer(parsed, now)
        version = self._registry.data_version()  # before the look-up: what changes in between must not be missed
        answer = self._answer(parsed, now)
        if answer.status is ResponseStatus.SUCCESSFUL:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[request] = version, answer
        return answer

    def _cached(self, request: bytes, now: datetime) -> Answer | None:
        """An answer given a moment ago, if nothing was committed since."""
        version, found = self._cache.get(request, (0, None))
        if found is None or found.this_update is None or not timedelta() <= now - found.this_update < _CACHED:
            return None
        return found if self._registry.data_version() == version else None

    def _answer(self, request: OcspRequest, now: datetime) -> Answer:
        names = {self._issuers.get(one.issuer) for one in request.certificates} - {None}
        if len(names) != 1:
            return _error(ResponseStatus.UNAUTHORIZED)
        (name,) = names
        delegate = self._delegates.get(name or "")
        if name is None or delegate is None:
            return _error(ResponseStatus.UNAUTHORIZED)
        until = min(now + LIFETIME, delegate.not_after)
        if not delegate.not_before <= now < until:
            return _error(ResponseStatus.TRY_LATER)
        rows = self._look_up(name, request.certificates)
        update, times, today = _times(now, until)
        singles = [self._single(one, name, rows, times, today) for one in request.certificates]
        nonce = b""
        if request.nonce is not None:
            nonce = der.tlv(0xA1, der.sequence(der.sequence(_NONCE, der.tlv(0x04, der.tlv(0x04, request.nonce)))))
        body = der.sequence(delegate.responder, update, der.sequence(*singles), nonce)
        signature = der.tlv(0x03, b"\x00", delegate.sign(body))
        basic = der.sequence(body, delegate.algorithm, signature, delegate.certificates)
        response = der.sequence(b"\x0a\x01\x00", der.tlv(0xA0, der.sequence(_BASIC, der.tlv(0x04, basic))))
        return Answer(response, ResponseStatus.SUCCESSFUL, now, until)

    def _look_up(self, name: str, wanted: Sequence[CertId]) -> dict[str, Standing]:
        serials = {_hex(one.serial) for one in wanted if self._issuers.get(one.issuer) == name}
        return self._registry.status_of(name, tuple(serials))

    def _single(self, one: CertId, name: str, rows: dict[str, Standing], times: bytes, now: str) -> bytes:
        """A SingleResponse."""
        row = rows.get(_hex(one.serial)) if self._issuers.get(one.issuer) == name else None
        extensions = b""
        if row is not None and row.status == Status.REVOKED:
            status = _revoked(row)
            if row.invalid_since is not None:
                value = der.generalized_time(datetime.fromisoformat(row.invalid_since))
                extensions += der.sequence(_INVALIDITY, der.tlv(0x04, value))
        else:
            status = _GOOD if row is not None and row.status in _HANDED_OUT else _UNKNOWN
        if row is not None and row.not_after < now:
            extensions += self._cutoffs[name]  # the registry forgets nothing (RFC 6960, 4.4.4)
        tail = der.tlv(0xA1, der.sequence(extensions)) if extensions else b""
        return der.sequence(one.raw, status, times, tail)


@lru_cache(maxsize=16)
def _times(now: datetime, until: datetime) -> tuple[bytes, bytes, str]:
    """thisUpdate, and it with nextUpdate, in DER; and as the registry writes it."""
    update = der.generalized_time(now)
    return update, update + der.tlv(0xA0, der.generalized_time(until)), rfc3339(now)


def _revoked(row: Standing) -> bytes:
    assert row.revoked is not None
    code = REASON_CODES.get(row.reason or "")
    reason = der.tlv(0xA0, bytes((0x0A, 1, code))) if code is not None else b""
    return der.tlv(0xA1, der.generalized_time(datetime.fromisoformat(row.revoked)), reason)


def _hex(serial: int) -> str:
    return f"{serial:032x}"


def _key_bits(certificate: x509.Certificate) -> bytes:
    """The subjectPublicKey without its count of unused bits: what issuerKeyHash is over (RFC 6960, 4.1.1)."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (_, _), (_, bits) = children(single(info, 0x30))
    return bits[1:]
