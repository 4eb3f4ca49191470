"""What tests in network namespaces need of the machine."""

import pytest

from secguard.isolation.lab.lab import available

__all__ = ["NEEDS_LAB"]

_WHY_NOT = available()
NEEDS_LAB = pytest.mark.skipif(
    bool(_WHY_NOT), reason=f"needs nft, ip and namespaces: apt-get install nftables: {_WHY_NOT}"
)
