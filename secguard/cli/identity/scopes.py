"""What the commands about CAs share: a GB scope, a place for keys, the passphrase, grouped options."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from secguard.core.errors import UsageError

if TYPE_CHECKING:
    from secguard.gbid import Scope
    from secguard.identity.ca.setting import Setting

__all__ = ["KEY", "SCOPE", "GroupedCommand", "scope_from", "with_passphrase"]

_F = TypeVar("_F", bound=Callable[..., Any])
_LISTS = ("area", "type", "network")


def SCOPE(function: _F) -> _F:  # noqa: N802 - used like the other options, which are constants
    """`--area`, `--type`, `--network` (repeatable), `--scope`."""
    options = [
        click.option(
            "--scope", default="", metavar="SCOPE", help="The scope in one: 'area=3201 type=131,132', or any."
        ),
        click.option("--area", multiple=True, metavar="AREA", help="Area codes it may certify, 2 to 8 digits; or any."),
        click.option("--type", multiple=True, metavar="TYPE", help="Type codes it may certify, or starts of them."),
        click.option("--network", multiple=True, metavar="DIGIT", help="Network digits it may certify."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


KEY = click.option(
    "--key", default="", metavar="URI", help="Keep the key in a token: 'pkcs11:token=...;object=...?pin-source=...'."
)


def scope_from(text: str, areas: tuple[str, ...], types: tuple[str, ...], networks: tuple[str, ...]) -> "Scope | None":
    """The scope that the options say; None if they say none.

    Raises:
        UsageError: a value that cannot be, or the scope said twice.
    """
    from secguard.gbid import Scope

    if text:
        if areas or types or networks:
            raise UsageError("identity.scope.twice", "--scope says it all", hint="leave --area, --type, --network out")
        return Scope.parse(text)
    if not (areas or types or networks):
        return None

    def split(values: tuple[str, ...]) -> tuple[str, ...]:
        parts = tuple(part.strip() for value in values for part in value.split(","))
        return () if parts == ("any",) else parts

    return Scope(split(areas), split(types), split(networks))


def with_passphrase(setting: "Setting") -> "Setting":
    """The same site; if no source has the passphrase, it is asked for on a terminal."""
    if setting.passphrase is None and sys.stdin.isatty():
        answer = click.prompt("Passphrase of the keys", hide_input=True, err=True)
        return replace(setting, passphrase=str(answer).encode())
    return setting


class GroupedCommand(click.Command):
    """A command whose `--kind` begins a group: the scope and name options after it belong to it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the order that click forgets, then parse as usual."""
        ctx.meta[__name__] = _groups(args)
        return super().parse_args(ctx, args)

    @staticmethod
    def groups() -> list[dict[str, Any]]:
        """One dictionary a `--kind`; options before the first one are a part of each group.

        Raises:
            UsageError: options without a `--kind`.
        """
        found: list[dict[str, Any]] = click.get_current_context().meta[__name__]
        common, *groups = found
        if not groups and common.get("name"):
            raise UsageError("identity.ca.name", "--name needs a --kind", hint="--kind devices --name devices-320116")
        if not groups and common:
            raise UsageError("identity.ca.kind", "a scope needs a --kind", hint="--kind devices --area 320116")
        return [{**common, **group} for group in groups]


def _groups(args: list[str]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [{}]
    waiting = list(args)
    while waiting:
        name, sign, value = waiting.pop(0).partition("=")
        option = name.removeprefix("--")
        if not name.startswith("--") or option not in {"kind", "name", "scope", *_LISTS}:
            continue
        if not sign:
            if not waiting:
                break  # click says what is missing
            value = waiting.pop(0)
        if option == "kind":
            groups.append({"kind": value})
        elif option in _LISTS:
            groups[-1][option] = (*groups[-1].get(option, ()), value)
        else:
            groups[-1][option] = value
    return groups
