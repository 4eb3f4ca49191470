"""What the authority needs to know of its site; the workspace fills it from `secguard.toml`."""

from dataclasses import dataclass

__all__ = ["IdentityConfig"]


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """The site's part in certificates. Which IDs it may certify is not configured here: its CA certificates say it.

    Attributes:
        organization: O of every subject, 1 to 64 characters.
        country: C of every subject, two letters.
        domain: DNS domain under which devices are named.
        edition: edition of GB/T 28181 whose tables IDs are checked against.
        crl_url: base URL of revocation lists, no slash at the end; empty: certificates name none.
        crl_days: days until a list of an issuing CA is stale.
    """

    organization: str = "secguard"
    country: str = "CN"
    domain: str = "video.example"
    edition: str = "2022"
    crl_url: str = ""
    crl_days: int = 7
