"""Who a client on the network is: names in its certificate; and TLS that demands one."""

import contextlib
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from secguard.core import UsageError

__all__ = ["Names", "Revoked", "certificate_names", "tls_context", "trust"]


Revoked = Callable[[bytes], bool]
"""Whether a certificate, in DER, counts no more."""


class Names(NamedTuple):
    """What a certificate says of its holder: all names, and the SHA-256 of the certificate in hex."""

    names: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def shown(self) -> str:
        """The name that records show."""
        return self.names[0][:128] if self.names else self.fingerprint

    def match(self, wanted: Iterable[str]) -> bool:
        """Whether one of the names is wanted; an empty list wants all that have a certificate."""
        wanted = list(wanted)
        if not wanted:
            return bool(self.fingerprint)
        return any(self._is(one.strip().lower()) for one in wanted)

    def _is(self, wanted: str) -> bool:
        # RFC 5425, section 5.2: fingerprints as `SHA-256:AB:CD...`; names with `*` for the first label.
        digest = wanted.removeprefix("sha-256:").removeprefix("sha256:").replace(":", "")
        if self.fingerprint and digest == self.fingerprint:
            return True
        for name in (name.lower() for name in self.names):
            if name == wanted or (wanted.startswith("*.") and name.partition(".")[2] == wanted[2:] and "." in name):
                return True
        return False


def certificate_names(der: bytes | None) -> Names:
    """Names of a certificate: common name first, then DNS names and addresses."""
    if not der:
        return Names()
    import hashlib

    from cryptography import x509
    from cryptography.x509.oid import NameOID

    names: list[str] = []
    with contextlib.suppress(ValueError):
        certificate = x509.load_der_x509_certificate(der)
        names += [str(item.value) for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        with contextlib.suppress(x509.ExtensionNotFound):
            other = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names += other.get_values_for_type(x509.DNSName)
            names += [str(address) for address in other.get_values_for_type(x509.IPAddress)]
    return Names(tuple(dict.fromkeys(names)), hashlib.sha256(der).hexdigest())


def _private(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError("audit.source.tls", f"cannot read: {error.strerror}", where=str(path)) from error
    if mode & 0o077:
        raise UsageError(
            "audit.source.tls", "the key is readable by others", hint="chmod 600, and own it", where=str(path)
        )


def tls_context(
    certificate: Path, key: Path, ca: Path | str | None, *, crl: Path | None = None, demand: bool = True
) -> ssl.SSLContext:
    """TLS 1.2 or later of a server.

    Args:
        certificate: PEM chain.
        key: PEM key, mode 0600.
        ca: PEM file, or PEM text, of the CAs of clients; None: clients show no certificates.
        crl: PEM file of revocation lists of these CAs.
        demand: a client must show a certificate; else it may.

    Raises:
        UsageError: `audit.source.tls`: a file is missing, readable by others, or not what it should be.
    """
    _private(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise UsageError("audit.source.tls", f"no certificate with its key: {error}", where=str(certificate)) from error
    if ca is not None:
        trust(context, ca, crl=crl, demand=demand)
    return context


def trust(context: ssl.SSLContext, ca: Path | str | None, *, crl: Path | None = None, demand: bool = True) -> None:
    """Set whose clients are let in; see `tls_context`. None as `ca` leaves those that the context believes already.

    Raises:
        UsageError: `audit.source.tls`.
    """
    try:
        if isinstance(ca, Path):
            context.load_verify_locations(cafile=ca)
        elif ca is not None:
            context.load_verify_locations(cadata=ca)
        if crl is not None:
            context.load_verify_locations(cafile=crl)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    except (OSError, ssl.SSLError) as error:
        raise UsageError("audit.source.tls", f"no certificates of CAs: {error}", where=str(crl or ca)[:200]) from error
    context.verify_mode = ssl.CERT_REQUIRED if demand else ssl.CERT_OPTIONAL
