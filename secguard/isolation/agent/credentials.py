"""Whom an agent and a controller believe: whose plan counts, and who is at the other end of a TLS connection.

A plan counts if a key that was given by hand signed it, or an operator whose certificate leads to the root and is known
to be unrevoked. A peer counts if its certificate is an isolation agent's; no fresh revocation list is a refusal.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from secguard.core import Axis, Finding, Outcome
from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.core.findings import describe
from secguard.core.limits import MAX_PEM, read_bounded
from secguard.isolation.plan.plan import PLAN_TYPE, Plan, open_plan
from secguard.keys import unseal
from secguard.trust import MALFORMED, MAX_CERTIFICATES, Purpose, TrustPolicy, chain_pem, read_certificates, read_crls

__all__ = ["Trust", "certificate_names", "chain_text", "claimed_chain", "fingerprint", "read_key", "stands_for"]


def read_key(path: Path) -> PublicKeyTypes:
    """A public key in PEM, or that of a certificate in PEM.

    Raises:
        UsageError: no such file.
        FormatError: neither of the two.
    """
    data = read_bounded(path, MAX_PEM)
    try:
        if b"BEGIN CERTIFICATE" in data:
            return x509.load_pem_x509_certificate(data).public_key()
        return load_pem_public_key(data)
    except ValueError:
        raise FormatError("isolation.key.format", "not a public key in PEM", where=str(path)) from None


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, in hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def chain_text(chain: Iterable[x509.Certificate]) -> tuple[str, ...]:
    """A chain as a plan holds it."""
    return tuple(base64.b64encode(item.public_bytes(Encoding.DER)).decode() for item in chain)


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names of a certificate, in small letters."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [name.lower() for name in found.get_values_for_type(x509.DNSName)]


def stands_for(certificate: x509.Certificate, name: str) -> bool:
    """Whether a certificate is an agent's: a DNS name that is the agent's, or has it as its first label."""
    wanted = name.lower()
    return any(item == wanted or item.startswith(wanted + ".") for item in certificate_names(certificate))


@dataclass(frozen=True)
class Trust:
    """What is believed.

    Attributes:
        keys: public keys whose plans count.
        roots: files of root certificates, whose operators' plans count.
        crls: files or folders of revocation lists; read anew each time, so that they can be replaced meanwhile.
    """

    keys: Sequence[PublicKeyTypes] = ()
    roots: Sequence[Path] = ()
    crls: Sequence[Path] = field(default=())

    def policy(self) -> TrustPolicy:
        """Roots and revocation lists as they are now.

        Raises:
            SecguardError: one of the files is missing or damaged, or there is no root.
        """
        roots = [item for path in self.roots for item in read_certificates(path)]
        return TrustPolicy(roots, read_crls(self.crls))

    def open_plan(self, envelope: bytes, now: datetime) -> tuple[Plan, str]:
        """Check a plan: signature, signer, window, and that it makes sense.

        Raises:
            FormatError: not a plan.
            RefusedError: not signed by whom we believe, or outside its window.
        """
        keys = list(self.keys)
        if self.roots:
            chain = claimed_chain(envelope)
            if chain and unseal(envelope, PLAN_TYPE, [chain[0].public_key()])[1] is not None:
                self._operator(chain, now)
                keys.append(chain[0].public_key())
        return open_plan(envelope, keys, now)

    def _operator(self, chain: Sequence[x509.Certificate], now: datetime) -> None:
        judged = self.policy().judge_chain(chain, Purpose.OPERATOR, now)
        if not (judged.believed and judged.unrevoked):
            raise RefusedError(
                "isolation.plan.signer", f"the plan's signer is not believed: {_why(judged.findings)}", hint=_HINT
            )

    def judge_peer(self, chain: Sequence[x509.Certificate], now: datetime) -> None:
        """Check who is at the other end of a TLS connection.

        Raises:
            RefusedError: not an isolation agent's certificate, expired, revoked, or nobody knows.
        """
        judged = self.policy().judge_chain(chain, Purpose.ISOLATION_AGENT, now)
        if not (judged.believed and judged.unrevoked):
            raise RefusedError(
                "isolation.peer.certificate", f"its certificate is not believed: {_why(judged.findings)}", hint=_HINT
            )

    def anchors_pem(self) -> str:
        """The root certificates, PEM, for TLS.

        Raises:
            UsageError: there is none.
        """
        found = [item for path in self.roots for item in read_certificates(path)]
        if not found:
            raise UsageError("isolation.peer.root", "no root certificate", hint="give --root CA.pem")
        return chain_pem(found).decode("ascii")


class _Claim(msgspec.Struct):
    """The one part of a plan that is looked at before its signature."""

    chain: tuple[str, ...] = ()


def claimed_chain(envelope: bytes) -> list[x509.Certificate]:
    """The certificates that a plan says its signer has, leaf first; a claim, to be judged.

    Raises:
        FormatError: `isolation.plan.format`: they are no certificates; another code: not an envelope of a plan.
    """
    payload, _ = unseal(envelope, PLAN_TYPE, [])
    try:
        claim = msgspec.json.decode(payload, type=_Claim)
        if len(claim.chain) > MAX_CERTIFICATES:
            raise ValueError("too many certificates")
        return [x509.load_der_x509_certificate(base64.b64decode(item, validate=True)) for item in claim.chain]
    except (*MALFORMED, msgspec.MsgspecError, RecursionError) as error:
        raise FormatError("isolation.plan.format", f"not a plan: {str(error)[:160]}") from None


_HINT = "see `secguard identity verify`; a fresh list comes from `secguard identity crl`, given by --crl"


def _why(findings: Iterable[Finding]) -> str:
    """The most telling of what was found, in one sentence."""
    wrong = [item for item in findings if item.outcome is not Outcome.PASS]
    wrong.sort(key=lambda item: (item.outcome is not Outcome.FAIL, item.axis is not Axis.PROVENANCE))
    return describe(wrong[0], "en").rstrip(".") if wrong else "there is no revocation list for it"
