"""What is said after a completed handshake: a relay may pass on, after the right words, what a filter stopped."""

__all__ = ["AFTER_REPLY", "OPENINGS", "opening"]

OPENINGS = ("bare data", "HTTP CONNECT", "SIP request")
"""By number: the sequence number of the token that they carry; the numbers from `AFTER_REPLY` on follow a reply."""
AFTER_REPLY = 8


def opening(number: int, host: str, port: int, token: bytes) -> bytes:
    """The first words of opening `number` to a relay, asking for `host` and `port` where it can be asked."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = (
        "",
        f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n",
        f"OPTIONS sip:secguard@{place} SIP/2.0\r\nVia: SIP/2.0/TCP invalid\r\nContent-Length: {len(token)}\r\n\r\n",
    )[number]
    return head.encode() + token
