"""The query language: nodes, and the parser."""
