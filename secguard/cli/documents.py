"""The JSON that `--json` prints, as types: what scripts may rely on, and where docs/schemas comes from."""

import inspect
from typing import Any, Literal

import msgspec

__all__ = ["Document", "Error", "Finding", "schemas"]

_Outcome = Literal["pass", "fail", "unknown"]
_Axis = Literal[
    "integrity", "completeness", "coverage", "presentation", "provenance", "revocation", "time", "conformance"
]


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finding; `code` is stable, `text` and `hint` are in the language of `--lang`."""

    code: str
    axis: _Axis
    outcome: _Outcome
    where: str
    text: str
    hint: str
    data: dict[str, Any]


class Error(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the command could not do its work (exit code 2)."""

    code: str
    message: str
    hint: str
    where: str


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The one document that a command prints.

    Attributes:
        schema: names the command and the version of its `data`: `secguard.video.verify/1`.
        outcome: of a command that judges; null otherwise.
        exit: the exit code: 0 pass, 1 a violation, 2 an error, 3 inconclusive.
        axes: outcome per axis.
        findings: what was found.
        data: the command's values.
        receipt: of the act in the ledger, if one was recorded.
        error: in place of an answer.
    """

    schema: str
    outcome: _Outcome | None
    exit: Literal[0, 1, 2, 3]
    axes: dict[_Axis, _Outcome]
    findings: list[Finding]
    data: dict[str, Any]
    receipt: dict[str, Any] | None
    error: Error | None = None


def schemas() -> dict[str, Any]:
    """File name -> JSON Schema (2020-12) of what secguard prints and of the documents that it signs and reads."""
    from secguard.events import Event
    from secguard.evidence import BundleManifest
    from secguard.identity.profiles import profile_schemas
    from secguard.isolation.policy.schema import policy_schema
    from secguard.video import Manifest

    types: dict[str, Any] = {"result": Document, "event": Event, "bundle": BundleManifest, "segment": Manifest}
    made = {name: msgspec.json.schema(kind) for name, kind in types.items()} | profile_schemas()
    made["isolation-policy"] = policy_schema()
    return {
        f"{name}.json": _tidy({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        for name, schema in made.items()
    }


def _tidy(value: Any) -> Any:
    """Descriptions come from docstrings, whose indentation differs between versions of Python."""
    if isinstance(value, dict):
        return {
            key: inspect.cleandoc(item) if key == "description" and isinstance(item, str) else _tidy(item)
            for key, item in value.items()
        }
    return [_tidy(item) for item in value] if isinstance(value, list) else value
