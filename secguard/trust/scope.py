"""The GB scope of a CA: a certificate extension that says which GB/T 28181 IDs it may certify.

    GbScope ::= SEQUENCE {
        areas    SEQUENCE OF PrintableString,   -- prefixes of the centre code
        types    SEQUENCE OF PrintableString,   -- type codes, or prefixes of them
        networks SEQUENCE OF PrintableString }  -- network digits
    -- an empty list allows any value

No X.509 constraint binds an otherName, so this rule is enforced here, when a certificate is issued and again down the
chain when one is verified. The extension is not critical: devices and TLS libraries do not know it and would refuse the
chain; them, the CA's critical dNSName constraint binds to the region.
"""

from functools import lru_cache

from cryptography import x509

from secguard.core.errors import FormatError, UsageError
from secguard.gbid import Scope
from secguard.trust import der
from secguard.trust.oids import GB_SCOPE

__all__ = ["decode_scope", "encode_scope", "scope_extension", "scope_of"]

_MAX_BYTES = 8192


def encode_scope(scope: Scope) -> bytes:
    """The extension's value in DER."""
    lists = (scope.areas, scope.types, scope.networks)
    return der.sequence(
        *(der.sequence(*(der.encode(der.PRINTABLE_STRING, v.encode("ascii")) for v in values)) for values in lists)
    )


@lru_cache(maxsize=256)
def decode_scope(data: bytes) -> Scope:
    """Read the extension's value.

    Raises:
        FormatError: `trust.scope.format`: not a GbScope, or not in its one DER form.
    """
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError
        fields = list(der.children(der.single(data, der.SEQUENCE)))
        lists: list[tuple[str, ...]] = []
        for tag, content in fields:
            values = list(der.children(content))
            if tag != der.SEQUENCE or any(kind != der.PRINTABLE_STRING for kind, _ in values):
                raise ValueError
            lists.append(tuple(value.decode("ascii") for _, value in values))
        areas, types, networks = lists
        scope = Scope(areas, types, networks)
        # A Scope is sorted and minimal, so any other spelling of the same set is refused here.
        if encode_scope(scope) != data:
            raise ValueError
    except (FormatError, UsageError, ValueError) as error:
        raise FormatError("trust.scope.format", "the GB scope extension cannot be read") from error
    return scope


def scope_extension(scope: Scope) -> x509.UnrecognizedExtension:
    """The extension for a certificate builder."""
    return x509.UnrecognizedExtension(GB_SCOPE, encode_scope(scope))


def scope_of(certificate: x509.Certificate) -> Scope | None:
    """The GB scope that a certificate carries, or None.

    Raises:
        FormatError: the extension is there and cannot be read.
        ValueError: the certificate's extensions cannot be parsed.
    """
    try:
        value = certificate.extensions.get_extension_for_oid(GB_SCOPE).value
    except x509.ExtensionNotFound:
        return None
    assert isinstance(value, x509.UnrecognizedExtension)
    return decode_scope(value.value)
