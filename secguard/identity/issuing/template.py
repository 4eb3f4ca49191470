"""Certificates of devices from a template: the same bytes as the builder's, at a fraction of its price.

A template is cut from a certificate that `build_leaf` made and a verifier believed. What all certificates of its kind
share (version, algorithm, issuer, C, O, OU, and all extensions but three) is kept in DER; serial number, validity, CN,
the maker's serial number, the key and its identifier, the alternative names and the list's address are put in. A kind
is profile, CA, site, region, type code and kind of key, so nothing else differs; a test holds the result against the
builder's for any of them.
"""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from secguard.core import FormatError
from secguard.gbid import GbId
from secguard.identity.certificate import Validity, distribution_points, shard_of
from secguard.identity.config import IdentityConfig
from secguard.identity.issuing.spki import key_identifier
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

# What differs from certificate to certificate.
_SERIAL, _SPAN, _SPKI, _VENDOR, _GBID, _KEY, _POINT = range(7)
_MAX_FORMS = 256
_HARDWARE_NAME = der.oid(hardware_module_name("132", "").type_id.dotted_string)


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
        self._forms: dict[tuple[int, ...], list[bytes | int]] = {}
        self._extensions = _split(der.single(extensions, _EXTENSIONS))
        self._identifier, self._host = self._alternative_names(gbid)

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
        values = (
            serial.to_bytes(serial.bit_length() // 8 + 1, "big"),
            self._span[1],
            spki,
            vendor_serial.encode("ascii"),
            gbid.value.encode("ascii"),
            key_identifier(spki),
            self._point(serial) if self._shards else b"",
        )
        sizes = tuple(map(len, values))
        form = self._forms.get(sizes)
        if form is None:
            if len(self._forms) >= _MAX_FORMS:
                self._forms.clear()
            form = self._forms[sizes] = self._lay_out(sizes)
        return b"".join([values[part] if isinstance(part, int) else part for part in form])

    def certificate(self, tbs: bytes, signer: Signer) -> bytes:
        """What `tbs` gave, signed by the issuing CA's key, in DER."""
        return der.sequence(tbs, self._algorithm, der.encode(_BIT_STRING, b"\0" + signer.sign(tbs)))

    def _lay_out(self, sizes: tuple[int, ...]) -> list[bytes | int]:
        """The TBSCertificate for values of these sizes: bytes, and where which value stands."""

        def wrap(tag: int, *parts: bytes | int | list[bytes | int]) -> list[bytes | int]:
            flat: list[bytes | int] = []
            for part in parts:
                flat += part if isinstance(part, list) else [part]
            size = sum(sizes[part] if isinstance(part, int) else len(part) for part in flat)
            whole = der.encode(tag, bytes(size))
            return [whole[: len(whole) - size], *flat]

        subject: list[bytes | int] = [self._names]
        if sizes[_VENDOR]:
            number = wrap(der.PRINTABLE_STRING, _VENDOR)
            subject += wrap(_SET, wrap(der.SEQUENCE, _SERIAL_NUMBER, number))
        subject += wrap(_SET, wrap(der.SEQUENCE, _COMMON_NAME, wrap(der.UTF8_STRING, _GBID)))
        before, after = self._identifier
        names: list[bytes | int] = [before, _GBID, after]
        if sizes[_VENDOR]:
            value = wrap(der.SEQUENCE, self._hardware_type, wrap(der.OCTET_STRING, _VENDOR))
            names += wrap(_OTHER_NAME, _HARDWARE_NAME, wrap(_EXPLICIT_0, value))
        if self._host:
            names += wrap(_DNS_NAME, b"d", _GBID, self._host)
        extensions: list[bytes | int] = []
        for data in self._extensions:
            kind, *_ = head = _split(data)
            if kind == _SKI:
                extensions += wrap(der.SEQUENCE, _SKI, wrap(der.OCTET_STRING, wrap(der.OCTET_STRING, _KEY)))
            elif kind == _SAN:
                content = wrap(der.OCTET_STRING, wrap(der.SEQUENCE, names))
                extensions += wrap(der.SEQUENCE, b"".join(head[:-1]), content)
            elif kind == _CDP and self._shards:
                extensions.append(_POINT)
            else:
                extensions.append(data)
        form = wrap(
            der.SEQUENCE,
            self._version,
            wrap(_INTEGER, _SERIAL),
            self._algorithm,
            self._issuer,
            _SPAN,
            wrap(der.SEQUENCE, subject),
            _SPKI,
            wrap(_EXTENSIONS, wrap(der.SEQUENCE, extensions)),
        )
        joined: list[bytes | int] = [b""]
        for part in form:
            last = joined[-1]
            if isinstance(part, bytes) and isinstance(last, bytes):
                joined[-1] = last + part
            else:
                joined.append(part)
        return joined

    def _alternative_names(self, gbid: GbId) -> tuple[tuple[bytes, bytes], bytes]:
        """What stands around the ID in its own name, and after it in the host's, if it has one."""
        data = next((data for data in self._extensions if _split(data)[0] == _SAN), None)
        names = (
            list(der.children(der.single(der.single(_split(data)[-1], der.OCTET_STRING), der.SEQUENCE))) if data else []
        )
        identifier = _other_name(permanent_identifier(gbid))
        if not names or der.encode(*names[0]) != identifier:
            raise FormatError("identity.template.format", "not a certificate of this authority")
        before, after = identifier.split(gbid.value.encode("ascii"))
        (tag, kind), _ = der.children(der.single(hardware_module_name(gbid.type_code, "").value, der.SEQUENCE))
        self._hardware_type = der.encode(tag, kind)
        hosts = [content for tag, content in names if tag == _DNS_NAME]
        return (before, after), hosts[0].removeprefix(f"d{gbid.value}".encode()) if hosts else b""

    def _point(self, serial: int) -> bytes:
        shard = shard_of(serial, self._shards)
        if shard not in self._points:
            value = distribution_points(self._config, self._issuer_name, shard).public_bytes()
            self._points[shard] = der.sequence(_CDP, der.encode(der.OCTET_STRING, value))
        return self._points[shard]


def _split(data: bytes) -> list[bytes]:
    """The elements of a SEQUENCE, each encoded."""
    return [der.encode(*item) for item in der.children(der.single(data, der.SEQUENCE))]


def _other_name(name: x509.OtherName) -> bytes:
    return der.encode(_OTHER_NAME, der.oid(name.type_id.dotted_string) + der.encode(_EXPLICIT_0, name.value))


def _time(at: datetime) -> bytes:
    """RFC 5280, 4.1.2.5: UTCTime until 2049, then GeneralizedTime."""
    utc = at.astimezone(UTC)
    if 1950 <= utc.year < 2050:
        return der.encode(_UTC_TIME, utc.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return der.encode(_GENERALIZED_TIME, utc.strftime("%Y%m%d%H%M%SZ").encode("ascii"))
