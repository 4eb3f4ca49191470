"""Brings agents, plan and judge together."""
