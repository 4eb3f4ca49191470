"""Sends its cases inside one zone, hears what arrives, and signs what it saw."""
