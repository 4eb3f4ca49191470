"""What a certificate says, read once: extensions by kind, key strength, scope.

Kept for the certificates met most recently, keyed by their whole content: another byte is another certificate, with
facts of its own. Nothing here says that a certificate is good; signatures and paths are checked elsewhere, each time.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from secguard.gbid import Scope
from secguard.trust.names import common_name, title
from secguard.trust.oids import GB_SCOPE
from secguard.trust.scope import decode_scope

__all__ = ["WEAK_HASHES", "Facts", "facts_of", "is_ca"]

_T = TypeVar("_T", bound=x509.ExtensionType)
_V = TypeVar("_V")

_MIN_RSA_BITS = 2048
WEAK_HASHES = (hashes.MD5, hashes.SHA1)
"""Hashes for which collisions can be made: nothing signed over them is believed."""
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
# Of certificates in verified paths only, so a few kB each.
_KEPT = 512


class _lazy(Generic[_V]):  # noqa: N801 - a decorator
    """`functools.cached_property` without its lock, which costs more than most of what is kept here."""

    def __init__(self, function: Callable[[Any], _V]) -> None:
        self._function = function
        self._name = function.__name__

    def __get__(self, owner: Any, kind: type | None = None) -> _V:
        value = owner.__dict__[self._name] = self._function(owner)
        return value


class Facts:
    """One certificate's content.

    Attributes:
        certificate: the certificate.
        not_before: start of its validity, aware UTC.
        not_after: end of its validity, aware UTC; included.
        serial: its serial number.
        critical: kinds of its critical extensions.

    Raises:
        ValueError: the certificate's extensions cannot be parsed (any of `names.MALFORMED`).
    """

    def __init__(self, certificate: x509.Certificate) -> None:
        self.certificate = certificate
        self.not_before: datetime = certificate.not_valid_before_utc
        self.not_after: datetime = certificate.not_valid_after_utc
        self.serial = certificate.serial_number
        self._extensions: dict[type[x509.ExtensionType], x509.ExtensionType] = {}
        self.critical: list[type[x509.ExtensionType]] = []
        self._scope: bytes | None = None
        for item in certificate.extensions:
            value = item.value
            self._extensions[type(value)] = value
            if item.critical:
                self.critical.append(type(value))
            if isinstance(value, x509.UnrecognizedExtension) and value.oid == GB_SCOPE:
                self._scope = value.value

    def get(self, kind: type[_T]) -> _T | None:
        """The extension of a kind, or None; not for UnrecognizedExtension, of which there may be several."""
        return self._extensions.get(kind)  # type: ignore[return-value] # keyed by the value's own type

    @_lazy
    def title(self) -> str:
        """A short name for findings."""
        return title(self.certificate)

    @_lazy
    def common_name(self) -> str:
        """The subject's one CN, or an empty string."""
        return common_name(self.certificate)

    @_lazy
    def scope(self) -> Scope | None:
        """The GB scope, or None.

        Raises:
            FormatError: it is there and cannot be read.
        """
        return decode_scope(self._scope) if self._scope is not None else None

    @property
    def kinds(self) -> AbstractSet[type[x509.ExtensionType]]:
        """The kinds of its extensions."""
        return self._extensions.keys()

    @_lazy
    def key(self) -> object:
        """The public key.

        Raises:
            ValueError: it cannot be read (any of `names.MALFORMED`).
        """
        return self.certificate.public_key()

    @_lazy
    def subject_der(self) -> bytes:
        """The subject in DER."""
        return self.certificate.subject.public_bytes()

    @_lazy
    def is_ca(self) -> bool:
        """True if basicConstraints says so."""
        basic = self.get(x509.BasicConstraints)
        return basic is not None and basic.ca

    @_lazy
    def points(self) -> frozenset[x509.GeneralName]:
        """The names of its distribution points."""
        points = self.get(x509.CRLDistributionPoints)
        return frozenset(name for point in points or () for name in point.full_name or ())

    @_lazy
    def ekus(self) -> tuple[x509.ObjectIdentifier, ...] | None:
        """The extended key usages; None if it states none."""
        extended = self.get(x509.ExtendedKeyUsage)
        return None if extended is None else tuple(extended)

    @_lazy
    def policies(self) -> frozenset[x509.ObjectIdentifier]:
        """The certificate policies."""
        return frozenset(item.policy_identifier for item in self.get(x509.CertificatePolicies) or ())

    @_lazy
    def weak_key(self) -> str:
        """Why its key is too weak to be believed; empty if it is not."""
        try:
            key = self.key
        except Exception:  # noqa: BLE001 - unknown curves and algorithms raise several kinds; all mean "not accepted"
            return "a key of an unknown kind"
        if isinstance(key, rsa.RSAPublicKey):
            return f"RSA with {key.key_size} bits" if key.key_size < _MIN_RSA_BITS else ""
        if isinstance(key, ec.EllipticCurvePublicKey):
            return "" if isinstance(key.curve, _CURVES) else f"elliptic curve {key.curve.name}"
        return "" if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) else "a key of an unknown kind"

    @_lazy
    def weak_hash(self) -> bool:
        """True if it was signed over a hash for which collisions can be made, or that has no name here."""
        try:
            return isinstance(self.certificate.signature_hash_algorithm, WEAK_HASHES)
        except Exception:  # noqa: BLE001 - an algorithm that cannot be named is treated as broken
            return True


def is_ca(certificate: x509.Certificate) -> bool:
    """Tell whether a certificate says that it is a CA's.

    Raises:
        ValueError: its extensions cannot be parsed (any of `names.MALFORMED`).
    """
    return Facts(certificate).is_ca


@lru_cache(maxsize=_KEPT)
def facts_of(certificate: x509.Certificate) -> Facts:
    """The facts of a certificate; equal certificates (every byte) share them.

    Raises:
        ValueError: as `Facts`; a failure is not remembered.
    """
    return Facts(certificate)
