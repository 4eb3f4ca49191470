"""Enrolment by devices themselves: EST over TLS, one-time secrets, makers' certificates."""
