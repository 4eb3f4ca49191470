"""The hierarchy: making a root and issuing CAs, an offline root's ceremony, rollover, backup."""
