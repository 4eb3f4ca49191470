"""secguard: the security and audit enforcement toolkit for public-safety video networks.

The package is a house of ten floors; a room imports only from the floors below it (docs/architecture.md):
core | gbid keys store | events report | ledger | trust | identity video isolation audit | evidence | workspace |
service | cli.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
