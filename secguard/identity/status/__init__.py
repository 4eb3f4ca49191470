"""Status: revoking, revocation lists, OCSP."""
