"""Certification paths, built and checked by OpenSSL (RFC 5280, section 6): signatures, CA rights, length, name limits.

It is told to leave time alone: validity is judged by our own rule, for the time that is asked about.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from OpenSSL import crypto

from secguard.core import Finding, finding
from secguard.trust.facts import Facts, facts_of
from secguard.trust.names import MALFORMED, title
from secguard.trust.step import holds

__all__ = ["AnchorStore", "Path", "most_telling"]

# X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h; pyOpenSSL has no name for it.
_NO_CHECK_TIME = 0x200000
_SMALL = 16 << 10
_MAX_BRANCHES = 64

# X509_V_ERR_* of openssl/x509_vfy.h -> finding.
_CODES = {
    2: "trust.chain.incomplete",  # UNABLE_TO_GET_ISSUER_CERT
    20: "trust.chain.incomplete",  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: "trust.chain.incomplete",  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    18: "trust.chain.untrusted",  # DEPTH_ZERO_SELF_SIGNED_CERT
    19: "trust.chain.untrusted",  # SELF_SIGNED_CERT_IN_CHAIN
    7: "trust.chain.signature",  # CERT_SIGNATURE_FAILURE
    24: "trust.ca.invalid",  # INVALID_CA
    79: "trust.ca.invalid",  # INVALID_CA: not v3, or no basicConstraints
    32: "trust.ca.invalid",  # KEYUSAGE_NO_CERTSIGN
    25: "trust.path.length",  # PATH_LENGTH_EXCEEDED
    47: "trust.names.violated",  # PERMITTED_VIOLATION
    48: "trust.names.violated",  # EXCLUDED_VIOLATION
}
# The error that says most, when several trust anchors were tried.
_VAGUE = ("trust.chain.incomplete", "trust.chain.untrusted")


@dataclass(frozen=True, slots=True)
class Path:
    """A path whose signatures and constraints hold: end entity first, trust anchor last."""

    facts: tuple[Facts, ...]

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The certificates."""
        return tuple(item.certificate for item in self.facts)


class AnchorStore:
    """Trust anchors that are checked alike; `strict` adds OpenSSL's X509_STRICT rules (extensions present, right)."""

    def __init__(self, roots: Sequence[x509.Certificate], *, strict: bool) -> None:
        self._store = crypto.X509Store()
        # The roots' own signatures were checked when the policy was made: CHECK_SS_SIGNATURE would do it each time.
        self._store.set_flags(_NO_CHECK_TIME | (crypto.X509StoreFlags.X509_STRICT if strict else 0))
        for root in roots:
            self._store.add_cert(crypto.X509.from_cryptography(root))
        # What stands above end entities, by the issuing CA's whole certificate.
        self._branches: dict[x509.Certificate, tuple[Facts, ...]] = {}

    def build(self, chain: Sequence[x509.Certificate]) -> Path | Finding:
        """Find the path from `chain[0]` over the others (in any order) to a trust anchor, or say why there is none."""
        leaf, *others = chain
        try:
            short = self._short(leaf, others)
            if short is not None:
                return short
            handles = [_handle(item) for item in others]
            found = crypto.X509StoreContext(self._store, crypto.X509.from_cryptography(leaf), handles)
            above = [facts_of(item.to_cryptography()) for item in found.get_verified_chain()[1:]]
            path = Path((Facts(leaf), *above))
            self._remember(path)
            return path
        except crypto.X509StoreContextError as error:
            number, _, message = error.errors
            name = title(error.certificate.to_cryptography())
            return finding(_CODES.get(number, "trust.chain.rejected"), name, reason=message, number=number)
        except (crypto.Error, *MALFORMED) as error:
            return finding("trust.certificate.malformed", title(chain[0]), reason=str(error)[:200])

    def _short(self, leaf: x509.Certificate, others: Sequence[x509.Certificate]) -> Path | None:
        """The path over an issuing CA whose own path was verified before, if the last step surely holds."""
        for item in others if self._branches else ():
            above = self._branches.get(item)
            if above is not None:
                facts = Facts(leaf)
                if holds(facts, above[0]):
                    return Path((facts, *above))
        return None

    def _remember(self, path: Path) -> None:
        """Keep what was verified above the end entity and does not depend on it: every signature, right and length.

        Name constraints above the issuing CA bind the end entity too, so a path with such is checked whole each time.
        """
        above = path.facts[1:]
        if not above or any(item.get(x509.NameConstraints) is not None for item in above[1:]):
            return
        if len(self._branches) >= _MAX_BRANCHES:
            self._branches.clear()
        self._branches[above[0].certificate] = above


@lru_cache(maxsize=64)
def _small(certificate: x509.Certificate) -> crypto.X509:
    """OpenSSL's form of an intermediate; it keeps what it parsed (key, extensions) between verifications."""
    return crypto.X509.from_cryptography(certificate)


def _handle(certificate: x509.Certificate) -> crypto.X509:
    # Anyone may present intermediates: what is kept of them is bounded in number and in size.
    small = len(certificate.tbs_certificate_bytes) <= _SMALL
    return _small(certificate) if small else crypto.X509.from_cryptography(certificate)


def most_telling(findings: Sequence[Finding]) -> Finding:
    """The finding that says most about why no path was found."""
    return next((item for item in findings if item.code not in _VAGUE), findings[0])
