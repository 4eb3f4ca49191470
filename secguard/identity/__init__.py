"""Floor 5: the authority: profiles, registry, issuing, renewing, revoking, revocation lists."""

from secguard.identity.authority import Authority
from secguard.identity.ca.create import create_authority
from secguard.identity.config import IdentityConfig
from secguard.identity.issuing.issue import Issued, Request
from secguard.identity.issuing.order import Certified, Order
from secguard.identity.profiles import Holder, Profile, load_profiles
from secguard.identity.records import CaRecord, CertificateRecord, DeviceRecord, Status
from secguard.identity.registry import Registry
from secguard.identity.status.revoke import REASONS

__all__ = [
    "REASONS",
    "Authority",
    "CaRecord",
    "CertificateRecord",
    "Certified",
    "DeviceRecord",
    "Holder",
    "IdentityConfig",
    "Issued",
    "Order",
    "Profile",
    "Registry",
    "Request",
    "Status",
    "create_authority",
    "load_profiles",
]
