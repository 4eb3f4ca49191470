"""TLS of the enrolment service: its own certificate from the registry, and whose clients' certificates may be shown."""

import ipaddress
import os
import ssl
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from secguard.core import UsageError
from secguard.core.limits import read_bounded
from secguard.identity import Authority, CertificateRecord
from secguard.identity.registry import Registry
from secguard.trust import chain_pem

__all__ = ["PROFILE", "credentials", "find_server", "server_context"]

PROFILE = "server"
"""The profile of the service's own certificate."""

# X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h: what has expired is refused with a sentence, not by the handshake.
_NO_CHECK_TIME = 0x200000
_MAX_KEY = 64 << 10


def find_server(registry: Registry, name: str) -> CertificateRecord:
    """The certificate of the service.

    Args:
        registry: an open registry.
        name: the host that devices connect to; an unspecified address (0.0.0.0, ::) stands for the latest one.

    Raises:
        UsageError: `service.certificate.none`: there is none.
    """
    host = name.strip("[]").lower()
    try:
        anywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        anywhere = not host
    holders = registry.holders(PROFILE) if anywhere else [host]
    record = registry.active(holders[0], PROFILE) if holders else None
    if record is None:
        what = "HOST" if anywhere else host
        raise UsageError(
            "service.certificate.none",
            f"no server certificate{'' if anywhere else f' for {host}'}",
            hint=f"run: secguard identity issue {what} --profile {PROFILE}"
            + (" (HOST: the name or address that devices connect to)" if anywhere else ""),
        )
    return record


def credentials(authority: Authority, record: CertificateRecord) -> tuple[bytes, bytes]:
    """Chain and key of the service, both in PEM, the key in clear: for the process that serves, by a pipe.

    Raises:
        UsageError: the key is not in a file here, or the passphrase is wrong.
        RefusedError: the key file is readable by others.
        FormatError: the key file holds another key.
    """
    authority.holder_signer(record.holder, record.profile)  # says what is wrong with the file, better than OpenSSL
    reference = authority.locate(record.key)
    if not reference.startswith("file:"):
        raise UsageError(
            "service.certificate.key", "the key of the service must be in a file", hint="issue it with a key of its own"
        )
    data = read_bounded(Path(reference.removeprefix("file:")), _MAX_KEY)
    try:
        key = load_pem_private_key(data, authority.passphrase)
    except TypeError:  # the file is in clear, though there is a passphrase
        key = load_pem_private_key(data, None)
    return chain_pem(authority.chain(record)), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def server_context(chain: bytes, key: bytes, anchors: Iterable[x509.Certificate]) -> ssl.SSLContext:
    """TLS 1.2 or later; a client certificate is asked for, not demanded, and must lead to an anchor if one is shown.

    Args:
        chain: the service's certificate and its CA's, PEM.
        key: its key, PEM in clear.
        anchors: what clients' certificates may lead to.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # every connection shows its certificate anew
    context.set_alpn_protocols(["http/1.1"])
    memory = os.memfd_create("secguard-tls")  # OpenSSL reads a file; this one is on no disk
    try:
        os.write(memory, chain + key)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
    context.load_verify_locations(cadata=chain_pem(list(anchors)).decode("ascii"))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context
