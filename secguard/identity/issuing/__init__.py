"""Issuing: what is asked for, the certificates, the files their holders get; one device or ten thousand."""
