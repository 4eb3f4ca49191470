"""One error for everything a user can be told: what is wrong, where, and what to do next."""

__all__ = ["FormatError", "RefusedError", "SecguardError", "SystemPartError", "UsageError"]


class SecguardError(Exception):
    """Base of all errors that secguard raises on purpose; the command line maps it to exit code 2.

    Args:
        code: stable, machine-readable name, `room.noun.problem` (for example `gbid.length`).
        message: one sentence in English, without a trailing period.
        hint: what the user can do next; may be empty.
        where: file, line, offset or field that the error is about; may be empty.
    """

    default_hint = ""
    """What to do when the place that raises knows nothing better."""

    def __init__(self, code: str, message: str, *, hint: str = "", where: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint or self.default_hint
        self.where = where

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (worker pools); the default would lose the keyword arguments.
        return (_rebuild, (type(self), self.code, self.message, self.hint, self.where))


def _rebuild(kind: type[SecguardError], code: str, message: str, hint: str, where: str) -> SecguardError:
    error = kind.__new__(kind)
    SecguardError.__init__(error, code, message, hint=hint, where=where)
    return error


class UsageError(SecguardError):
    """The caller asked for something that cannot be: a wrong option, ID, name or combination."""

    default_hint = "the command's --help says what it takes"


class FormatError(SecguardError):
    """Bytes from outside are not what they claim to be; `where` holds the file and the byte offset."""

    default_hint = "it is damaged, cut short, or something else than it should be; get it again from where it came"


class RefusedError(SecguardError):
    """The act is refused to keep a promise: a fork, a stale status, an open permission, a failed recording."""


class SystemPartError(SecguardError):
    """A part of the machine is missing or failed: a full disk, a tool that is not installed."""
