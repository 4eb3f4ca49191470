"""Certificates and revocation lists from files: PEM or DER, bounded, and at most a few of them."""

from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import FormatError, UsageError
from secguard.core.limits import MAX_DOCUMENT, MAX_PEM, read_bounded
from secguard.trust.names import MALFORMED
from secguard.trust.ocsp import MAX_OCSP, OcspResponse

__all__ = [
    "MAX_CERTIFICATES",
    "chain_pem",
    "parse_certificates",
    "parse_crls",
    "read_certificates",
    "read_crls",
    "read_ocsp",
]

MAX_CERTIFICATES = 16
"""Certificates in one chain file; a real chain has two to four."""

_MAX_CRLS = 4096  # a city: shards of many CAs
_BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_BEGIN_CRL = b"-----BEGIN X509 CRL-----"
_END_CRL = b"-----END X509 CRL-----"


def parse_certificates(data: bytes, where: str = "") -> list[x509.Certificate]:
    """Read certificates in PEM, or one in DER.

    Raises:
        FormatError: `trust.certificate.format`, or `trust.chain.too-many` for more than `MAX_CERTIFICATES`.
    """
    count = data.count(_BEGIN_CERTIFICATE)
    if count > MAX_CERTIFICATES or len(data) > MAX_PEM:
        raise FormatError(
            "trust.chain.too-many", f"{count} certificates; {MAX_CERTIFICATES} are the limit", where=where
        )
    try:
        found = x509.load_pem_x509_certificates(data) if count else [x509.load_der_x509_certificate(data)]
        for certificate in found:
            _ = certificate.extensions  # parsed lazily; a duplicate or broken one must show here
    except MALFORMED as error:
        raise FormatError(
            "trust.certificate.format",
            "not a certificate in PEM or DER",
            hint="give the .pem that the issuing command wrote",
            where=where,
        ) from error
    return found


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read a file of certificates.

    Raises:
        UsageError: no such file.
        FormatError: as `parse_certificates`.
    """
    return parse_certificates(read_bounded(path, MAX_PEM), str(path))


def parse_crls(data: bytes, where: str = "") -> list[x509.CertificateRevocationList]:
    """Read revocation lists in PEM, one after the other, or one in DER.

    Raises:
        FormatError: `trust.crl.format`.
    """
    try:
        if _BEGIN_CRL not in data:
            return [x509.load_der_x509_crl(data)]
        blocks = [_BEGIN_CRL + block for block in data.split(_BEGIN_CRL)[1:]]
        if len(blocks) > _MAX_CRLS:
            raise ValueError
        return [x509.load_pem_x509_crl(block[: block.find(_END_CRL) + len(_END_CRL)] + b"\n") for block in blocks]
    except MALFORMED as error:
        raise FormatError("trust.crl.format", "not a certificate revocation list in PEM or DER", where=where) from error


def read_crls(paths: Iterable[Path]) -> list[x509.CertificateRevocationList]:
    """Read files of revocation lists; of a folder, its `*.crl` files.

    Raises:
        UsageError: no such file.
        FormatError: as `parse_crls`.
    """
    found: list[x509.CertificateRevocationList] = []
    for path in paths:
        files = sorted(path.glob("*.crl")) if path.is_dir() else [path]
        if len(files) > _MAX_CRLS:
            raise UsageError("trust.crl.too-many", f"more than {_MAX_CRLS} lists", where=str(path))
        for file in files:
            found += parse_crls(read_bounded(file, MAX_DOCUMENT), str(file))
    return found


def read_ocsp(paths: Iterable[Path]) -> list[bytes]:
    """Read files of OCSP responses in DER, one a file; of a folder, its `*.ocsp` and `*.der` files.

    Raises:
        UsageError: no such file.
        FormatError: `trust.ocsp.format`.
    """
    found: list[bytes] = []
    for path in paths:
        files = sorted(item for kind in ("*.ocsp", "*.der") for item in path.glob(kind)) if path.is_dir() else [path]
        if len(files) > _MAX_CRLS:
            raise UsageError("trust.ocsp.too-many", f"more than {_MAX_CRLS} responses", where=str(path))
        found += [OcspResponse(read_bounded(file, MAX_OCSP), str(file)).data for file in files]
    return found


def chain_pem(chain: Iterable[x509.Certificate]) -> bytes:
    """Certificates in PEM, one after the other."""
    return b"".join(item.public_bytes(Encoding.PEM) for item in chain)
