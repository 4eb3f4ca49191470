"""What the observations of both ends prove; the signed result and how it is shown."""
