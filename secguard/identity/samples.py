"""One of everything that the profiles of a site issue, made in memory with keys that are thrown away; for linting.

The site's own configuration (names, URLs, scope) goes into them, so that what is linted is what would be issued.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from secguard.core import Axis, Finding, SecguardError, describe, finding, rfc3339
from secguard.gbid import Scope
from secguard.identity.certificate import ROOT, Validity, build_ca, build_leaf, crl_file
from secguard.identity.config import IdentityConfig
from secguard.identity.issuing.certify import new_serial
from secguard.identity.lint import Document, Kind
from secguard.identity.profiles import CaProfile, Holder, Profile
from secguard.identity.registry.revocations import RevokedRow
from secguard.identity.status.crl import REASON_CODES, build_crl, encode_entries
from secguard.keys import Algorithm, KeySigner, generate
from secguard.trust import Purpose, TrustPolicy

__all__ = ["Samples", "sample_holders"]

_SERIAL = "0000001"


@dataclass(frozen=True, slots=True)
class _Ca:
    name: str
    signer: KeySigner
    certificate: x509.Certificate


class Samples:
    """A throw-away hierarchy made by the profiles.

    Args:
        profiles: of end entities.
        ca_profiles: of CAs, the root among them.
        config: the site.
        scope: what its CAs may certify.
        at: time of issue, aware.
    """

    def __init__(
        self,
        profiles: Mapping[str, Profile],
        ca_profiles: Mapping[str, CaProfile],
        config: IdentityConfig,
        scope: Scope,
        at: datetime,
    ) -> None:
        self._profiles = profiles
        self._config = config
        self._scope = scope
        self._at = at
        self._keys: dict[Algorithm, KeySigner] = {}
        self.problems: list[Finding] = []
        root = self._ca(ROOT, ca_profiles[ROOT], None)
        self._cas = [root, *(self._ca(name, one, root) for name, one in ca_profiles.items() if name != ROOT)]
        self._purposes = {ca.name: ca_profiles[ca.name].purposes for ca in self._cas}

    def _key(self, algorithm: Algorithm) -> KeySigner:
        """One key a kind: nobody uses what is made here, and RSA keys take long."""
        if algorithm not in self._keys:
            self._keys[algorithm] = generate(algorithm)
        return self._keys[algorithm]

    def _ca(self, name: str, profile: CaProfile, root: _Ca | None) -> _Ca:
        key = generate(profile.key)
        certificate = build_ca(
            profile,
            f"{self._config.organization} {name} CA",
            self._config,
            key.public_key(),
            serial=int(new_serial(), 16),
            validity=Validity.starting(self._at, profile.days, within=root.certificate if root else None),
            scope=self._scope,
            issuer=root.certificate if root else None,
            signer=root.signer if root else key,
        )
        return _Ca(name, key, certificate)

    def documents(self) -> Iterator[Document]:
        """The CAs' certificates; for each profile one for each kind of key and of holder; the lists, full and sharded.

        What cannot be issued, or would not be believed, is left in `problems`.
        """
        for ca in self._cas:
            yield _certificate(f"CA {ca.name}", ca.certificate)
        for profile in self._profiles.values():
            issuers = [ca for ca in self._cas if profile.purpose in self._purposes[ca.name]]
            if profile.purpose is Purpose.OCSP:
                issuers = self._cas[1:]  # every CA below the root certifies its own
            if not issuers:
                reason = f"no profile of certs/ca certifies the purpose {profile.purpose}"
                self.problems.append(finding("identity.lint.unissuable", f"profile {profile.name}", reason=reason))
            for ca in issuers:
                yield from self._leaves(profile, ca)
        for ca in self._cas:
            yield from self._lists(ca)

    def _leaves(self, profile: Profile, ca: _Ca) -> Iterator[Document]:
        for algorithm in dict.fromkeys((profile.key, *profile.accept)):
            for holder in sample_holders(profile, self._config, self._scope):
                name = f"profile {profile.name} ({algorithm}, {holder}, by {ca.name})"
                try:
                    certificate = build_leaf(
                        profile,
                        holder,
                        self._config,
                        self._key(algorithm).public_key(),
                        serial=int(new_serial(), 16),
                        validity=Validity.starting(self._at, profile.days, within=ca.certificate),
                        issuer=ca.certificate,
                        issuer_name=ca.name,
                        signer=ca.signer,
                        vendor_serial="SN-0001" if profile.holder is Holder.DEVICE else "",
                    )
                except SecguardError as error:
                    self.problems.append(finding("identity.lint.unissuable", name, reason=error.message))
                    continue
                beyond = _usages(certificate) - _usages(ca.certificate)
                if beyond:
                    reason = f"the CA {ca.name} cannot pass on {', '.join(sorted(beyond))} (its profile's domains?)"
                    self.problems.append(finding("identity.lint.unissuable", name, reason=reason))
                judgement = TrustPolicy([self._cas[0].certificate]).judge_chain(
                    [certificate, ca.certificate], profile.purpose, self._at
                )
                for item in judgement.findings:
                    if item.axis is Axis.PROVENANCE and not judgement.believed:
                        self.problems.append(finding("identity.lint.unissuable", name, reason=describe(item)))
                yield _certificate(name, certificate)

    def _lists(self, ca: _Ca) -> Iterator[Document]:
        """A list with every reason, an empty one, and a shard."""
        entries = b"".join(encode_entries(self._revoked()))
        url = f"{self._config.crl_url.rstrip('/') or 'http://crl.example.com'}/{crl_file(ca.name, 0)}"
        for what, data, urls in (("all reasons", entries, ()), ("empty", b"", ()), ("a shard", entries, (url,))):
            crl = build_crl(
                ca.certificate,
                ca.signer,
                data,
                number=1,
                this_update=self._at,
                next_update=self._at + timedelta(days=self._config.crl_days),
                urls=urls,
            )
            yield Document(f"list of {ca.name} ({what})", Kind.CRL, crl)

    def _revoked(self) -> list[RevokedRow]:
        day = rfc3339(self._at - timedelta(days=1))
        return [
            RevokedRow(number, new_serial(), day, reason, day if reason == "keyCompromise" else None)
            for number, reason in enumerate(["unspecified", *REASON_CODES], 1)
        ]


def _certificate(name: str, certificate: x509.Certificate) -> Document:
    return Document(name, Kind.CERTIFICATE, certificate.public_bytes(Encoding.DER))


def _usages(certificate: x509.Certificate) -> set[str]:
    """Extended key usages; TLS clients and servers hold a chain against each of them."""
    value = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return {usage.dotted_string for usage in value}


def sample_holders(profile: Profile, config: IdentityConfig, scope: Scope) -> list[str]:
    """Holders that a profile is made for: a device of the site's area, a host and an address, or a name."""
    if profile.holder is Holder.HOST:
        return [f"sample.{config.domain}", "192.0.2.1", "2001:db8::1"]
    if profile.holder is Holder.NAME:
        return ["sample"]
    area = (scope.areas[0] if scope.areas else "320116").ljust(8, "0")
    types = scope.types or profile.types or ("132",)
    kind = next((code for code in profile.types if code.startswith(tuple(types))), types[0])
    network = scope.networks[0] if scope.networks else "0"
    return [f"{area}00{kind.ljust(3, '0')}{network}{_SERIAL[1:]}"]
