"""Floor 5: isolation: packet proof that zones are apart."""
