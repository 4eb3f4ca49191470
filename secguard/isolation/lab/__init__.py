"""Zones and a firewall made of network namespaces for the moment."""
