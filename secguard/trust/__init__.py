"""Floor 4: what is believed, for which purpose, at which time: chains, purposes, GB scope, revocation, log keys."""

from secguard.trust.crl import EXPIRED_CERTS_ON_CRL, CrlList, Revocation
from secguard.trust.facts import is_ca
from secguard.trust.names import MALFORMED, common_name, gbid_of, hardware_module_name, permanent_identifier, title
from secguard.trust.ocsp import MAX_OCSP
from secguard.trust.oids import Purpose, PurposeOids, oids_of, stated_purposes
from secguard.trust.online import Gathered, gather
from secguard.trust.pem import (
    MAX_CERTIFICATES,
    chain_pem,
    parse_certificates,
    parse_crls,
    read_certificates,
    read_crls,
    read_ocsp,
)
from secguard.trust.policy import ChainJudgement, LogKeys, TrustPolicy
from secguard.trust.scope import decode_scope, encode_scope, scope_extension, scope_of

__all__ = [
    "EXPIRED_CERTS_ON_CRL",
    "MALFORMED",
    "MAX_CERTIFICATES",
    "MAX_OCSP",
    "ChainJudgement",
    "CrlList",
    "Gathered",
    "LogKeys",
    "Purpose",
    "PurposeOids",
    "Revocation",
    "TrustPolicy",
    "chain_pem",
    "common_name",
    "decode_scope",
    "encode_scope",
    "gather",
    "gbid_of",
    "hardware_module_name",
    "is_ca",
    "oids_of",
    "parse_certificates",
    "parse_crls",
    "permanent_identifier",
    "read_certificates",
    "read_crls",
    "read_ocsp",
    "scope_extension",
    "scope_of",
    "stated_purposes",
    "title",
]
