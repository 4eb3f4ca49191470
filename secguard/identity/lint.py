"""Linting with pkilint: certificates, revocation lists and OCSP responses against RFC 5280 and RFC 6960.

pkilint is an optional part (`pip install 'secguard[lint]'`), imported when first used. Clean means: no remark at
WARNING or above.
"""

import base64
import binascii
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import Any

from secguard.core import Finding, FormatError, Progress, SecguardError, SystemPartError, Throttle, finding, silent
from secguard.trust.der import SEQUENCE, children, encode, sequence, single

__all__ = ["Document", "Kind", "Remark", "documents_of", "judge_documents", "lint"]

_MAX_LINTED = 512 << 10
_MAX_WHOLE_LIST = 32 << 10
_ENTRIES = 500
_TIMES = {0x17, 0x18}  # UTCTime, GeneralizedTime
_MAX_DOCUMENTS = 10_000
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----(.*?)-----END \1-----", re.DOTALL)
_SEVERITIES = {"FATAL": "error", "ERROR": "error", "WARNING": "warning", "NOTICE": "notice"}


class Kind(StrEnum):
    """What can be linted."""

    CERTIFICATE = "certificate"
    CRL = "crl"
    OCSP = "ocsp-response"


_LABELS = {b"CERTIFICATE": Kind.CERTIFICATE, b"X509 CRL": Kind.CRL, b"OCSP RESPONSE": Kind.OCSP}


@dataclass(frozen=True, slots=True)
class Document:
    """One thing to lint.

    Attributes:
        name: what to call it in findings.
        kind: what it is.
        der: its bytes.
        group: findings of one group that say the same are counted, not repeated; empty: each stands alone.
    """

    name: str
    kind: Kind
    der: bytes
    group: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """What pkilint says of one place: `severity` error, warning or notice, its `rule`, the `path`, and a `message`."""

    severity: str
    rule: str
    path: str
    message: str


def documents_of(data: bytes, where: str) -> list[Document]:
    """The certificates, lists and OCSP responses of a file: PEM, also several and mixed, or one in DER.

    Raises:
        FormatError: there are none, or too many.
    """
    blocks = [(_LABELS[match[1]], match[2]) for match in _PEM.finditer(data) if match[1] in _LABELS]
    if not blocks:
        kind = _kind_of(data)
        if kind is None:
            raise FormatError(
                "identity.lint.format", "no certificate, revocation list or OCSP response in PEM or DER", where=where
            )
        return [Document(where, kind, data)]
    if len(blocks) > _MAX_DOCUMENTS:
        raise FormatError("identity.lint.too-many", f"{len(blocks)} documents; {_MAX_DOCUMENTS} are the limit")
    made = []
    for number, (kind, text) in enumerate(blocks, 1):
        name = where if len(blocks) == 1 else f"{where} #{number}"
        try:
            made.append(Document(name, kind, base64.b64decode(b"".join(text.split()), validate=True)))
        except binascii.Error as error:
            raise FormatError("identity.lint.format", f"not base64: {error}", where=name) from None
    return made


def _kind_of(der: bytes) -> Kind | None:
    """Tell the three apart as a parser does."""
    from cryptography import x509
    from cryptography.x509 import ocsp

    loaders: tuple[tuple[Kind, Callable[[bytes], object]], ...] = (
        (Kind.CERTIFICATE, x509.load_der_x509_certificate),
        (Kind.CRL, x509.load_der_x509_crl),
        (Kind.OCSP, ocsp.load_der_ocsp_response),
    )
    for kind, load in loaders:
        try:
            load(der)
        except Exception:  # noqa: BLE001, S112 - whatever a parser raises over foreign bytes: it is not this kind
            continue
        return kind
    return None


def lint(document: Document) -> list[Remark]:
    """What pkilint has to say about a document, from NOTICE upwards.

    Raises:
        SystemPartError: pkilint is not installed.
        FormatError: pkilint cannot decode it.
    """
    load, validator = _tools()[document.kind]
    try:
        root = load(document.der, document.name).root
    except Exception as error:
        # ValueError, PyAsn1Error, RecursionError ...: whatever foreign bytes provoke means the same
        raise FormatError(
            "identity.lint.format", f"not DER of the kind {document.kind}: {str(error)[:120]}", where=document.name
        ) from error
    remarks = []
    for result in validator.validate(root):
        for item in result.finding_descriptions:
            severity = _SEVERITIES.get(item.finding.severity.name)
            if severity is not None:
                message = " ".join(str(item.message or "").split())[:200]
                remarks.append(Remark(severity, item.finding.code, result.node.path, message))
    return remarks


def judge_documents(
    documents: Iterable[Document], total: int | None = None, progress: Progress = silent
) -> list[Finding]:
    """Lint documents, and turn what is said into findings; those of one group that say the same are counted.

    Raises:
        SystemPartError: pkilint is not installed.
    """
    tick = Throttle(progress)
    counts: Counter[tuple[str, str, str]] = Counter()
    first: dict[tuple[str, str, str], Finding] = {}
    for number, document in enumerate(documents, 1):
        for item in _findings(document):
            key = (document.group or document.name, item.code, str(item.data.get("rule")) + str(item.data.get("path")))
            counts[key] += 1
            first.setdefault(key, item)
        tick(number, total, "documents")
    found = []
    for key, item in first.items():
        where = item.where if counts[key] == 1 else f"{item.where} (+{counts[key] - 1})"
        found.append(finding(item.code, where, **item.data))
    return found


def _findings(document: Document) -> Iterator[Finding]:
    if document.kind is Kind.CRL and len(document.der) > _MAX_WHOLE_LIST:
        document = _shortened(document)
    if len(document.der) > _MAX_LINTED:
        yield finding("identity.lint.too-large", document.name, size=len(document.der), limit=_MAX_LINTED)
        return
    try:
        remarks = lint(document)
    except FormatError as error:
        yield finding("identity.lint.unreadable", document.name, reason=error.message)
        return
    for remark in remarks:
        data: dict[str, Any] = {
            "rule": remark.rule,
            "path": remark.path,
            "message": remark.message,
            "colon": ": " if remark.message else "",
        }
        if remark.severity == "error":
            yield finding("identity.lint.error", document.name, **data)
        elif remark.severity == "warning":
            yield finding("identity.lint.warning", document.name, **data)
        else:
            yield finding("identity.lint.notice", document.name, **data)


def _shortened(document: Document) -> Document:
    """A long list with its first entries only: pkilint takes minutes for all, and asks for no signature."""
    try:
        tbs, *rest = children(single(document.der, SEQUENCE))
        fields = list(children(tbs[1]))
        times = [number for number, (tag, _) in enumerate(fields) if tag in _TIMES]
        place = times[-1] + 1
        entries = list(children(fields[place][1]))[:_ENTRIES]
        fields[place] = (SEQUENCE, b"".join(encode(*entry) for entry in entries))
        short = sequence(*(encode(*field) for field in fields))
        name = f"{document.name} (its first {_ENTRIES} entries)"
        return replace(document, name=name, der=sequence(short, *(encode(*item) for item in rest)))
    except (SecguardError, ValueError, IndexError):
        return document  # no list: pkilint says what is wrong with it, if it is not too large


@cache
def _tools() -> dict[Kind, tuple[Callable[..., Any], Any]]:
    """For each kind, pkilint's loader and its validators; made once, they take half a second."""
    try:
        from pkilint import loader, pkix
        from pkilint.pkix import certificate, crl, extension, name, ocsp
    except ImportError as error:
        raise SystemPartError(
            "identity.lint.missing",
            f"linting needs pkilint, which is not installed ({error.name})",
            hint="pip install 'secguard[lint]'",
        ) from None
    # A validator that fails is reported as a remark; its traceback is not for users.
    logging.getLogger("pkilint").setLevel(logging.CRITICAL + 1)
    decoders = [
        pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
        pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
    ]
    certificates = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    lists = crl.create_pkix_crl_validator_container(
        decoders,
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )
    responses = ocsp.create_pkix_ocsp_response_validator_container([ocsp.create_response_decoder(), *decoders], [])
    return {
        Kind.CERTIFICATE: (loader.RFC5280CertificateDocumentLoader().load_der_document, certificates),
        Kind.CRL: (loader.RFC5280CertificateListDocumentLoader().load_der_document, lists),
        Kind.OCSP: (loader.RFC6960OCSPResponseDocumentLoader().load_der_document, responses),
    }
