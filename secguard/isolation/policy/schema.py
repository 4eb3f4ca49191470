"""The JSON Schema of a policy, for editors: made from the types that read it, so that the two cannot differ."""

import inspect
import re
from typing import Any

import msgspec

from secguard.isolation.policy import model
from secguard.isolation.policy.model import PROFILES, PolicyDocument

__all__ = ["policy_schema"]


def policy_schema() -> dict[str, Any]:
    """JSON Schema (2020-12, without `$schema`) of `policies/isolation/*.yaml`."""
    (schema,), found = msgspec.json.schema_components([PolicyDocument], ref_template="#/$defs/{name}")
    body = found.pop(schema["$ref"].rpartition("/")[2])
    for name, item in (("PolicyDocument", body), *found.items()):
        about = _described(getattr(model, name))
        properties = item.get("properties", {})
        for key, value in properties.items():
            if key in about:
                properties[key] = {**value, "description": about[key]}
    # What the reader does besides converting: a zone's name stands before its colon, an agent may be its name alone,
    # a published address its address.
    zone = found["Zone"]["properties"]
    zone.pop("name")
    zone["ipBlocks"]["minItems"] = zone["agents"]["minItems"] = 1
    zone["agents"]["items"] = {"anyOf": [found["AgentSpec"]["properties"]["name"], zone["agents"]["items"]]}
    listed = zone["published"]
    listed["items"] = {"anyOf": [found["Published"]["properties"]["address"], listed["items"]]}
    body["properties"]["profiles"]["items"] = {"enum": list(PROFILES)}
    return {**body, "$defs": found}


def _described(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The texts of a docstring's `Attributes`, by name; the kind's own fields first, then those it inherits."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-2]):
        text = inspect.cleandoc(base.__doc__ or "").partition("Attributes:")[2]
        items = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
        texts |= {name: " ".join(words.split()) for name, words in items}
    return texts
