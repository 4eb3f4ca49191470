"""Live devices: which certificates they really present, and whether they demand one."""
