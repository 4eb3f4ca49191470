"""Certificates of devices from a template: the same bytes as the builder's, at a fraction of its price.

A template is cut from a certificate that `build_leaf` made and a verifier believed. What all certificates of its kind
share (version, algorithm, issuer, C, O, OU, and all extensions but three) is kept in DER; serial number, validity, CN,
the maker's serial number, the key and its identifier, the alternative names and the list's address are put in. A kind
is profile, CA, site, region, type code and kind of key, so nothing else differs; a test holds the result against the
builder's for any of them.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from secguard.core import FormatError
from secguard.gbid import GbId
from secguard.identity.certificate import Validity, distribution_points, shard_of
from secguard.identity.config import IdentityConfig
from secguard.identity.profiles import Profile
from secguard.keys import Algorithm, Signer
from secguard.trust import der, hardware_module_name, permanent_identifier

__all__ = ["Template", "signs_templates"]

_INTEGER, _BIT_STRING, _UTC_TIME, _GENERALIZED_TIME, _SET = 0x02, 0x03, 0x17, 0x18, 0x31
_OTHER_NAME = _EXPLICIT_0 = 0xA0
_DNS_NAME, _EXTENSIONS = 0x82, 0xA3
_SKI, _SAN, _CDP = (
    der.oid(item.dotted_string)
    for item in (
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
    )
)
_SERIAL_NUMBER, _COMMON_NAME = der.oid("2.5.4.5"), der.oid("2.5.4.3")
_SHARED_NAMES = 3  # C, O, OU
_FIELDS = 8  # of a TBSCertificate of version 3 without the unique identifiers

_Part = Callable[[GbId, int, bytes, str], bytes]


def signs_templates(signer: Signer) -> bool:
    """Tell whether `Signer.sign` signs as X.509 builders do; RSA does not: PSS there, PKCS#1 v1.5 here."""
    return signer.algorithm is not Algorithm.RSA


class Template:
    """What the certificates of one kind share.

    Args:
        certificate: a device's, made by `build_leaf` without names from a request.
        profile: its profile.
        gbid: the device.
        config: the site.
        issuer_name: name of the issuing CA.

    Raises:
        FormatError: it is not built as `build_leaf` builds them.
    """

    def __init__(
        self, certificate: x509.Certificate, profile: Profile, gbid: GbId, config: IdentityConfig, issuer_name: str
    ) -> None:
        fields = _split(certificate.tbs_certificate_bytes)
        if len(fields) != _FIELDS or fields[-1][0] != _EXTENSIONS:
            raise FormatError("identity.template.format", "not a certificate of this authority")
        version, _, algorithm, issuer, _, subject, _, extensions = fields
        self._version = version
        self._algorithm = algorithm
        self._issuer = issuer
        self._names = b"".join(_split(subject)[:_SHARED_NAMES])
        self._config = config
        self._issuer_name = issuer_name
        self._shards = 0 if profile.no_check else config.crl_shards
        self._points: dict[int, bytes] = {}
        self._span: tuple[Validity | None, bytes] = (None, b"")
        self._parts: list[bytes | _Part] = []
        for data in _split(der.single(extensions, _EXTENSIONS)):
            kind = _split(data)[0]
            if kind == _SKI:
                self._parts.append(_key_identifier)
            elif kind == _SAN:
                self._parts.append(self._alternative_names(data, gbid))
            elif kind == _CDP and self._shards:
                self._parts.append(self._point)
            elif self._parts and isinstance(self._parts[-1], bytes):
                self._parts[-1] += data
            else:
                self._parts.append(data)

    def tbs(self, gbid: GbId, serial: int, validity: Validity, spki: bytes, vendor_serial: str = "") -> bytes:
        """The TBSCertificate (RFC 5280, 4.1) of a device of this kind, in DER.

        Args:
            gbid: the device, of the template's type and region.
            serial: positive serial number.
            validity: its validity.
            spki: SubjectPublicKeyInfo in DER, of the template's kind of key.
            vendor_serial: the maker's serial number, a PrintableString; empty if unknown.
        """
        if self._span[0] != validity:
            self._span = validity, der.sequence(_time(validity.not_before), _time(validity.not_after))
        subject = self._names
        if vendor_serial:
            subject += _attribute(_SERIAL_NUMBER, der.PRINTABLE_STRING, vendor_serial.encode("ascii"))
        subject += _COMMON_NAME_OF + gbid.value.encode("ascii")
        extensions = b"".join(
            part if isinstance(part, bytes) else part(gbid, serial, spki, vendor_serial) for part in self._parts
        )
        return der.sequence(
            self._version,
            der.encode(_INTEGER, serial.to_bytes(serial.bit_length() // 8 + 1, "big")),
            self._algorithm,
            self._issuer,
            self._span[1],
            der.encode(der.SEQUENCE, subject),
            spki,
            der.encode(_EXTENSIONS, der.encode(der.SEQUENCE, extensions)),
        )

    def certificate(self, tbs: bytes, signer: Signer) -> bytes:
        """What `tbs` gave, signed by the issuing CA's key, in DER."""
        return der.sequence(tbs, self._algorithm, der.encode(_BIT_STRING, b"\0" + signer.sign(tbs)))

    def _alternative_names(self, data: bytes, gbid: GbId) -> _Part:
        """The names of any device of this kind: its ID, the maker's serial number and its host, if any."""
        names = list(der.children(der.single(der.single(_split(data)[-1], der.OCTET_STRING), der.SEQUENCE)))
        identifier = _other_name(permanent_identifier(gbid))
        if not names or der.encode(*names[0]) != identifier:
            raise FormatError("identity.template.format", "not a certificate of this authority")
        before, after = identifier.split(gbid.value.encode("ascii"))
        hosts = [content.decode("ascii") for tag, content in names if tag == _DNS_NAME]
        suffix = hosts[0].removeprefix(f"d{gbid.value}.{gbid.centre}") if hosts else ""
        head = _split(data)[0]
        hardware = hardware_module_name(gbid.type_code, "")
        (tag, kind), _ = der.children(der.single(hardware.value, der.SEQUENCE))
        hardware_type, hardware_name = der.encode(tag, kind), der.oid(hardware.type_id.dotted_string)

        def part(device: GbId, _serial: int, _spki: bytes, vendor_serial: str) -> bytes:
            content = before + device.value.encode("ascii") + after
            if vendor_serial:
                number = der.encode(der.OCTET_STRING, vendor_serial.encode("ascii"))
                value = der.encode(_EXPLICIT_0, der.sequence(hardware_type, number))
                content += der.encode(_OTHER_NAME, hardware_name + value)
            if hosts:
                content += der.encode(_DNS_NAME, f"d{device.value}.{device.centre}{suffix}".encode("ascii"))
            return der.sequence(head, der.encode(der.OCTET_STRING, der.encode(der.SEQUENCE, content)))

        return part

    def _point(self, _gbid: GbId, serial: int, _spki: bytes, _vendor_serial: str) -> bytes:
        shard = shard_of(serial, self._shards)
        if shard not in self._points:
            value = distribution_points(self._config, self._issuer_name, shard).public_bytes()
            self._points[shard] = der.sequence(_CDP, der.encode(der.OCTET_STRING, value))
        return self._points[shard]


def _split(data: bytes) -> list[bytes]:
    """The elements of a SEQUENCE, each encoded."""
    return [der.encode(*item) for item in der.children(der.single(data, der.SEQUENCE))]


def _attribute(kind: bytes, tag: int, value: bytes) -> bytes:
    return der.encode(_SET, der.sequence(kind, der.encode(tag, value)))


def _other_name(name: x509.OtherName) -> bytes:
    return der.encode(_OTHER_NAME, der.oid(name.type_id.dotted_string) + der.encode(_EXPLICIT_0, name.value))


def _key_identifier(_gbid: GbId, _serial: int, spki: bytes, _vendor_serial: str) -> bytes:
    """RFC 5280, 4.2.1.2, method 1: SHA-1 of the key's bits."""
    if spki.startswith(_P256):
        bits = spki[len(_P256) :]
    else:
        _, (_, content) = der.children(der.single(spki, der.SEQUENCE))
        bits = content[1:]
    return _SKI_OF + hashlib.sha1(bits, usedforsecurity=False).digest()


# What stands before a value of fixed length: an ID's 20 digits, a SHA-1.
_COMMON_NAME_OF = _attribute(_COMMON_NAME, der.UTF8_STRING, bytes(20))[:-20]
_SKI_OF = der.sequence(_SKI, der.encode(der.OCTET_STRING, der.encode(der.OCTET_STRING, bytes(20))))[:-20]
# SubjectPublicKeyInfo of P-256 (RFC 5480) up to the point's bits.
_P256 = der.encode(
    der.SEQUENCE,
    der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7")) + der.encode(_BIT_STRING, bytes(66)),
)[:-65]


def _time(at: datetime) -> bytes:
    """RFC 5280, 4.1.2.5: UTCTime until 2049, then GeneralizedTime."""
    utc = at.astimezone(UTC)
    if 1950 <= utc.year < 2050:
        return der.encode(_UTC_TIME, utc.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return der.encode(_GENERALIZED_TIME, utc.strftime("%Y%m%d%H%M%SZ").encode("ascii"))
