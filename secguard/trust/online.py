"""Status fetched from where a certificate says it is told: its OCSP responder (RFC 6960, A.1) and distribution points.

Plain HTTP only, as RFC 5280, 8 asks for: what comes is signed. No redirects, no proxies, bounded in time and size. Only
certificates of a verified path are asked about, so that strangers cannot choose whom this machine connects to.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from secguard.core import Finding, SecguardError, finding
from secguard.core.limits import MAX_DOCUMENT
from secguard.trust.facts import facts_of
from secguard.trust.names import MALFORMED
from secguard.trust.ocsp import MAX_OCSP, OcspResponse
from secguard.trust.pem import parse_crls

__all__ = ["Gathered", "gather"]

_SECONDS = 10.0
_MAX_URLS = 4


@dataclass
class Gathered:
    """What was fetched; may be filled for many certificates, each place is asked once for each.

    Attributes:
        crls: revocation lists, as they came: unverified.
        ocsp: OCSP responses in DER, as they came: unverified.
        findings: remarks on places that gave nothing usable.
        asked: URLs of lists that were asked for.
        dead: hosts that did not answer in time; they are not asked again.
    """

    crls: list[x509.CertificateRevocationList] = field(default_factory=list)
    ocsp: list[bytes] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)


def gather(path: Sequence[x509.Certificate], into: Gathered, *, seconds: float = _SECONDS) -> None:
    """Ask the places that the certificates of a verified path name for their status.

    Args:
        path: end entity first, trust anchor last; the anchor has no status.
        into: where the answers go.
        seconds: time for one answer.
    """
    for certificate, issuer in pairwise(path):
        for url in list(_responders(certificate))[:_MAX_URLS]:
            _fetch(url, into, seconds, certificate, issuer)
        for url in sorted(_points(certificate))[:_MAX_URLS]:
            if url not in into.asked:
                into.asked.add(url)
                _fetch(url, into, seconds)


def _fetch(
    url: str,
    into: Gathered,
    seconds: float,
    certificate: x509.Certificate | None = None,
    issuer: x509.Certificate | None = None,
) -> None:
    where = urlsplit(url).netloc
    if where in into.dead:
        return
    try:
        if certificate is not None and issuer is not None:
            into.ocsp.append(_ask(url, certificate, issuer, seconds))
        else:
            into.crls += parse_crls(_exchange(url, None, seconds, MAX_DOCUMENT), url)
    except OSError as error:
        # A dead host costs its time-out once, not once a certificate.
        into.dead.add(where)
        into.findings.append(finding("trust.online.unreachable", url[:200], url=url[:200], reason=_reason(error)))
    except (SecguardError, ValueError) as error:
        into.findings.append(finding("trust.online.unreachable", url[:200], url=url[:200], reason=_reason(error)))


def _reason(error: Exception) -> str:
    text = getattr(error, "message", None) or getattr(error, "strerror", None) or str(error)
    return text[:200] or type(error).__name__


def _ask(url: str, certificate: x509.Certificate, issuer: x509.Certificate, seconds: float) -> bytes:
    nonce = os.urandom(16)
    request = (
        ocsp.OCSPRequestBuilder()
        # SHA-1 in a CertID names, it does not protect; every responder knows it (RFC 5019, 2.1.1).
        .add_certificate(certificate, issuer, hashes.SHA1())  # noqa: S303
        .add_extension(x509.OCSPNonce(nonce), critical=False)
        .build()
    )
    data = _exchange(url, request.public_bytes(Encoding.DER), seconds, MAX_OCSP)
    response = OcspResponse(data, url)
    try:
        stated = response.nonce if not response.refused else None
    except MALFORMED as error:
        raise ValueError("a response that cannot be read") from error
    if stated is not None and stated != nonce:
        raise ValueError("an answer to another request (its nonce is not ours)")
    return data


def _exchange(url: str, body: bytes | None, seconds: float, limit: int) -> bytes:
    """One GET, or POST of an OCSP request.

    Raises:
        OSError: no connection, or too slow.
        ValueError: no http URL, another status than 200, or more than `limit` bytes.
    """
    import http.client  # only when something is asked

    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.username is not None:
        raise ValueError("not a plain http URL")
    until = time.monotonic() + seconds
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=seconds)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Content-Type": "application/ocsp-request"} if body is not None else {}
        connection.request("POST" if body is not None else "GET", target, body, headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"HTTP status {answer.status}")
        data = bytearray()
        while part := answer.read1(1 << 16):
            data += part
            if len(data) > limit:
                raise ValueError(f"more than {limit} bytes")
            if time.monotonic() > until:
                raise TimeoutError("too slow")
        return bytes(data)
    except http.client.HTTPException as error:
        raise ValueError(f"not HTTP: {type(error).__name__}") from error
    finally:
        connection.close()


def _responders(certificate: x509.Certificate) -> Iterator[str]:
    access = facts_of(certificate).get(x509.AuthorityInformationAccess)
    for item in access or ():
        if item.access_method == AuthorityInformationAccessOID.OCSP:
            yield from _url(item.access_location)


def _points(certificate: x509.Certificate) -> set[str]:
    return {url for name in facts_of(certificate).points for url in _url(name)}


def _url(name: x509.GeneralName) -> Iterator[str]:
    if isinstance(name, x509.UniformResourceIdentifier) and name.value.lower().startswith("http:"):
        yield name.value
