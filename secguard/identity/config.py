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
        crl_shards: number of lists that an issuing CA's revocations are spread over, besides its full list; 0: none.
        ocsp_url: URL of the OCSP responder; empty: certificates name none.
        ca_url: base URL of the CAs' certificates (`<name>.cer`), no slash at the end; empty: certificates name none.
    """

    organization: str = "secguard"
    country: str = "CN"
    domain: str = "video.example"
    edition: str = "2022"
    crl_url: str = ""
    crl_days: int = 7
    crl_shards: int = 0
    ocsp_url: str = ""
    ca_url: str = ""
