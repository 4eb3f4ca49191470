"""A policy compiled into cases, tokens and a time window, signed."""
