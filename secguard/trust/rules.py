"""What a path must say beyond X.509: purpose, GB scope, validity and key strength; each rule a pure function.

Under a secguard root (one that carries a GB scope) everything is mandatory. Under any other root, the user's own choice
of trust anchor, only what certificates there can be expected to say is asked for.
"""

from collections.abc import Iterator
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from secguard.core import Finding, Outcome, finding, rfc3339
from secguard.gbid import GbId
from secguard.trust.facts import Facts
from secguard.trust.oids import Purpose, oids_of
from secguard.trust.path import Path

__all__ = ["device_rules", "purpose_rules", "scope_rules", "strength_rules", "validity_rules"]

_DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # RFC 9336
_EKU_NAMES = {oids_of(purpose).eku: str(purpose) for purpose in Purpose} | {
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS client",
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS server",
}
# Purposes whose keys belong to a device, so that their certificates must name it.
_OF_DEVICES = {Purpose.DEVICE, Purpose.MEDIA_SIGNING}
# What makers certify without saying so; keys of logs, operators and authorities are always certified as such.
_MAY_BE_UNSTATED = {Purpose.DEVICE, Purpose.PLATFORM, Purpose.MEDIA_SIGNING}


def validity_rules(path: Path, at: datetime) -> Iterator[Finding]:
    """Every certificate, the trust anchor too, must be valid at `at` (both ends included; RFC 5280, 4.1.2.5)."""
    for facts in path.facts:
        if at < facts.not_before:
            since = rfc3339(facts.not_before)
            yield finding("trust.certificate.not-yet-valid", facts.title, since=since, at=rfc3339(at))
        elif at > facts.not_after:
            until = rfc3339(facts.not_after)
            yield finding("trust.certificate.expired", facts.title, until=until, at=rfc3339(at))


def strength_rules(path: Path) -> Iterator[Finding]:
    """Keys and signature hashes must be ones that nobody can break; the anchor's own signature proves nothing."""
    anchor = path.facts[-1]
    for facts in path.facts:
        weak = facts.weak_key
        if not weak and facts is not anchor and facts.weak_hash:
            weak = "signed with a broken hash"
        if weak:
            yield finding("trust.certificate.weak", facts.title, reason=weak)


def purpose_rules(path: Path, purpose: Purpose, *, foreign: bool) -> Iterator[Finding]:
    """The end entity's key must be certified for `purpose`, and every CA above it must be allowed to do so."""
    leaf, anchor = path.facts[0], path.facts[-1]
    if foreign and purpose in _MAY_BE_UNSTATED and leaf.ekus is None:
        yield finding("trust.purpose.unstated", leaf.title, purpose=purpose, root=anchor.title)
    for facts in path.facts[:1] if foreign else path.facts[:-1]:
        reason = _unfit(facts, purpose, leaf=facts is leaf, foreign=foreign)
        if reason:
            yield finding("trust.purpose.wrong", facts.title, purpose=purpose, reason=reason)


def _unfit(facts: Facts, purpose: Purpose, *, leaf: bool, foreign: bool) -> str:
    """Why a certificate may not stand in a path for `purpose`; empty if it may."""
    wanted = oids_of(purpose)
    accepted = {wanted.eku}
    lenient = foreign and purpose in _MAY_BE_UNSTATED
    if lenient:
        accepted.add(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
        if purpose is Purpose.MEDIA_SIGNING:
            accepted.add(_DOCUMENT_SIGNING)
    if leaf:
        if facts.is_ca:
            return "it is a CA certificate"
        usage = facts.get(x509.KeyUsage)
        if (usage is None and not foreign) or (usage is not None and not usage.digital_signature):
            return "its key usage is not digitalSignature"
    if facts.ekus is None:
        if leaf and not lenient:
            return "it states no extended key usage"
    elif accepted.isdisjoint(facts.ekus):
        names = [_EKU_NAMES.get(item, item.dotted_string) for item in facts.ekus[:8]]
        return f"it is for {', '.join(names)}"
    if not foreign and wanted.policy not in facts.policies:
        return "its certificate policy does not allow it"
    return ""


def scope_rules(path: Path) -> Iterator[Finding]:
    """Under a secguard root every CA carries a GB scope that lies within the one above it; so does an end entity's."""
    leaf = path.facts[0]
    above = path.facts[-1].scope
    for facts in reversed(path.facts[:-1]):
        own = facts.scope
        if own is None:
            if facts is not leaf:
                yield finding("trust.scope.missing", facts.title)
            continue
        if above is not None and not own.within(above):
            yield finding("trust.scope.exceeded", facts.title, scope=own.text, issuer=above.text)
        above = own


def device_rules(
    path: Path, purpose: Purpose, stated: GbId | None, expected: GbId | None, *, foreign: bool
) -> Iterator[Finding]:
    """The ID in the certificate must be the expected one, and lie in the scope of every CA of the path."""
    leaf = path.facts[0]
    if stated is None:
        if expected is not None or (purpose in _OF_DEVICES and not foreign):
            yield finding(
                "trust.gbid.absent",
                leaf.title,
                outcome=Outcome.UNKNOWN if foreign else None,
                expected=expected.value if expected else "any",
            )
        return
    if expected is not None and stated != expected:
        yield finding("trust.gbid.mismatch", leaf.title, stated=stated.value, expected=expected.value)
    for issuer in path.facts[1:]:
        scope = issuer.scope
        if scope is not None and not scope.covers(stated):
            yield finding("trust.scope.device", leaf.title, gbid=stated.value, issuer=issuer.title, scope=scope.text)
