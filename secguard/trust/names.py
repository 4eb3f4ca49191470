"""The GB/T 28181 ID in a certificate: a permanentIdentifier (RFC 4043) in the subject's alternative name."""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from secguard.core.errors import FormatError, UsageError
from secguard.gbid import GbId
from secguard.trust import der
from secguard.trust.oids import GBID_ASSIGNER, HARDWARE_ARC

__all__ = ["MALFORMED", "common_name", "gbid_of", "hardware_module_name", "permanent_identifier", "title"]

MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for what it cannot read; it parses lazily, so any look at a certificate may raise."""

_PERMANENT_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.3")
_HARDWARE_MODULE_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4")
_ASSIGNER = der.oid(GBID_ASSIGNER.dotted_string)


def permanent_identifier(gbid: GbId) -> x509.OtherName:
    """`PermanentIdentifier ::= SEQUENCE { identifierValue UTF8String, assigner OBJECT IDENTIFIER }`."""
    value = der.sequence(der.encode(der.UTF8_STRING, gbid.value.encode("ascii")), _ASSIGNER)
    return x509.OtherName(_PERMANENT_IDENTIFIER, value)


def hardware_module_name(type_code: str, vendor_serial: str) -> x509.OtherName:
    """`HardwareModuleName ::= SEQUENCE { hwType OBJECT IDENTIFIER, hwSerialNum OCTET STRING }` (RFC 4108)."""
    value = der.sequence(
        der.oid(f"{HARDWARE_ARC}.{int(type_code)}"), der.encode(der.OCTET_STRING, vendor_serial.encode("utf-8"))
    )
    return x509.OtherName(_HARDWARE_MODULE_NAME, value)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's one CN, or an empty string."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def title(certificate: x509.Certificate) -> str:
    """A short name for findings: the CN, else the subject, at most 80 printable characters."""
    try:
        text = common_name(certificate) or certificate.subject.rfc4514_string()
    except MALFORMED:
        text = ""
    return "".join(c if c.isprintable() else "?" for c in text[:80]) or "unnamed certificate"


def gbid_of(certificate: x509.Certificate, *, trust_cn: bool = False, common: str | None = None) -> GbId | None:
    """The GB/T 28181 ID that a certificate is bound to, or None.

    Args:
        certificate: the end entity.
        trust_cn: take a CN of 20 digits when there is no permanentIdentifier (makers' own certificates).
        common: the CN, if it was read before.

    Raises:
        FormatError: `trust.gbid.format`: an identifier that is no ID, two of them, or one that the CN contradicts.
        ValueError: the certificate's extensions cannot be parsed.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    found = []
    for name in names.get_values_for_type(x509.OtherName):
        if name.type_id != _PERMANENT_IDENTIFIER:
            continue
        value = _ours(name.value)
        if value is not None:
            found.append(value)
    cn = common_name(certificate) if common is None else common
    stated = cn if len(cn) == 20 and cn.isascii() and cn.isdigit() else None
    if len(found) > 1 or (found and stated is not None and found[0] != stated):
        raise FormatError("trust.gbid.format", "the certificate names two IDs")
    text = found[0] if found else stated if trust_cn else None
    if text is None:
        return None
    try:
        return GbId(text)
    except UsageError as error:
        raise FormatError("trust.gbid.format", f"the certificate's identifier is no GB/T 28181 ID: {error}") from error


def _ours(value: bytes) -> str | None:
    """The identifierValue when we are its assigner; other assigners number their own things (a maker's serials)."""
    fields = list(der.children(der.single(value, der.SEQUENCE)))
    if len(fields) != 2 or der.encode(*fields[1]) != _ASSIGNER:
        return None
    tag, content = fields[0]
    if tag != der.UTF8_STRING or not content.isascii():
        raise FormatError("trust.gbid.format", "the certificate's identifier is no GB/T 28181 ID")
    return content.decode("ascii")
