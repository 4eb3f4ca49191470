"""OCSP responses (RFC 6960) as evidence: what a signer says of certificates, by serial number.

A response is believed about a certificate when its CertID is the certificate's, the issuing CA or a responder that this
CA itself certified signed it, and the judged time lies between thisUpdate and nextUpdate. Any other says nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from secguard.core import Finding, FormatError, finding, rfc3339
from secguard.trust import der
from secguard.trust.crl import Revocation, earlier
from secguard.trust.facts import WEAK_HASHES, Facts
from secguard.trust.names import MALFORMED

__all__ = ["MAX_OCSP", "OcspResponse", "cert_id", "judge_responses"]

MAX_OCSP = 1 << 20
"""Bytes of one response."""
_MAX_SINGLE = 4096
_MAX_CERTIFICATES = 8
_SKEW = timedelta(minutes=5)
"""How far the responder's clock may be ahead; also how long an answer without nextUpdate holds (2.4)."""
_HASHES = (hashes.SHA1, hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CONTEXT_0, _CONTEXT_1, _TIME, _BOOLEAN = 0xA0, 0xA1, 0x18, 0x01

Authorise = Callable[[x509.Certificate, Facts, datetime], str]
"""Why a certificate may not sign responses for an issuer at a time; empty if it may."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What one response says of one certificate.

    Attributes:
        response: where it stands.
        issuer_name_hash: of the CertID.
        issuer_key_hash: of the CertID.
        algorithm: of the CertID.
        status: good, revoked or unknown.
        this_update: the status was known to be right then.
        next_update: newer information will be there then; None if not stated.
        revocation: when and why, for `revoked`.
    """

    response: "OcspResponse"
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    algorithm: hashes.HashAlgorithm
    status: ocsp.OCSPCertStatus
    this_update: datetime
    next_update: datetime | None
    revocation: Revocation | None

    def about(self, issuer: Facts) -> bool:
        """Tell whether the CertID names this issuer."""
        return (self.issuer_name_hash, self.issuer_key_hash) == cert_id(issuer.certificate, self.algorithm.name)


class OcspResponse:
    """One response in DER, read once.

    Raises:
        FormatError: `trust.ocsp.format`: not a response, larger than `MAX_OCSP`, or more than 4096 answers.
    """

    def __init__(self, data: bytes, where: str = "") -> None:
        if len(data) > MAX_OCSP:
            raise FormatError("trust.ocsp.format", f"an OCSP response of more than {MAX_OCSP} bytes", where=where)
        self.data = data
        self._signers: dict[x509.Certificate, x509.Certificate | None] = {}
        try:
            self._response = ocsp.load_der_ocsp_response(data)
            self.refused = (
                ""
                if self._response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
                else self._response.response_status.name.lower().replace("_", " ")
            )
            self.statements = {} if self.refused else self._read()
        except (FormatError, *MALFORMED) as error:
            raise FormatError(
                "trust.ocsp.format",
                "not an OCSP response in DER",
                hint="openssl ocsp -respout writes one",
                where=where,
            ) from error

    def _read(self) -> dict[int, tuple[Statement, ...]]:
        found: dict[int, tuple[Statement, ...]] = {}
        for count, item in enumerate(self._response.responses):
            if count >= _MAX_SINGLE:
                raise ValueError("too many answers")
            statement = Statement(
                self,
                item.issuer_name_hash,
                item.issuer_key_hash,
                item.hash_algorithm,
                item.certificate_status,
                item.this_update_utc,
                item.next_update_utc,
                _revocation(item),
            )
            found[item.serial_number] = (*found.get(item.serial_number, ()), statement)
        if len(self._response.certificates) > _MAX_CERTIFICATES:
            raise ValueError("too many certificates")
        self.unsupported = _critical(self._response)
        return found

    def unsigned(self, issuer: Facts, at: datetime, authorise: Authorise) -> str:
        """Why no key that answers for `issuer` at a time signed this; empty if one did."""
        if issuer.certificate not in self._signers:
            if len(self._signers) >= _MAX_CERTIFICATES:
                self._signers.clear()
            self._signers[issuer.certificate] = self._signer(issuer.certificate)
        signer = self._signers[issuer.certificate]
        if signer is None:
            return "neither the CA nor a responder of its own signed it"
        # Whether a responder may sign depends on the time, so it is asked each time.
        return "" if signer == issuer.certificate else authorise(signer, issuer, at)

    def _signer(self, issuer: x509.Certificate) -> x509.Certificate | None:
        for certificate in (issuer, *self._response.certificates):
            if self._is_signer(certificate) and self._signed_with(certificate):
                return certificate
        return None

    def _is_signer(self, certificate: x509.Certificate) -> bool:
        if self._response.responder_name is not None:
            return self._response.responder_name == certificate.subject
        return self._response.responder_key_hash == _key_hash(certificate, hashes.SHA1())  # noqa: S303 - RFC 6960, 4.2.1

    def _signed_with(self, certificate: x509.Certificate) -> bool:
        response = self._response
        try:
            digest = response.signature_hash_algorithm
            if isinstance(digest, WEAK_HASHES):
                return False
            _verify(certificate.public_key(), response.signature, response.tbs_response_bytes, digest)
        except (InvalidSignature, *MALFORMED):
            return False
        return True

    @cached_property
    def nonce(self) -> bytes | None:
        """The nonce that it repeats, or None.

        Raises:
            ValueError: the extensions cannot be parsed.
        """
        try:
            return self._response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        except x509.ExtensionNotFound:
            return None


def _revocation(item: ocsp.OCSPSingleResponse) -> Revocation | None:
    if item.certificate_status is not ocsp.OCSPCertStatus.REVOKED:
        return None
    since = item.revocation_time_utc
    if since is None:
        raise ValueError("revoked at no time")
    return Revocation(since, str(item.revocation_reason.value) if item.revocation_reason else "unspecified")


def _critical(response: ocsp.OCSPResponse) -> bool:
    """Tell whether it has a critical extension; none is known here that must be understood."""
    if any(item.critical for item in response.extensions):
        return True
    fields = list(der.children(der.single(response.tbs_response_bytes, der.SEQUENCE)))
    at = 1 + next(number for number, (tag, _) in enumerate(fields) if tag == _TIME)
    for _, single in der.children(fields[at][1]):
        *_, (tag, last) = der.children(single)
        if tag == _CONTEXT_1 and any(
            kind == _BOOLEAN
            for _, extension in der.children(der.single(last, der.SEQUENCE))
            for kind, _ in der.children(extension)
        ):
            return True
    return False


def _verify(key: Any, signature: bytes, data: bytes, digest: hashes.HashAlgorithm | None) -> None:
    if isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
        key.verify(signature, data, ec.ECDSA(digest))
    elif isinstance(key, rsa.RSAPublicKey) and digest is not None:
        key.verify(signature, data, padding.PKCS1v15(), digest)
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        key.verify(signature, data)
    else:
        raise UnsupportedAlgorithm("a signature of an unknown kind")


@lru_cache(maxsize=256)
def cert_id(issuer: x509.Certificate, algorithm: str) -> tuple[bytes, bytes]:
    """Hash of the issuer's name and of its key (RFC 6960, 4.1.1); empty for an algorithm that is not accepted."""
    kind = next((item for item in _HASHES if item.name == algorithm), None)
    if kind is None:
        return b"", b""
    digest = hashes.Hash(kind())
    digest.update(issuer.subject.public_bytes())
    return digest.finalize(), _key_hash(issuer, kind())


def _key_hash(certificate: x509.Certificate, kind: hashes.HashAlgorithm) -> bytes:
    """Hash of the subjectPublicKey's bits, without tag, length and the count of unused bits."""
    data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (_, _), (_, bits) = der.children(der.single(data, der.SEQUENCE))
    digest = hashes.Hash(kind)
    digest.update(bits[1:])
    return digest.finalize()


def judge_responses(
    facts: Facts, issuer: Facts, statements: Sequence[Statement], at: datetime, authorise: Authorise
) -> Revocation | Finding | None:
    """Ask the responses about a certificate.

    Args:
        facts: the certificate.
        issuer: its verified issuer.
        statements: at least one, about this certificate's serial number; of any signer.
        at: the time to judge for, aware.
        authorise: judges certificates of delegated responders.

    Returns:
        None when the certificate was good at `at`; its revocation; or a finding that says why that is not known.
        Revoked beats everything; that the responder does not know the certificate beats good.
    """
    problem: Finding | None = None
    unknown: Finding | None = None
    revoked: Revocation | None = None
    good = False
    for item in statements:
        try:
            if not item.about(issuer):
                problem = problem or finding("trust.ocsp.other", facts.title, issuer=issuer.title)
                continue
            reason = item.response.unsigned(issuer, at, authorise)
        except (FormatError, *MALFORMED):
            reason = "its signer's certificate cannot be read"
        if reason:
            problem = finding("trust.ocsp.signature", facts.title, issuer=issuer.title, reason=reason)
        elif item.revocation is not None:
            # Revocation speaks even when the response is old, as an entry of an old list does.
            revoked = earlier(revoked, item.revocation)
        elif item.response.unsupported:
            problem = problem or finding("trust.ocsp.unsupported", facts.title)
        elif not item.this_update - _SKEW <= at <= (item.next_update or item.this_update + _SKEW):
            until = rfc3339(item.next_update) if item.next_update else "not stated"
            since = rfc3339(item.this_update)
            problem = finding("trust.ocsp.stale", facts.title, since=since, until=until, at=rfc3339(at))
        elif item.status is ocsp.OCSPCertStatus.GOOD:
            good = True
        else:
            unknown = finding("trust.ocsp.unknown", facts.title, issuer=issuer.title)
    if revoked is not None:
        return revoked
    if unknown is not None or good:
        return unknown
    assert problem is not None
    return problem
