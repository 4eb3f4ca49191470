"""What a request (PKCS#10) says about its sender, held against who has been authenticated.

What the certificate says comes from the registry and the profile, never from the request. But a request that names
another device is a mistake or an attack, and is refused.
"""

import base64
import hmac

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from secguard.core import FormatError, RefusedError
from secguard.gbid import GbId
from secguard.trust import der

__all__ = ["Claims", "check_binding", "check_identity", "check_same_subject", "read_claims", "wants_encrypted_key"]

_MAX_CSR = 16 << 10
_PERMANENT_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.3")
_CHALLENGE = x509.ObjectIdentifier("1.2.840.113549.1.9.7")
# DecryptKeyIdentifier and AsymmetricDecryptKeyIdentifier (RFC 7030, 4.4.1)
_ENCRYPTED = {
    x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.37"),
    x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.54"),
}


class Claims:
    """What a request says.

    Args:
        data: PKCS#10 in DER.

    Raises:
        FormatError: `identity.csr.format`: it cannot be read.

    Attributes:
        subject: (type, value) of each attribute of the subject.
        names: its subject alternative names.
        challenge: its challengePassword, or None.
        attributes: types of its attributes.
    """

    def __init__(self, data: bytes) -> None:
        try:
            if len(data) > _MAX_CSR:
                raise ValueError("too large")
            csr = x509.load_der_x509_csr(data)
            self.subject = [(item.oid, str(item.value)) for item in csr.subject]
            self.attributes = {item.oid for item in csr.attributes}
            self.names: list[x509.GeneralName] = []
            if csr.attributes:
                try:
                    self.names = list(csr.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value)  # type: ignore[call-overload] # the OID says which class the value has
                except x509.ExtensionNotFound:
                    self.names = []
            self.challenge = next((item.value for item in csr.attributes if item.oid == _CHALLENGE), None)
        except Exception as error:
            # whatever a hostile request provokes in the parser means the same
            raise FormatError("identity.csr.format", "not a certificate request (PKCS#10)") from error

    def _values(self, oid: x509.ObjectIdentifier) -> list[str]:
        return [value for kind, value in self.subject if kind == oid]

    @property
    def ids(self) -> list[str]:
        """Everything in it that has the form of a GB/T 28181 ID, or is a permanent identifier."""
        names = [*self._values(NameOID.COMMON_NAME), *self._values(NameOID.SERIAL_NUMBER)]
        found = [name.strip() for name in names if len(name.strip()) == 20 and name.strip().isdecimal()]
        others = [name for name in self.names if isinstance(name, x509.OtherName)]
        return found + [_identifier(name.value) for name in others if name.type_id == _PERMANENT_IDENTIFIER]

    @property
    def vendor_serials(self) -> list[str]:
        """Serial numbers in the subject that are no IDs."""
        return [value for value in self._values(NameOID.SERIAL_NUMBER) if not (len(value) == 20 and value.isdecimal())]


def _identifier(value: bytes) -> str:
    """The identifierValue of a PermanentIdentifier (RFC 4043)."""
    try:
        fields = list(der.children(der.single(value, der.SEQUENCE)))
        if fields and fields[0][0] == der.UTF8_STRING:
            return fields[0][1].decode("utf-8")
    except (FormatError, ValueError):
        pass
    return ""


def read_claims(data: bytes) -> Claims:
    """Read what a request says.

    Raises:
        FormatError: `identity.csr.format`.
    """
    return Claims(data)


def check_identity(claims: Claims, gbid: GbId, vendor_serial: str) -> None:
    """A request that names a device must name the authenticated one.

    Raises:
        RefusedError: `identity.enrol.other`: it names another ID, or another maker's serial number than is registered.
    """
    for value in claims.ids:
        if value != gbid.value:
            raise RefusedError(
                "identity.enrol.other",
                f"the request names {value[:40]!r}, the sender is {gbid}",
                hint="a device can only enrol for itself",
            )
    for value in claims.vendor_serials:
        if vendor_serial and value != vendor_serial:
            raise RefusedError(
                "identity.enrol.other",
                f"the request is of the device with the maker's serial number {value[:40]!r}; "
                f"{gbid} is registered with another",
                hint="this is another device, or the register is wrong",
            )


def check_same_subject(claims: Claims, certificate: x509.Certificate, gbid: GbId) -> None:
    """A request to re-enrol repeats subject and alternative names of the certificate (RFC 7030, 4.2.2).

    What it leaves out is not held against it, as long as it names the ID: many clients can give a CN only.

    Raises:
        RefusedError: `identity.enrol.subject`.
    """
    known = {(item.oid, str(item.value)) for item in certificate.subject}
    extra = [value for kind, value in claims.subject if (kind, value) not in known]
    if extra:
        raise RefusedError(
            "identity.enrol.subject",
            f"the request's subject holds {extra[0][:40]!r}, which the certificate's does not",
            hint="to re-enrol, repeat the certificate's subject",
        )
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        own = x509.SubjectAlternativeName([])
    if any(name not in set(own) for name in claims.names):
        raise RefusedError(
            "identity.enrol.subject",
            "the request asks for a subject alternative name that the certificate does not hold",
            hint="to re-enrol, repeat the certificate's names, or ask for none",
        )
    if gbid.value not in claims.ids:
        raise RefusedError(
            "identity.enrol.subject",
            "the request does not name the device",
            hint=f"to re-enrol, repeat the certificate's subject: CN={gbid}",
        )


def check_binding(claims: Claims, tls_unique: bytes | None) -> None:
    """Where a request is bound to the connection, by tls-unique as its challengePassword (RFC 7030, 3.5), check it.

    TLS 1.3 has no tls-unique (RFC 8446, C.5), so a request that holds a challengePassword cannot be checked there and
    is refused as well: what claims to be bound must never pass unchecked.

    Args:
        claims: the request's.
        tls_unique: the connection's value (RFC 5929, 3); None if it has none.

    Raises:
        RefusedError: `identity.enrol.binding`.
    """
    if claims.challenge is None:
        return
    expected = base64.b64encode(tls_unique) if tls_unique else b""
    if not expected or not hmac.compare_digest(claims.challenge, expected):
        raise RefusedError(
            "identity.enrol.binding",
            "the request's challengePassword is not the tls-unique value of this connection",
            hint="leave it out; or put tls-unique in it and connect by TLS 1.2, for TLS 1.3 has none",
        )


def wants_encrypted_key(claims: Claims) -> bool:
    """Tell whether a request for a server-made key asks for it to be encrypted once more (RFC 7030, 4.4.1)."""
    return bool(claims.attributes & _ENCRYPTED)
