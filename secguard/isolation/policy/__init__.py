"""What may pass: zones, blocks, flows."""
