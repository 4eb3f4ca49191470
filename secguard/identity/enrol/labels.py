"""Labels of EST (RFC 7030, 3.2.2): the names of profiles; without one, the profile for the device's type."""

from collections.abc import Mapping

from secguard.core import UsageError
from secguard.gbid import GbId
from secguard.identity.profiles import Holder, Profile

__all__ = ["enrolable", "label_of"]


def enrolable(profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The profiles a device can enrol for: those that name a device by its ID."""
    return {name: profile for name, profile in profiles.items() if profile.holder is Holder.DEVICE}


def label_of(profiles: Mapping[str, Profile], gbid: GbId, label: str = "") -> Profile:
    """The profile that a label names, or the one that is made for the device's type.

    Raises:
        UsageError: `identity.enrol.label`: no such label, or none is made for the type.
    """
    able = enrolable(profiles)
    if label:
        if label not in able:
            raise UsageError(
                "identity.enrol.label",
                f"no device can enrol for {label[:40]!r}",
                hint=f"labels: {', '.join(sorted(able))}",
            )
        return able[label]
    fit = [profile for profile in able.values() if profile.types and gbid.type_code.startswith(profile.types)]
    if not fit:
        raise UsageError(
            "identity.enrol.label",
            f"no profile is made for the type {gbid.type_code} of {gbid}",
            hint=f"name one: {', '.join(sorted(able))}",
        )
    # The longest type code that fits is the most particular.
    return max(fit, key=lambda one: max(len(code) for code in one.types if gbid.type_code.startswith(code)))
