"""What is sent: packets and their templates, and how answers are read."""
