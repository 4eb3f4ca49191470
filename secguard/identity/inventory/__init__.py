"""The register of devices: import, export, coverage against the platform's catalog."""
