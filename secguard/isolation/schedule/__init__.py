"""Scans on a schedule: when the next is due, whether one was missed, and whom a change is told."""
