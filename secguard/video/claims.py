"""Read the SEIs of a stream, check their signatures, and put what they claim into the order they were signed in."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from secguard.core import Finding, FormatError, UsageError, finding
from secguard.keys import key_id, verify_signature
from secguard.video.match import Unit
from secguard.video.nal import Stream
from secguard.video.sei import Sei, parse

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
    from numpy.typing import NDArray

__all__ = ["Claim", "Claims", "read_claims"]

_MAX_SEI = 1 << 18
_MAX_CHAINS = 64
_MAX_CERTIFICATES = 16
_MIN_RSA_BITS = 2048
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


@dataclass(slots=True)
class Claim:
    """One SEI that covers pictures.

    Attributes:
        nal: its index in the track's `Nals`.
        sei: what it says.
        valid: its signature is good; for an unsigned SEI: a valid one covers it (known after matching).
        key: name of the key it was checked with; empty if unsigned.
        session: recordings that begin anew with a link of zeros are counted.
        unit: its claim, for matching.
    """

    nal: int
    sei: Sei
    valid: bool
    key: str
    session: int
    unit: Unit


@dataclass(slots=True)
class Claims:
    """All SEIs of a stream.

    Attributes:
        claims: in the order they were signed in.
        own: every NAL unit that carries ONVIF's UUID, signed or not; those are no foreign user data.
        unsigned: NAL units of unsigned SEIs: they are hashed and listed like pictures.
        digests: the hash of each of them: over the bytes as their signer hashed them, which emulation prevention may
            have changed since.
        chain: certificates of the key that signed most, leaf first.
        others: chains of other keys, with the NAL unit that carries each first.
        hash_name: hash algorithm of the stream.
        findings: malformed SEIs, foreign keys.
    """

    claims: list[Claim]
    own: "NDArray[np.int64]"
    unsigned: "NDArray[np.int64]"
    chain: tuple[x509.Certificate, ...] = ()
    others: list[tuple[x509.Certificate, ...]] = field(default_factory=list)
    hash_name: str = "sha256"
    findings: list[Finding] = field(default_factory=list)
    broken: dict[int, str] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)


class _Chains:
    """Certificate chains by their bytes: parsed once."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[x509.Certificate, ...]] = {}

    def read(self, data: bytes) -> tuple[x509.Certificate, ...]:
        if data not in self._seen:
            if len(self._seen) >= _MAX_CHAINS:
                raise FormatError("video.sei.format", f"more than {_MAX_CHAINS} certificate chains")
            try:
                chain = tuple(x509.load_pem_x509_certificates(data))
                for item in chain:
                    _ = (item.subject, item.issuer, item.public_key())
            except Exception as error:
                raise FormatError("video.sei.format", "unreadable certificates") from error
            if len(chain) > _MAX_CERTIFICATES:
                raise FormatError("video.sei.format", f"more than {_MAX_CERTIFICATES} certificates")
            self._seen[data] = chain
        return self._seen[data]


def _checked(sei: Sei, key: "CertificatePublicKeyTypes", name: str) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= _MIN_RSA_BITS and _pss(key, sei, name)
    try:
        return verify_signature(key, sei.signature, sei.digest, name, prehashed=True)
    except UsageError:
        return False


def _pss(key: rsa.RSAPublicKey, sei: Sei, name: str) -> bool:
    """RSA-PSS with a salt of any length: the reference implementation takes the longest that the key allows."""
    algorithm = _HASHES[name]
    pss = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.AUTO)
    try:
        key.verify(sei.signature, sei.digest, pss, Prehashed(algorithm))
    except InvalidSignature:
        return False
    return True


def read_claims(stream: Stream) -> Claims:
    """Read and check all SEIs of ONVIF Media Signing in a track.

    Malformed SEIs, and SEIs of another key than the recording's, become findings; bad signatures stay claims, marked.
    """
    source, nals = stream.source, stream.nals
    chains = _Chains()
    found: list[tuple[int, Sei, tuple[x509.Certificate, ...]]] = []
    own: list[int] = []
    broken: dict[int, str] = {}
    name = ""
    chain: tuple[x509.Certificate, ...] = ()
    findings: list[Finding] = []
    for index in np.flatnonzero(nals.sei).tolist():
        start, end = int(nals.offset[index]), int(nals.end[index])
        try:
            if end - start > _MAX_SEI and source.data.find(b"\x00\x5b\xc9\x3f", start, start + 4096) < 0:
                continue
            if end - start > _MAX_SEI:
                raise FormatError("video.sei.format", f"an SEI of {end - start} bytes")
            sei = parse(bytes(source.data[start:end]), nals.codec, name or "sha256")
            if sei is None:
                continue
            own.append(index)
            if sei.chain:
                chain = chains.read(sei.chain)
            name = name or sei.hash_name
        except FormatError as error:
            own.append(index)
            broken[index] = error.message
            continue
        found.append((index, sei, chain))
    name = name or "sha256"
    # A certificate SEI or a chain that comes later serves the SEIs before it as well.
    first = next((item for _, _, item in found if item), ())
    rows = [(index, sei, items or first) for index, sei, items in found]
    # Reading a key out of its certificate costs as much as checking a signature with it: once a chain.
    keys = {id(items): items[0].public_key() for items in {id(row[2]): row[2] for row in rows}.values() if items}
    checked = [
        (index, sei, items, bool(sei.signature and items) and _checked(sei, keys[id(items)], sei.hash_name or name))
        for index, sei, items in rows
    ]
    names = {number: key_id(key) for number, key in keys.items()}
    votes = Counter(names[id(items)] for _, sei, items, valid in checked if valid and not sei.certificate_only)
    main = votes.most_common(1)[0][0] if votes else (names[id(first)] if first else "")
    result = Claims(
        [],
        np.array(own, dtype=np.int64),
        np.array([index for index, sei, _ in found if not sei.signature], dtype=np.int64),
        next((items for _, _, items, _ in checked if items and names[id(items)] == main), ()),
        hash_name=name,
        findings=findings,
        broken=broken,
        digests={index: sei.digest for index, sei, _ in found if not sei.signature},
    )
    seen: set[bytes] = set()
    session = 0
    before: str = ""
    for index, sei, items, valid in checked:
        key = names[id(items)] if items and sei.signature else ""
        if key and key != main:
            if items not in result.others:
                result.others.append(items)
                findings.append(finding("video.sei.foreign-key", f"byte {source.place(int(nals.offset[index]))}"))
            continue
        if sei.certificate_only or not sei.gop_hash:
            if sei.signature and not valid:
                findings.append(finding("video.sei.signature", f"byte {source.place(int(nals.offset[index]))}", gop=0))
            continue
        if sei.digest in seen and valid:  # sent twice against packet loss
            continue
        seen.add(sei.digest)
        start_over = not any(sei.link_hash)
        session += start_over and before != ""
        before = key or "unsigned"
        unit = Unit(sei.hashes, sei.gop_hash, sei.link_hash, sei.count)
        result.claims.append(Claim(index, sei, valid, key, session, unit))
    result.claims.sort(key=lambda claim: (claim.session, claim.sei.counter))
    _drop_stale(result)
    for previous, claim in zip(result.claims, result.claims[1:], strict=False):
        claim.unit.continues = previous.sei.partial and previous.session == claim.session
        if previous.session == claim.session:
            claim.unit.skipped = max(claim.sei.counter - previous.sei.counter - 1, 0)
    if result.claims and any(result.claims[0].sei.link_hash):
        result.claims[0].unit.skipped = max(result.claims[0].sei.counter - 1, 0)
    return result


def _drop_stale(result: Claims) -> None:
    """Take out a last SEI that only repeats what the one before it says.

    The reference implementation ends a stream so in low-bitrate mode: with the counts, times and hash of the GOP
    before. It covers nothing, and says nothing against the pictures before it.
    """
    if len(result.claims) < 2:
        return
    previous, last = result.claims[-2].sei, result.claims[-1].sei
    told = [(sei.gop_hash, sei.count, sei.start, sei.end, sei.hashes) for sei in (previous, last)]
    if not last.hashes and told[0] == told[1] and result.claims[-1].valid and last.counter == previous.counter + 1:
        result.claims.pop()
        result.findings.append(finding("video.sei.stale-end", counter=last.counter))
