"""The SEI of ONVIF Media Signing: UUID, one reserved byte, TLVs, stop byte (Media Signing 26.06, "SEI format").

Numbers are big-endian, as the reference implementation and every stream in the field have them; the text of the
specification says little-endian for some of them.
"""

import hashlib
from dataclasses import dataclass

from secguard.core import FormatError
from secguard.video.nal import add_prevention, header_size, strip_prevention

__all__ = ["HASHES", "UUID", "Sei", "parse"]

UUID = bytes.fromhex("005bc93f2d715e95ada4796f90877a6f")

_CERTIFICATE, _PREVENTED = 0x80, 0x40
_GENERAL, _LIST, _SIGNATURE, _CRYPTO, _VENDOR, _CHAIN, _ARBITRARY = 1, 2, 3, 4, 5, 6, 7

HASHES = {
    bytes.fromhex("0609608648016503040201"): "sha256",
    bytes.fromhex("0609608648016503040202"): "sha384",
    bytes.fromhex("0609608648016503040203"): "sha512",
}
"""Hash algorithms by DER object identifier."""
_WIDTHS = {32: "sha256", 48: "sha384", 64: "sha512"}


@dataclass(frozen=True, slots=True)
class Sei:
    """One SEI of ONVIF Media Signing, read.

    Attributes:
        certificate_only: it is a certificate SEI: it carries the chain and signs itself, no pictures.
        digest: hash of the document, the value that is signed; of the whole SEI if it carries no signature.
        signature: DER (ECDSA) or raw signature; empty if the SEI is unsigned.
        hash_name: hash algorithm, empty if the SEI does not say.
        partial: it closes a part of a GOP that goes on.
        start, end: time of the first frame and of the frame after, in 100 ns since 1601; `end` is 0 in version 1.
        counter: running number.
        count: NAL units it claims to cover.
        gop_hash: hash over the list of hashes.
        link_hash: first hash of the part before; zeros at the start of a stream.
        hashes: the hash list, concatenated; empty in low-bitrate mode.
        chain: certificates in PEM, without the root; empty if not carried.
        vendor: firmware, serial number, manufacturer.
        release: release of the specification that its writer names.
    """

    certificate_only: bool
    digest: bytes
    signature: bytes
    hash_name: str
    partial: bool = False
    start: int = 0
    end: int = 0
    counter: int = 0
    count: int = 0
    gop_hash: bytes = b""
    link_hash: bytes = b""
    hashes: bytes = b""
    chain: bytes = b""
    vendor: tuple[str, str, str] = ("", "", "")
    release: tuple[int, int, int] = (0, 0, 0)


def _malformed(what: str) -> FormatError:
    return FormatError("video.sei.format", what)


def _document(data: bytes, codec: str) -> tuple[bytes, int, bool] | None:
    """The SEI without emulation prevention bytes, where its TLVs begin, and whether it carried such bytes.

    Whether it does is decided by size: the payload size counts the bytes without them. None if the SEI is not ONVIF's.
    """
    at = header_size(codec) + 1
    size = 0
    while at < len(data) and data[at] == 0xFF:
        size += 0xFF
        at += 1
    if at >= len(data):
        return None
    size += data[at]
    at += 1
    if data[at : at + 16] != UUID:
        return None
    expected = at + size + 1
    escaped = len(data) != expected
    plain = strip_prevention(data) if escaped else data
    if len(plain) != expected or size < 17 or plain[-1] != 0x80:
        raise _malformed(f"an SEI of {len(data)} bytes claims a payload of {size}")
    return plain, at + 16, escaped


def parse(data: bytes, codec: str, default_hash: str = "sha256") -> Sei | None:
    """Read one SEI NAL unit as it stands in the sample.

    Args:
        data: from the NAL unit header to the stop byte.
        codec: `h264` or `h265`.
        default_hash: used if the SEI does not name its hash (it was named in a certificate SEI).

    Returns:
        The SEI, or None if it is some other user data.

    Raises:
        FormatError: it carries ONVIF's UUID and is not well-formed.
    """
    found = _document(data, codec)
    if found is None:
        return None
    plain, at, escaped = found
    flags = plain[at]
    at += 1
    values: dict[int, bytes] = {}
    stop = len(plain) - 1
    signature_at = None
    while at < stop:
        if stop - at < 3:
            raise _malformed("a TLV is cut off")
        tag, length = plain[at], int.from_bytes(plain[at + 1 : at + 3], "big")
        if signature_at is not None:
            raise _malformed("a TLV behind the signature")
        if tag == _SIGNATURE:
            signature_at = at
        if at + 3 + length > stop:
            raise _malformed(f"TLV {tag} runs past the SEI")
        if tag == _CHAIN and tag in values:
            tag |= 0x100  # a second chain: user provisioning
        if tag in values:
            raise _malformed(f"TLV {tag} stands twice")
        values[tag] = plain[at + 3 : at + 3 + length]
        at += 3 + length
    fields, hash_name = _fields(values)
    if not hash_name and fields.get("gop_hash"):  # the certificate SEI that named it may be lost
        default_hash = _WIDTHS[len(bytes(fields["gop_hash"]))]  # type: ignore[call-overload]
    document = data if signature_at is None else plain[:signature_at]
    if flags & _PREVENTED:
        # Hashed as sent. Where a container took the bytes out, the rule restores exactly what was there.
        document = add_prevention(plain if signature_at is None else plain[:signature_at])
    elif signature_at is None and escaped:
        document = plain
    digest = hashlib.new(hash_name or default_hash, document).digest()
    return Sei(
        certificate_only=bool(flags & _CERTIFICATE),
        digest=digest,
        signature=_signature(values[_SIGNATURE]) if signature_at is not None else b"",
        hash_name=hash_name,
        **fields,  # type: ignore[arg-type]
    )


def _signature(value: bytes) -> bytes:
    if len(value) < 3 or value[0] != 1:
        raise _malformed("the signature TLV is of an unknown version")
    length = int.from_bytes(value[1:3], "big")
    if not 0 < length <= len(value) - 3:
        raise _malformed("the signature is longer than its room")
    return value[3 : 3 + length]


def _fields(values: dict[int, bytes]) -> tuple[dict[str, object], str]:
    fields: dict[str, object] = {}
    hash_name = ""
    if (crypto := values.get(_CRYPTO)) is not None:
        if len(crypto) < 2 or crypto[0] != 1:
            raise _malformed("the cryptographic TLV is of an unknown version")
        oid = crypto[2 : 2 + crypto[1]]
        if oid not in HASHES:
            raise _malformed("an unknown hash algorithm")
        hash_name = HASHES[oid]
    if (general := values.get(_GENERAL)) is not None:
        fields |= _general(general)
    if (hashes := values.get(_LIST)) is not None:
        width = len(bytes(fields.get("gop_hash", b"")))  # type: ignore[call-overload]
        if not hashes or hashes[0] != 1 or not width or (len(hashes) - 1) % width:
            raise _malformed("the hash list does not divide into hashes")
        fields["hashes"] = hashes[1:]
    if (chain := values.get(_CHAIN)) is not None:
        if len(chain) < 2 or chain[0] != 1:
            raise _malformed("the certificate TLV is of an unknown version")
        fields["chain"] = chain[2:]
    if (vendor := values.get(_VENDOR)) is not None:
        fields["vendor"] = _vendor(vendor)
    return fields, hash_name


def _general(value: bytes) -> dict[str, object]:
    version = value[0] if value else 0
    fixed = {1: 19, 2: 27}.get(version)
    if fixed is None or len(value) <= fixed or (len(value) - fixed) % 2:
        raise _malformed("the general TLV is of an unknown version or length")
    width = (len(value) - fixed) // 2
    if width not in {32, 48, 64}:
        raise _malformed(f"hashes of {width} bytes")
    at = fixed - 6
    return {
        "release": tuple(value[1:4]),
        "partial": value[4] != 0,
        "start": int.from_bytes(value[5:13], "big"),
        "end": int.from_bytes(value[13:21], "big") if version == 2 else 0,
        "counter": int.from_bytes(value[at : at + 4], "big"),
        "count": int.from_bytes(value[at + 4 : at + 6], "big"),
        "gop_hash": value[fixed : fixed + width],
        "link_hash": value[fixed + width :],
    }


def _vendor(value: bytes) -> tuple[str, str, str]:
    if not value or value[0] != 1:
        raise _malformed("the vendor TLV is of an unknown version")
    texts, at = [], 1
    for _ in range(3):
        if at >= len(value) or at + 1 + value[at] > len(value):
            raise _malformed("the vendor TLV is cut off")
        texts.append(value[at + 1 : at + 1 + value[at]].decode("utf-8", "replace"))
        at += 1 + value[at]
    return texts[0], texts[1], texts[2]
