"""A small judge of JSON Schema (2020-12): the keywords that generated schemas use, and a KeyError for any other."""

import math
import re
from datetime import date
from typing import Any

__all__ = ["fits"]

_ABOUT = {"$schema", "$defs", "title", "description", "default"}
_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def _is(value: Any, kind: str) -> bool:
    if kind in {"integer", "number"}:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind == "number" and isinstance(value, float) and math.isfinite(value))
    return isinstance(value, _TYPES[kind])


def _date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def fits(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> bool:
    """Whether a value conforms to a schema."""
    root = root or schema

    def inner(item: Any, rule: dict[str, Any]) -> bool:
        return fits(item, rule, root)

    checks = {
        "$ref": lambda rule: inner(value, root["$defs"][rule.rpartition("/")[2]]),
        "anyOf": lambda rule: any(inner(value, item) for item in rule),
        "type": lambda rule: _is(value, rule),
        "enum": lambda rule: value in rule and not isinstance(value, bool),
        "pattern": lambda rule: not isinstance(value, str) or re.search(rule, value) is not None,
        "format": lambda rule: not isinstance(value, str) or (rule == "date" and _date(value)),
        "minimum": lambda rule: not _is(value, "number") or value >= rule,
        "maximum": lambda rule: not _is(value, "number") or value <= rule,
        "maxLength": lambda rule: not isinstance(value, str) or len(value) <= rule,
        "minLength": lambda rule: not isinstance(value, str) or len(value) >= rule,
        "minItems": lambda rule: not isinstance(value, list) or len(value) >= rule,
        "maxItems": lambda rule: not isinstance(value, list) or len(value) <= rule,
        "minProperties": lambda rule: not isinstance(value, dict) or len(value) >= rule,
        "maxProperties": lambda rule: not isinstance(value, dict) or len(value) <= rule,
        "items": lambda rule: not isinstance(value, list) or all(inner(item, rule) for item in value),
        "required": lambda rule: not isinstance(value, dict) or set(rule) <= set(value),
        "propertyNames": lambda rule: not isinstance(value, dict) or all(inner(key, rule) for key in value),
        "properties": lambda rule: (
            not isinstance(value, dict) or all(inner(value[key], item) for key, item in rule.items() if key in value)
        ),
        "additionalProperties": lambda rule: (
            not isinstance(value, dict)
            or all(
                inner(item, rule) if isinstance(rule, dict) else rule
                for key, item in value.items()
                if key not in schema.get("properties", {})
            )
        ),
    }
    return all(checks[name](rule) for name, rule in schema.items() if name not in _ABOUT)
