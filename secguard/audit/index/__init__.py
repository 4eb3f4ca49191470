"""What finds events: SQLite here, Elasticsearch by configuration."""
