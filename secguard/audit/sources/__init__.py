"""Where access events come from."""
