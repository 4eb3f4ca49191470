"""What the authority needs to know of its site; the workspace fills it from `secguard.toml`."""

from dataclasses import dataclass, field

from secguard.gbid import Scope

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The site's part in certificates.

    Attributes:
        organization: O of every subject, 1 to 64 characters.
        country: C of every subject, two letters.
        domain: DNS domain under which devices are named.
        scope: the GB/T 28181 IDs that the site's CAs may certify.
        edition: edition of GB/T 28181 whose tables IDs are checked against.
        crl_url: base URL of revocation lists, no slash at the end; empty: certificates name none.
        crl_days: days until a list of an issuing CA is stale.
    """

    organization: str = "secguard"
    country: str = "CN"
    domain: str = "video.example"
    scope: Scope = field(default_factory=Scope)
    edition: str = "2022"
    crl_url: str = ""
    crl_days: int = 7
