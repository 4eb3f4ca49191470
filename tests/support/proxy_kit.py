"""A TLS proxy on this machine before the real server, which can spoil what passes."""

import datetime as dt
import ipaddress
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class Asked(NamedTuple):
    method: str
    path: str
    body: bytes
    headers: dict[str, str]


Spoil = Callable[[Asked, Callable[[Asked], Answer]], "Answer | None"]
"""What to answer, given the request and the way to the server; None cuts the connection."""


def certificate(path: Path) -> None:
    """Write a self-signed certificate for 127.0.0.1, and its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test proxy")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=9))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = made.add_extension(names, critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.with_suffix(".key").write_bytes(key.private_bytes(pem, *private))
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))


class Proxy:
    """Passes requests on to `url`; `spoil` may answer in the server's place."""

    def __init__(self, url: str, ca: Path | None, folder: Path) -> None:
        self.spoil: Spoil | None = None
        self.ca = folder / "proxy.pem"
        self._known = ssl.create_default_context(cafile=ca)
        self._url = url
        certificate(self.ca)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.ca, self.ca.with_suffix(".key"))
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                self.request.settimeout(30)
                super().setup()

            def any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked = Asked(self.command, self.path, body, dict(self.headers.items()))
                spoil = proxy.spoil
                answer = spoil(asked, proxy.ask) if spoil else proxy.ask(asked)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        for method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
            setattr(Handler, f"do_{method}", Handler.any)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> tuple[Any, Any]:
                plain, address = super().get_request()
                return proxy._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

            def handle_error(self, *_: Any) -> None:
                """A refused handshake is what the test wants."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def new_certificate(self, path: Path) -> None:
        """Show another certificate from now on, to connections to come; and write it to `path`."""
        certificate(path)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(path, path.with_suffix(".key"))

    def ask(self, asked: Asked) -> Answer:
        """Ask the real server."""
        headers = {name: value for name, value in asked.headers.items() if name.lower() not in {"host", "connection"}}
        request = urllib.request.Request(self._url + asked.path, asked.body or None, headers, method=asked.method)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._known)
        )
        try:
            with opener.open(request, timeout=60) as said:
                return self._answer(said)
        except urllib.error.HTTPError as error:
            with error:
                return self._answer(error)

    @staticmethod
    def _answer(said: Any) -> Answer:
        kept = {
            name: value for name, value in said.headers.items() if name.lower() in {"content-type", "x-elastic-product"}
        }
        return Answer(said.status, said.read(), kept)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
