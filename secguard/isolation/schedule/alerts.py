"""Alerts: a command or a web hook that is told when a scan's outcome changes. They never change or hide the verdict."""

import contextlib
import hashlib
import hmac
import http.client
import os
import secrets
import shlex
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from secguard.core import SecguardError, UsageError, Verdict, rfc3339
from secguard.core.findings import describe
from secguard.core.limits import read_bounded
from secguard.core.verdict import Outcome
from secguard.isolation.schedule.book import Entry
from secguard.keys import check_private

__all__ = ["SIGNATURE", "Alerts", "Told", "codes_of", "reason_of", "summary"]

SIGNATURE = "Secguard-Signature"
"""Header of a web hook's request: `t=<seconds since 1970>,v1=<HMAC-SHA256 over "<t>." and the body, in hex>`."""
_COMMAND_SECONDS = 60.0
_HOOK_SECONDS = 10.0
_POST_SECONDS = 60.0  # for all tries, the name's lookup and whatever is answered
_PAUSES = (0.5, 2.0)  # before the second and the third try
_MAX_FINDINGS = 100
_MAX_SECRET = 4096
_MAX_SAID = 4096


@dataclass(frozen=True, slots=True)
class Told:
    """Whom an alert went to, and whether it arrived.

    Attributes:
        hook: `command` or `webhook`.
        delivered: whether it was taken.
        text: what happened, in words.
    """

    hook: str
    delivered: bool
    text: str


def codes_of(verdict: Verdict) -> tuple[str, ...]:
    """What a verdict says is wrong, as code and place, sorted: two scans with the same list found the same."""
    found = {f"{item.code} {item.where}" for item in verdict.findings if item.outcome is not Outcome.PASS}
    return tuple(sorted(found))


def reason_of(before: Entry, outcome: str, codes: Sequence[str]) -> str:
    """Why an alert is due: `first`, `outcome`, `findings`, or empty if nothing changed.

    A scan that failed (`outcome` is `error`) is told once, and again when the next comes to a verdict.
    """
    was = "error" if before.failed is not None else before.outcome
    if not was:
        return "" if outcome == "pass" else "first"
    if was != outcome:
        return "outcome"
    same = outcome == "error" or set(before.codes[:200]) == set(codes[:200])
    return "" if same else "findings"


def summary(
    policy: str,
    before: Entry,
    reason: str,
    at: datetime,
    *,
    verdict: Verdict | None = None,
    run: str = "",
    error: SecguardError | None = None,
) -> dict[str, Any]:
    """What an alert says; no secret, no packet."""
    document: dict[str, Any] = {
        "schema": "secguard.isolation.alert/1",
        "policy": policy,
        "at": rfc3339(at),
        "reason": reason,
        "outcome": verdict.outcome.value if verdict else "error",
        "exit": verdict.outcome.exit_code if verdict else 2,
        "before": ("error" if before.failed else before.outcome) or None,
        "run": run,
        "findings": [],
        "error": None,
    }
    if verdict is not None:
        wrong = [item for item in verdict.findings if item.outcome is not Outcome.PASS]
        document["findings_total"] = len(wrong)
        document["findings"] = [
            {"code": item.code, "outcome": item.outcome.value, "where": item.where, "text": describe(item)}
            for item in wrong[:_MAX_FINDINGS]
        ]
    if error is not None:
        document["error"] = {"code": error.code, "message": error.message}
    return document


@dataclass(frozen=True)
class Alerts:
    """Who is told.

    Attributes:
        command: a command line, run without a shell; the summary is its standard input.
        webhook: an `https://` URL that gets the summary by POST.
        ca: the only CA that is believed for it, PEM; None: those of this machine.
        secret: file of mode 0600 with the key of the signature; None: not signed.
        sleep: waits between two tries.
    """

    command: str = ""
    webhook: str = ""
    ca: Path | None = None
    secret: Path | None = None
    sleep: Callable[[float], None] = time.sleep

    def check(self) -> None:
        """Find what is wrong with the settings before a scan, not after it.

        Raises:
            SecguardError: no such command line, URL, CA or secret.
        """
        if self.command:
            _words(self.command)
        if self.webhook:
            _target(self.webhook)
            self._context()
            self._key()

    def __bool__(self) -> bool:
        return bool(self.command or self.webhook)

    def tell(self, document: Mapping[str, Any]) -> list[Told]:
        """Tell everybody; what goes wrong is told back, and never raised."""
        body = msgspec.json.encode(document)
        told = []
        for hook, ask, asked in (("command", self._run, self.command), ("webhook", self._posted, self.webhook)):
            if asked:
                try:
                    told.append(Told(hook, delivered=True, text=ask(body)))
                except (SecguardError, OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError) as e:
                    told.append(Told(hook, delivered=False, text=_words_of(e)))
        return told

    def _run(self, body: bytes) -> str:
        words = _words(self.command)
        # Files, no pipes: what the command leaves running behind itself may keep them open for as long as it likes.
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(body)
            given.seek(0)
            process = subprocess.Popen(
                words, stdin=given, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
            try:
                code = process.wait(_COMMAND_SECONDS)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise ValueError(f"{words[0]} did not end within {_COMMAND_SECONDS:.0f} s") from None
                raise
            if code:
                said.seek(max(0, said.seek(0, os.SEEK_END) - _MAX_SAID))
                lines = said.read().decode("utf-8", "replace").strip().splitlines()
                raise ValueError(f"{words[0]} ended with {code}{': ' + lines[-1][:200] if lines else ''}")
        return f"{words[0]} took it"

    def _posted(self, body: bytes) -> str:
        """Post, in a thread that is left alone if the other end answers in drops."""
        ended: list[str | Exception] = []

        def work() -> None:
            try:
                ended.append(self._post(body))
            except Exception as error:  # noqa: BLE001 - raised again by whoever waits
                ended.append(error)

        thread = threading.Thread(target=work, name="web hook", daemon=True)
        thread.start()
        thread.join(_POST_SECONDS)
        if not ended:
            raise ValueError(f"{_target(self.webhook)[0]}: no answer within {_POST_SECONDS:.0f} s")
        if isinstance(ended[0], Exception):
            raise ended[0]
        return ended[0]

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except (OSError, ssl.SSLError):
            raise UsageError("isolation.alert.ca", "not a CA certificate in PEM", where=str(self.ca)) from None

    def _key(self) -> bytes:
        if self.secret is None:
            return b""
        check_private(self.secret)
        key = read_bounded(self.secret, _MAX_SECRET).strip()
        if not key:
            raise UsageError("isolation.alert.secret", "the secret is empty", where=str(self.secret))
        return key

    def _post(self, body: bytes) -> str:
        host, port, path = _target(self.webhook)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "secguard",
            "Secguard-Delivery": secrets.token_hex(16),  # the same for each try: the other end can tell a repetition
        }
        error = ""
        for pause in (0.0, *_PAUSES):
            self.sleep(pause)
            now = int(time.time())
            if key := self._key():
                mac = hmac.new(key, b"%d." % now + body, hashlib.sha256).hexdigest()
                headers[SIGNATURE] = f"t={now},v1={mac}"
            connection = http.client.HTTPSConnection(host, port, timeout=_HOOK_SECONDS, context=self._context())
            try:
                connection.request("POST", path, body, headers)
                status = connection.getresponse().status
            except ssl.SSLCertVerificationError as failed:
                raise ValueError(f"{host}: its certificate is not believed: {failed.verify_message}") from None
            except (OSError, http.client.HTTPException) as failed:
                error = f"{host}: {_words_of(failed)}"
                continue
            finally:
                connection.close()
            if 200 <= status < 300:
                return f"{host} took it"
            error = f"{host} answered {status}"
            if status < 500 and status not in {408, 425, 429}:
                break  # it will not change its mind
        raise ValueError(error)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError("isolation.alert.command", f"not a command line: {error}") from None
    if not words:
        raise UsageError("isolation.alert.command", "an empty command line")
    return words


def _target(url: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "https" or not parts.hostname or parts.username is not None:
        raise UsageError(
            "isolation.alert.url", "a web hook is https://host[:port]/path, without name and password", where=url[:80]
        )
    path = parts.path or "/"
    return parts.hostname, port, f"{path}?{parts.query}" if parts.query else path


def _words_of(error: BaseException) -> str:
    text = getattr(error, "strerror", "") or str(error) or type(error).__name__
    return str(text).replace("\n", " ")[:300]
