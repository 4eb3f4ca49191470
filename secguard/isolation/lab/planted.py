"""What the leaky lab holds: the code of each planted mistake, and the pairs of zones that it opens."""

from collections.abc import Mapping

__all__ = ["PLANTED", "TUNNELS_PLANTED"]

_EXT_INT, _EXT_DMZ = ("ext", "int"), ("ext", "dmz")
_INT_EXT, _INT_DMZ = ("int", "ext"), ("int", "dmz")
_DMZ_INT, _DMZ_EXT = ("dmz", "int"), ("dmz", "ext")

PLANTED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "isolation.leak.open": (_EXT_DMZ,),
    "isolation.leak.closed": (_EXT_INT,),
    "isolation.leak.one-way": (_INT_EXT,),
    "isolation.leak.ipv6": (_DMZ_EXT,),
    "isolation.leak.source-port": (_EXT_INT,),
    "isolation.leak.tcp-flags": (_DMZ_INT,),
    "isolation.leak.icmp": (_INT_EXT,),
    "isolation.leak.icmp-type": (_EXT_DMZ,),
    "isolation.leak.icmp-error": (_DMZ_EXT,),
    "isolation.leak.sctp": (_DMZ_EXT,),
    "isolation.leak.ip-protocol": (_INT_DMZ,),
    "isolation.leak.fragment": (_EXT_DMZ,),
    "isolation.leak.ip-option": (_DMZ_INT,),
    "isolation.leak.source-route": (_EXT_DMZ,),
    "isolation.leak.ipv6-ext": (_EXT_INT,),
    "isolation.leak.tunnel": (_EXT_INT, _INT_DMZ, _DMZ_INT),
    "isolation.leak.dns": (_EXT_INT,),
    "isolation.leak.relay": (_EXT_INT, _DMZ_INT),
    "isolation.leak.spoof": (_EXT_DMZ,),
    "isolation.leak.dscp": (_INT_EXT,),
    "isolation.leak.ttl": (_DMZ_INT,),
    "isolation.leak.large": (_INT_EXT,),
    "isolation.leak.pinhole": (_EXT_INT,),
    "isolation.leak.translated": (_DMZ_INT,),
    "isolation.leak.stray": (_EXT_INT,),
    "isolation.leak.published": (_EXT_INT,),
}
"""Code -> pairs (source, destination); the rules of `rules/leaky.nft` have the last word of their code as comment."""

TUNNELS_PLANTED: Mapping[tuple[str, str], str] = {_EXT_INT: "gre", _INT_DMZ: "esp", _DMZ_INT: "vxlan"}
"""Which tunnel each pair lets through."""
