"""The way to an Elasticsearch server: a pinned CA, credentials from files, bounded retries, clear errors."""

import logging
import random
import re
import ssl
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from secguard.core import RefusedError, SecguardError, SystemPartError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elasticsearch import ApiError, Elasticsearch

__all__ = ["BUSY", "DELAYS", "ElasticServer", "Server", "TooLargeError", "TransientError", "pauses", "reason_of"]

T = TypeVar("T")

BUSY = frozenset({429, 500, 502, 503, 504})
"""Answers that another attempt may change."""
DELAYS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Seconds between the attempts to deliver one batch; each is varied by up to a half."""
_TIMEOUT = 60.0


class ElasticServer(NamedTuple):
    """Where the server is, and who asks.

    Attributes:
        url: `https://host:port`, without credentials.
        ca: PEM file with the only CA that is believed; None: those of this machine.
        user: name for basic sign-in; needs `password`.
        password: its password.
        api_key: an encoded API key, instead of user and password.
    """

    url: str
    ca: Path | None = None
    user: str = ""
    password: str = ""
    api_key: str = ""

    def __repr__(self) -> str:
        return f"ElasticServer({self.url!r}, user={self.user!r})"  # never a secret in a log


def pauses() -> "Iterator[float]":
    """The pauses between attempts: growing, and not in step with those of other processes."""
    return (delay * random.uniform(0.5, 1.5) for delay in DELAYS)


class Server:
    """A client whose calls raise errors of secguard only."""

    def __init__(self, server: ElasticServer) -> None:
        self.url = server.url
        self._server = server
        self._opened: Elasticsearch | None = None
        self._opening = threading.Lock()

    def _client(self) -> "Elasticsearch":
        with self._opening:  # a comparison asks from two threads
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> "Elasticsearch":
        from elasticsearch import Elasticsearch

        logging.getLogger("elastic_transport").addHandler(logging.NullHandler())  # our errors say it
        server = self._server
        if server.ca is not None and not server.ca.is_file():
            raise UsageError(
                "audit.elastic.ca", "there is no such CA file", hint="check index.ca", where=str(server.ca)
            )
        options: dict[str, Any] = {}
        if server.api_key:
            options["api_key"] = server.api_key
        elif server.user:
            options["basic_auth"] = (server.user, server.password)
        try:
            context = ssl.create_default_context(cafile=server.ca)  # with a file, the machine's CAs are not believed
            return Elasticsearch(server.url, ssl_context=context, request_timeout=_TIMEOUT, max_retries=0, **options)
        except (ValueError, OSError) as error:
            raise UsageError(
                "audit.elastic.settings",
                f"cannot use these settings: {error}",
                hint="index.ca must be a PEM file of certificates, index.url an address such as https://host:9200",
                where=str(server.ca or server.url),
            ) from error

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def call(self, act: "Callable[[Elasticsearch], T]") -> T:
        """Ask the server once.

        Raises:
            UsageError: wrong credentials or settings.
            RefusedError: the account may not do that, or an index is gone.
            TransientError: the server is away or busy; another attempt may succeed.
            SystemPartError: it is not to be trusted, or it failed.
        """
        with self._guard():
            answer = act(self._client())
        meta = getattr(answer, "meta", None)
        if meta is not None and meta.headers.get("x-elastic-product") != "Elasticsearch":  # the client looks once only
            raise self._other()
        return answer

    @contextmanager
    def _guard(self) -> "Iterator[None]":
        from elasticsearch import ApiError, UnsupportedProductError
        from elasticsearch.exceptions import ConnectionError as Unreachable
        from elasticsearch.exceptions import ConnectionTimeout, SSLError, TransportError

        try:
            yield
        except SSLError as error:
            self.close()  # the next attempt reads the CA file again
            why = re.search(r"verify failed: ([^(]*[^( ])", str(error.message))
            raise SystemPartError(
                "audit.elastic.tls",
                "the server's certificate is not to be trusted, or it does not speak TLS"
                f"{f' ({why[1]})' if why else ''}",
                hint="index.ca must hold the CA that issued it, index.url the name it is issued for; check the clocks",
                where=self.url,
            ) from error
        except (Unreachable, ConnectionTimeout) as error:
            raise TransientError(
                "audit.elastic.unreachable",
                "Elasticsearch does not answer",
                hint="is it running, and index.url right? the ledger keeps the events meanwhile; nothing is lost",
                where=self.url,
            ) from error
        except UnsupportedProductError as error:
            raise self._other() from error
        except ApiError as error:
            raise self._answer(error) from error
        except TransportError as error:
            raise SystemPartError(
                "audit.elastic.failed", f"the request failed: {str(error)[:200]}", where=self.url
            ) from error

    def _other(self) -> UsageError:
        return UsageError("audit.elastic.product", "this is no Elasticsearch", hint="check index.url", where=self.url)

    def _answer(self, error: "ApiError") -> SecguardError:
        status, reason = error.status_code, reason_of(error.body)
        if status == 401:
            return UsageError(
                "audit.elastic.credentials",
                "the server does not accept the user, the password or the API key",
                hint="check index.user and index.password_file, or index.api_key_file",
                where=self.url,
            )
        if status == 403:
            return RefusedError(
                "audit.elastic.forbidden",
                f"the account may not do that: {reason}",
                hint="give it the two roles of audit/elasticsearch/roles.json",
                where=self.url,
            )
        if status == 404:
            return RefusedError(
                "audit.elastic.gone",
                f"what should be on the server is gone: {reason}",
                hint="name what is missing: secguard audit reconcile; build it anew: secguard audit reindex",
                where=self.url,
            )
        if "nested depth" in reason or "too_many" in reason or "maxClauseCount" in reason:
            return UsageError(
                "audit.query.complex",
                f"the server refuses so complex a query: {reason}",
                hint="use fewer parentheses and longer beginnings of words",
            )
        if "media_type_header_exception" in str(error.body):
            return UsageError(
                "audit.elastic.version",
                "the server is older than version 9",
                hint="use a server of 9.x; the ledger keeps the events meanwhile",
                where=self.url,
            )
        if status == 413:
            return TooLargeError(
                "audit.elastic.large",
                "the server, or a proxy before it, takes no request of that size",
                hint="let it take 1 MB at least",
                where=self.url,
            )
        if status in BUSY:
            hint = "nothing is lost; the next run goes on from here"
            return TransientError(
                "audit.elastic.busy", f"the server answers {status}: {reason}", hint=hint, where=self.url
            )
        return SystemPartError("audit.elastic.failed", f"the server answers {status}: {reason}", where=self.url)


class TransientError(SystemPartError):
    """Another attempt may succeed."""


class TooLargeError(SystemPartError):
    """A smaller request may succeed."""


def reason_of(body: Any, *, whole: bool = False) -> str:
    """The innermost reason that a failed request's body names, with `whole` the outermost before it; bounded."""
    found = body.get("error", body) if isinstance(body, dict) else body
    texts: list[str] = []
    while isinstance(found, dict) and len(texts) < 5:
        causes = found.get("root_cause") or found.get("failed_shards")
        if isinstance(found.get("reason"), str):
            texts.append(f"{found.get('type', '')}: {found['reason']}")
        found = found.get("caused_by") or (causes[0] if isinstance(causes, list) and causes else found.get("reason"))
    if whole and len(texts) > 1:
        return f"{texts[0][:200]} ({texts[-1][:100]})"
    return (texts[-1] if texts else str(body))[:300]
