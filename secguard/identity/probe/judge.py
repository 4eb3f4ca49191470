"""What an endpoint presented, judged against trust and the registry; one verdict each, and one over all."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
from cryptography import x509

from secguard.core import Axis, Finding, Outcome, Verdict, finding, judge
from secguard.identity.probe import served as facts
from secguard.identity.probe.book import Book
from secguard.identity.probe.handshake import Answer
from secguard.identity.probe.result import Endpoint
from secguard.identity.probe.targets import Target, safe
from secguard.trust import ChainJudgement, TrustPolicy, title

__all__ = ["REQUIRED", "Judge", "overall"]

REQUIRED = (Axis.COVERAGE, Axis.PROVENANCE, Axis.REVOCATION, Axis.CONFORMANCE)
"""The axes that decide."""

_NOT_REACHED = {
    "refused",
    "unreachable",
    "timeout",
    "unresolved",
    "silent",
    "handshake",
    "tlcp",
    "garbage",
}
_OLD = {"TLSv1", "TLSv1.1", "SSLv3"}
_WRONG = ("none", "stranger", "expired", "revoked", "other")
# Told of the endpoint already, by its own certificate's facts.
_SAID = {
    "trust.certificate.expired": {"identity.endpoint.expired"},
    "trust.certificate.not-yet-valid": {"identity.endpoint.not-yet-valid"},
    "trust.certificate.weak": {"identity.endpoint.weak-key", "identity.endpoint.weak-signature"},
}


class Judge:
    """Judges endpoints one after the other; it remembers their keys, to find one that two devices hold.

    Args:
        policy: roots and revocation lists.
        at: the time to judge for, aware.
        book: what the registry says; None without a workspace.
        days: a certificate that ends sooner is told.
        demanded: ... and is a violation.
        sni: the name under which all endpoints are reached.
        wanted: names of the client certificates that were to be tried.
    """

    def __init__(
        self,
        policy: TrustPolicy,
        at: datetime,
        *,
        book: Book | None = None,
        days: int = 30,
        demanded: bool = False,
        sni: str = "",
        wanted: Sequence[str] = (),
    ) -> None:
        self._policy = policy
        self._at = at
        self._book = book
        self._days = days
        self._demanded = demanded
        self._sni = sni
        self._wanted = tuple(wanted)
        self._keys: dict[str, Endpoint] = {}

    def endpoint(self, target: Target, answer: Answer) -> Endpoint:
        """Judge one endpoint."""
        device = target.device or (self._book.device_at(target) if self._book else "")
        made = Endpoint(
            str(target),
            target.host,
            target.port,
            address=answer.address,
            device=device,
            state=answer.state,
            protocol=answer.protocol,
            cipher=answer.cipher,
            clients={name: item.outcome for name, item in answer.clients.items()},
            seconds=round(answer.seconds, 4),
            findings=[],
        )
        examined = {Axis.COVERAGE}
        if answer.state in _NOT_REACHED:
            made.findings.append(_unreached(answer, made.target))
        elif answer.state == "presented":
            try:
                examined |= self._presented(target, answer, made)
            except Exception as error:  # noqa: BLE001 - what no rule foresaw in a stranger's certificate is not believed
                made.active = False
                reason = safe(f"{type(error).__name__}: {error}")
                made.findings.append(finding("identity.endpoint.malformed", made.target, reason=reason))
        else:
            made.findings.append(_nothing_served(answer, made.target))
        conclude(made, self._at, examined)
        return made

    def _presented(self, target: Target, answer: Answer, made: Endpoint) -> set[Axis]:
        where = made.target
        try:
            chain = facts.parse_chain(answer.chain)
        except ValueError as error:
            made.findings.append(finding("identity.endpoint.malformed", where, reason=str(error)))
            return set()
        leaf = chain[0]
        found = made.findings
        if answer.sent > len(chain):
            found.append(finding("identity.endpoint.oversized", where, reason=f"{answer.sent} certificates"))
        found += facts.validity_findings(leaf, self._at, self._days, where, demanded=self._demanded)
        found += facts.weaknesses(leaf, where)
        found += _protocol(answer, where)
        item = facts.serve_facts(leaf, answer.sent)
        purpose = facts.purpose_of(leaf, device=bool(made.device or item.gbid))
        judgement = self._policy.judge_chain(chain, purpose, self._at)
        if not judgement.path and self._book is not None:
            # The registry knows the issuing CAs: a chain that lacks one is told so, and judged nevertheless.
            whole = self._policy.judge_chain([leaf, *self._book.authorities], purpose, self._at)
            if whole.path:
                found.append(finding("identity.endpoint.incomplete", where, issuer=facts.issuer_of(leaf)))
                judgement = whole
        found += list(self._of_chain(judgement, chain, where, {item.code for item in found}))
        made.certificate = msgspec.structs.replace(item, believed=judgement.believed)
        if judgement.path and not facts.serves_tls(leaf):
            found.append(finding("identity.endpoint.usage", where))
        found += self._names(target, leaf, made, judgement)
        if self._book is not None:
            found += self._book.compare(leaf, made)
        found += self._shared(made)
        found += _clients(answer, self._wanted, where)
        return set(judgement.examined) | {Axis.CONFORMANCE}

    def _of_chain(
        self, judgement: ChainJudgement, chain: Sequence[x509.Certificate], where: str, said: set[str]
    ) -> Iterable[Finding]:
        leaf = chain[0]
        name = title(leaf)
        for item in judgement.findings:
            if item.code in {"trust.chain.incomplete", "trust.chain.untrusted"}:
                yield self._untrusted(chain, where)
            elif item.code == "trust.certificate.malformed":
                yield finding("identity.endpoint.malformed", where, reason=safe(str(item.data.get("reason", ""))))
            elif item.code == "trust.certificate.revoked":
                yield finding(
                    "identity.endpoint.revoked",
                    where,
                    since=item.data.get("since", ""),
                    reason=item.data.get("reason", ""),
                )
            elif item.axis is Axis.REVOCATION and item.outcome is Outcome.UNKNOWN:
                yield finding("identity.endpoint.status-unknown", where, problem=item.code)
            elif item.where == name and _SAID.get(item.code, set()) & said:
                said = said - _SAID[item.code]  # once: an issuing CA may bear the same name
            else:
                data = {key: safe(value, 200) if isinstance(value, str) else value for key, value in item.data.items()}
                yield Finding(item.code, item.axis, item.outcome, f"{where} {item.where}".strip(), data)

    def _untrusted(self, chain: Sequence[x509.Certificate], where: str) -> Finding:
        leaf = chain[0]
        if leaf.issuer == leaf.subject:
            return finding("identity.endpoint.self-signed", where, subject=title(leaf))
        known = {root.subject for root in self._policy.roots}
        if self._book is not None:
            known |= {item.subject for item in self._book.authorities}
        issuers = {item.subject: item for item in chain[1:]}
        last, steps = leaf, 0
        while last.issuer in issuers and last.issuer != last.subject and steps < len(chain):
            last, steps = issuers[last.issuer], steps + 1
        # Where neither the roots nor the registry know the name, a missing issuing CA is only a guess.
        guess = len(chain) == 1 and self._book is None
        if last.issuer != last.subject and (last.issuer in known or guess):
            return finding("identity.endpoint.incomplete", where, issuer=facts.issuer_of(last))
        return finding("identity.endpoint.unknown-ca", where, issuer=facts.issuer_of(last))

    def _names(
        self, target: Target, leaf: x509.Certificate, made: Endpoint, judgement: ChainJudgement
    ) -> Iterable[Finding]:
        """A device is who its ID says; any other endpoint must hold the name by which it is reached."""
        where, item = made.target, made.certificate
        assert item is not None
        if made.device:
            if item.gbid and item.gbid != made.device:
                yield finding("identity.endpoint.wrong-device", where, expected=made.device, stated=item.gbid)
            elif not item.gbid and judgement.path:
                outcome = Outcome.UNKNOWN if judgement.foreign else None
                yield finding(
                    "identity.endpoint.wrong-device", where, outcome=outcome, expected=made.device, stated=item.subject
                )
        wanted = self._sni or target.host
        if not (made.device or item.gbid):
            if not facts.name_held(leaf, target, self._sni):
                yield finding("identity.endpoint.name-mismatch", where, name=wanted)
        elif (target.is_name or self._sni) and not facts.name_held(leaf, target, self._sni):
            yield finding("identity.endpoint.name-mismatch", where, outcome=Outcome.PASS, name=wanted)

    def _shared(self, made: Endpoint) -> Iterable[Finding]:
        item = made.certificate
        assert item is not None
        if not item.spki:
            return
        first = self._keys.setdefault(item.spki, made)
        if first is made or _same(first, made):
            return
        yield finding("identity.endpoint.key-shared", made.target, other=_label(first))
        other = finding("identity.endpoint.key-shared", first.target, other=_label(made))
        if not any(known.code == other.code for known in first.findings):
            first.findings.append(other)
            conclude(first, self._at, [axis for axis, outcome in first.axes.items() if outcome is not Outcome.UNKNOWN])


def _same(one: Endpoint, other: Endpoint) -> bool:
    """Two endpoints of one device: by the registry's ID where both have one, else by address."""
    if one.device and other.device:
        return one.device == other.device
    return (one.address or one.host) == (other.address or other.host)


def _label(item: Endpoint) -> str:
    return f"{item.target} ({item.device})" if item.device else item.target


def _unreached(answer: Answer, where: str) -> Finding:
    code = f"identity.endpoint.{answer.state}"
    if answer.state == "timeout":
        return finding(code, where, seconds=round(answer.seconds, 1))
    return finding(code, where, reason=answer.reason or "-")


def _nothing_served(answer: Answer, where: str) -> Finding:
    if answer.state == "plain":
        return finding("identity.endpoint.plaintext", where, protocol=answer.protocol, banner=answer.reason)
    if answer.state == "anonymous":
        return finding("identity.endpoint.no-certificate", where, cipher=answer.cipher)
    code = "identity.endpoint.oversized" if answer.state == "oversized" else "identity.endpoint.malformed"
    return finding(code, where, reason=answer.reason)


def _protocol(answer: Answer, where: str) -> Iterable[Finding]:
    if answer.protocol in _OLD:
        yield finding("identity.endpoint.protocol-old", where, protocol=answer.protocol)
    if answer.legacy:
        yield finding("identity.endpoint.protocol-accepted", where, protocol=answer.legacy)


def _clients(answer: Answer, wanted: Sequence[str], where: str) -> Iterable[Finding]:
    if not wanted:
        return
    tried = answer.clients
    good = tried.get("good")
    if good is not None and good.outcome != "accepted":
        reason = f"{good.outcome}: {good.reason}" if good.reason else good.outcome
        yield finding("identity.endpoint.client-control", where, control=reason)
    for name in _WRONG:
        item = tried.get(name)
        if item is None:
            continue
        if item.outcome == "accepted":
            yield finding(f"identity.endpoint.client-{name}", where)
        elif item.outcome == "unclear":
            yield finding("identity.endpoint.client-unclear", where, credential=name, reason=item.reason or "-")
    missing = [name for name in wanted if name not in tried]
    if missing:
        yield finding("identity.endpoint.client-untested", where, credentials=", ".join(missing))


def conclude(made: Endpoint, at: datetime, examined: Iterable[Axis]) -> None:
    """Draw an endpoint's verdict from its findings."""
    verdict = judge(made.target, at, examined=examined, findings=made.findings, default=REQUIRED)
    made.outcome, made.axes = verdict.outcome, dict(verdict.axes)


def overall(
    subject: str,
    at: datetime,
    endpoints: Sequence[Endpoint],
    require: Iterable[Axis] = (),
    extra: Sequence[Finding] = (),
) -> Verdict:
    """One verdict over all: an axis passes only if it passes for every endpoint.

    Args:
        subject: what was probed.
        at: the time that was judged for, aware.
        endpoints: their verdicts.
        require: narrows the axes that decide.
        extra: findings about what was not probed; where there are any, no axis passes.
    """
    examined = [
        axis
        for axis in REQUIRED
        if endpoints and not extra and all(item.axes.get(axis) is not Outcome.UNKNOWN for item in endpoints)
    ]
    findings = [found for item in endpoints for found in item.findings] + list(extra)
    return judge(subject, at, examined=examined, findings=findings, default=REQUIRED, require=require)
