"""TLS between controller and agent, mutual: version 1.3, one root, and the peer's chain as it was verified.

What has expired passes the handshake and is refused with a sentence by `Trust.judge_peer`, which also asks for purpose
and revocation. Host names are not compared: an agent is known by the name in its certificate, wherever it listens.
"""

import os
import ssl
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secguard.core.errors import RefusedError, UsageError
from secguard.keys import Signer

__all__ = ["client_context", "peer_chain", "private_pem", "server_context"]

# X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h
_NO_CHECK_TIME = 0x200000


def private_pem(signer: Signer) -> bytes:
    """A key in clear, for OpenSSL or a child of this process; it goes to no disk.

    Raises:
        UsageError: the key does not leave its token.
    """
    try:
        return signer.private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    except (AttributeError, NotImplementedError, ValueError):
        raise UsageError(
            "isolation.key.token", "the key of an agent must be in a file", hint="issue a certificate with such a key"
        ) from None


def server_context(chain: bytes, key: bytes, anchors: str) -> ssl.SSLContext:
    """The agent's side; `chain` and `key` in PEM, `anchors` the roots that a client's certificate must lead to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # every connection shows its certificate anew
    return _mutual(context, chain, key, anchors)


def client_context(chain: bytes, key: bytes, anchors: str) -> ssl.SSLContext:
    """The controller's side; see `server_context`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _mutual(context, chain, key, anchors)


def _mutual(context: ssl.SSLContext, chain: bytes, key: bytes, anchors: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    memory = os.memfd_create("secguard-tls")  # OpenSSL reads a file; this one is on no disk
    try:
        os.write(memory, chain + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    except ssl.SSLError:
        raise UsageError(
            "isolation.key.certificate",
            "the key is not that of the certificate",
            hint="give --cert and --key that go together",
        ) from None
    finally:
        os.close(memory)
    context.load_verify_locations(cadata=anchors)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


def peer_chain(channel: Any) -> list[x509.Certificate]:
    """The certificates of the other end, leaf first, as the handshake verified them.

    Args:
        channel: the connection's `ssl.SSLObject`.

    Raises:
        RefusedError: there is none.
    """
    # Public from Python 3.13 on (list of DER); until then on the object inside, with objects that know their bytes.
    found = channel.get_verified_chain() if hasattr(channel, "get_verified_chain") else None
    if found is None and channel is not None:
        import _ssl

        inner = channel._sslobj  # noqa: SLF001 - see above
        found = [item.public_bytes(_ssl.ENCODING_DER) for item in inner.get_verified_chain() or ()]
    if not found:
        raise RefusedError("isolation.peer.certificate", "no certificate came with the connection")
    return [x509.load_der_x509_certificate(item) for item in found]
