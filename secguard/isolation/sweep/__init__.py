"""Whole blocks times ports between zones: sent, heard, kept and judged as columns."""
