"""What changed between scans: a comparison with a baseline, and findings tracked until they are closed."""
