"""Write SEIs of ONVIF Media Signing 26.06: TLVs, the document that is signed, and the whole NAL unit."""

from dataclasses import dataclass

from secguard.core import FormatError
from secguard.video.nal import add_prevention
from secguard.video.sei import HASHES, UUID

__all__ = ["Composer", "general", "hash_list", "provenance"]

_HEADER = {"h264": b"\x06\x05", "h265": b"\x4e\x01\x05"}
_CERTIFICATE, _PREVENTED = 0x80, 0x40
_GENERAL, _LIST, _SIGNATURE, _CRYPTO, _VENDOR, _CHAIN = 1, 2, 3, 4, 5, 6
_RELEASE = bytes((25, 12, 0))  # the release whose bit stream this is; the last byte is the reference's own
_OIDS = {name: oid for oid, name in HASHES.items()}


def _tlv(tag: int, value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise FormatError("video.sei.too-large", f"TLV {tag} of {len(value)} bytes")
    return bytes((tag,)) + len(value).to_bytes(2, "big") + value


def provenance(*, hash_name: str, algorithm: bytes, vendor: tuple[str, str, str], chain: bytes) -> bytes:
    """TLVs that stand in every signed SEI, or once in the certificate SEI.

    Args:
        hash_name: `sha256`, `sha384` or `sha512`.
        algorithm: what is said of the signing algorithm, see `modes.signing_algorithm`.
        vendor: firmware, serial number, manufacturer; each at most 255 bytes.
        chain: certificates in PEM, leaf first, without the root.

    Raises:
        FormatError: the chain is too large for its field.
    """
    oid = _OIDS[hash_name]
    texts = [text.encode()[:255] for text in vendor]
    tlvs = _tlv(_CRYPTO, b"\x01" + bytes((len(oid),)) + oid + algorithm)
    tlvs += _tlv(_VENDOR, b"\x01" + b"".join(bytes((len(text),)) + text for text in texts))
    return tlvs + _tlv(_CHAIN, b"\x01\x00" + chain)


def general(
    *, partial: bool, start: int, end: int, counter: int, count: int, gop_hash: bytes, link_hash: bytes
) -> bytes:
    """The TLV that says which slices an SEI covers.

    Args:
        partial: the GOP goes on behind this part.
        start: time of the first frame, 100 ns since 1601.
        end: time of the frame after the last.
        counter: running number, from 1.
        count: NAL units covered.
        gop_hash: hash over the list of hashes.
        link_hash: hash of the first slice of the part before; zeros for the first.
    """
    value = b"\x02" + _RELEASE + bytes((int(partial),)) + start.to_bytes(8, "big") + end.to_bytes(8, "big")
    value += (counter & 0xFFFFFFFF).to_bytes(4, "big") + count.to_bytes(2, "big") + gop_hash + link_hash
    return _tlv(_GENERAL, value)


def hash_list(hashes: bytes) -> bytes:
    """The TLV of the hash list."""
    return _tlv(_LIST, b"\x01" + hashes)


@dataclass(frozen=True, slots=True)
class Composer:
    """Puts TLVs into NAL units.

    Attributes:
        codec: `h264` or `h265`.
        room: bytes kept free for a signature.
        prevented: emulation prevention is applied before signing (reserved byte 0x40), otherwise after it.
    """

    codec: str
    room: int
    prevented: bool = True

    def unsigned(self, tlvs: bytes) -> tuple[bytes, bytes]:
        """An SEI without a signature: the NAL unit, and the bytes that are hashed and listed for it."""
        plain = self._head(len(tlvs), certificate=False) + tlvs + b"\x80"
        unit = add_prevention(plain)
        return unit, unit if self.prevented else plain

    def document(self, tlvs: bytes, *, certificate: bool = False) -> bytes:
        """What is hashed and signed: everything before the signature TLV."""
        plain = self._head(len(tlvs) + 6 + self.room, certificate=certificate) + tlvs
        return add_prevention(plain) if self.prevented else plain

    def signed(self, document: bytes, signature: bytes) -> bytes:
        """The whole NAL unit: the document, the signature TLV padded to its room, the stop byte.

        Raises:
            FormatError: the signature is longer than the room for it.
        """
        if len(signature) > self.room:
            raise FormatError("video.sei.too-large", f"a signature of {len(signature)} bytes")
        padded = signature + b"\x01" * (self.room - len(signature))
        rest = _tlv(_SIGNATURE, b"\x01" + len(signature).to_bytes(2, "big") + padded) + b"\x80"
        if not self.prevented:
            return add_prevention(document + rest)
        # The document is escaped already; only the seam and what follows may still need it.
        return document[:-2] + add_prevention(document[-2:] + rest)

    def _head(self, size: int, *, certificate: bool) -> bytes:
        size += 17
        flags = (_CERTIFICATE if certificate else 0) | (_PREVENTED if self.prevented else 0)
        return _HEADER[self.codec] + b"\xff" * (size // 0xFF) + bytes((size % 0xFF,)) + UUID + bytes((flags,))
