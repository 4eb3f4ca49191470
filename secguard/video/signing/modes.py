"""How a recording is signed: the modes of ONVIF Media Signing 26.06, and which keys it knows."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import rsa

from secguard.core import UsageError
from secguard.keys import Algorithm, Signer

__all__ = ["Mode", "signature_room", "signing_algorithm"]

_WIDTHS = {"sha256": 32, "sha384": 48, "sha512": 64}
_LIST_BYTES = 19_200  # the longest hash list that the reference implementation reads
_MAX_COUNT = 0xFFFF
_MAX_TEXT = 255
_RSASSA_PSS = bytes.fromhex("06092a864886f70d01010a")  # 1.2.840.113549.1.1.10, RFC 8017


@dataclass(frozen=True, slots=True)
class Mode:
    """What a signer may choose.

    Attributes:
        hash_name: `sha256`, `sha384` or `sha512`, for slices and documents.
        every: every n-th GOP is signed; the SEIs between are unsigned and listed like pictures.
        partial: frames that a signature covers at most; 0: as many as the GOP has.
        max_slices: slices that a signature covers at most; 0: as many as a hash list takes.
        low_bitrate: no hash lists: a change is found, but not which frame it hit.
        certificate_sei: certificates, vendor and hash algorithm once, in an SEI of their own at the beginning.
        prevent_first: emulation prevention is applied before signing, so the bytes signed are those in the stream;
            otherwise it is applied to the signed SEI.
        firmware, serial, manufacturer: vendor information, at most 255 bytes each; an empty serial number is the
            device's ID.
    """

    hash_name: str = "sha256"
    every: int = 1
    partial: int = 0
    max_slices: int = 0
    low_bitrate: bool = False
    certificate_sei: bool = False
    prevent_first: bool = True
    firmware: str = ""
    serial: str = ""
    manufacturer: str = "secguard"

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: a value is out of range.
        """
        if self.hash_name not in _WIDTHS:
            hint = f"one of {', '.join(_WIDTHS)}"
            raise UsageError("video.sign.hash", f"unknown hash algorithm {self.hash_name[:20]!r}", hint=hint)
        for name, value, least in (("every", self.every, 1), ("partial", self.partial, 0)):
            if not least <= value <= _MAX_COUNT:
                raise UsageError("video.sign.mode", f"--{name} {value}: it must lie between 1 and {_MAX_COUNT}")
        if not 0 <= self.max_slices <= _MAX_COUNT:
            what = f"--max-slices {self.max_slices}: it must lie between 1 and {_MAX_COUNT}"
            raise UsageError("video.sign.mode", what)
        for name, text in (("firmware", self.firmware), ("serial", self.serial), ("manufacturer", self.manufacturer)):
            if len(text.encode()) > _MAX_TEXT:
                raise UsageError("video.sign.mode", f"--{name} is longer than {_MAX_TEXT} bytes")

    @property
    def list_size(self) -> int:
        """Entries that a hash list takes: as many as the reference implementation reads."""
        return _LIST_BYTES // _WIDTHS[self.hash_name]

    @property
    def slices(self) -> int:
        """Slices that a signature covers at most; one place is kept where an unsigned SEI is listed as well."""
        room = self.list_size - (self.every > 1)
        return min(self.max_slices, room) if self.max_slices else room


def signature_room(signer: Signer) -> int:
    """Bytes that the SEI keeps free for a signature: the longest one that the key makes.

    Raises:
        UsageError: Media Signing has no such signature.
    """
    if signer.algorithm is Algorithm.P256:
        return 72
    if signer.algorithm is Algorithm.P384:
        return 104
    key = signer.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return (key.key_size + 7) // 8
    raise UsageError(
        "video.sign.algorithm",
        f"a {signer.algorithm} key cannot sign video: ONVIF Media Signing signs hashes, with ECDSA or RSA",
        hint="use an ECDSA P-256 or P-384 key, or an RSA key",
    )


def signing_algorithm(signer: Signer) -> bytes:
    """What the cryptographic TLV says of the signature: a length, an object identifier in DER, the RSA size in bits.

    Both are empty for ECDSA, whose certificate says enough (Media Signing 26.06, "Cryptographic information").
    """
    key = signer.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return bytes((len(_RSASSA_PSS),)) + _RSASSA_PSS + key.key_size.to_bytes(2, "big")
    return bytes(3)
