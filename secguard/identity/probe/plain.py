"""Ports without TLS: what they speak, told by how they answer."""

import re
import threading
import time

from secguard.identity.probe.link import Closed, Link, NoConnection, Silent, open_socket
from secguard.identity.probe.targets import Target, safe

__all__ = ["recognise", "talk_plainly"]

_STATUS = re.compile(rb"(HTTP|RTSP|SIP)/[0-9.]{1,4} [0-9]{3}[^\r\n]*")
_STARTS = ((b"SSH-", "SSH"), (b"RFB ", "VNC"), (b"<?xml", "XML"), (b"<html", "HTTP"), (b"<!DOCTYPE", "HTTP"))
_GREETING = re.compile(rb"220[ -][^\r\n]*")
_LIMIT = 1024


def recognise(data: bytes) -> tuple[str, str] | None:
    """The protocol and its first line, or None for TLS (or nothing)."""
    if not data:
        return None
    line = safe(data.splitlines()[0][:120].decode("utf-8", "replace") if data.splitlines() else "")
    status = _STATUS.match(data)
    if status:
        return status[1].decode("ascii"), safe(status[0].decode("utf-8", "replace"))
    for start, protocol in _STARTS:
        if data.startswith(start):
            return protocol, line
    if _GREETING.match(data):
        return "FTP/SMTP", line
    # A TLS record begins with its type, 20 to 24, and the version, 3.x; TLCP's is 1.1.
    if 20 <= data[0] <= 24 and (len(data) < 2 or data[1] in {1, 3}):
        return None
    return "unknown", line


def _questions(target: Target) -> tuple[bytes, ...]:
    host = str(target)
    return (
        f"OPTIONS rtsp://{host}/ RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode("ascii", "replace"),
        f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii", "replace"),
        (
            f"OPTIONS sip:{host} SIP/2.0\r\nVia: SIP/2.0/TCP probe.invalid;branch=z9hG4bKprobe\r\n"
            f"From: <sip:probe@probe.invalid>;tag=1\r\nTo: <sip:{host}>\r\nCall-ID: probe@probe.invalid\r\n"
            "CSeq: 1 OPTIONS\r\nMax-Forwards: 0\r\nContent-Length: 0\r\n\r\n"
        ).encode("ascii", "replace"),
    )


def talk_plainly(target: Target, timeout: float, stop: threading.Event) -> tuple[str, str]:
    """Ask in RTSP, HTTP and SIP, one connection each; the protocol and the first line of the answer, or two empties."""
    other = ("", "")
    for question in _questions(target):
        deadline = time.monotonic() + timeout
        try:
            link = Link(open_socket(target, deadline, stop), deadline, stop)
        except NoConnection:
            break
        try:
            link.send_raw(question)
            while b"\n" not in link.first and len(link.first) < _LIMIT:
                link.receive_raw()
        except (Silent, Closed):
            pass
        finally:
            link.close()
        found = recognise(link.first)
        if found and found[0] != "unknown":
            return found
        if found:
            other = found
        if stop.is_set():
            break
    return other
