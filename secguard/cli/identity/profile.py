"""`secguard identity profile`: what each profile issues."""

import json
from typing import TYPE_CHECKING, Any

import click

from secguard.cli.frame import Context, Result, Table, command
from secguard.core.errors import UsageError

if TYPE_CHECKING:
    from secguard.identity import Profile
    from secguard.identity.profiles import CaProfile

__all__ = ["profile"]


@click.group()
def profile() -> None:
    """What each profile issues."""


@command("identity.profile.list", "list")
def profile_list(ctx: Context) -> Result:
    """List the profiles of certificates and of CAs; all are checked."""
    from secguard.identity.profiles import load_ca_profiles, load_profiles

    with ctx.workspace() as ws:
        leaves, cas = load_profiles(ws.certs), load_ca_profiles(ws.certs / "ca")
    rows = [_row(item, cas) for item in leaves.values()]
    authorities = [
        {
            "ca": item.name,
            "purposes": [str(purpose) for purpose in item.purposes],
            "key": str(item.key),
            "days": item.days,
            "domains": str(item.domains),
        }
        for item in cas.values()
    ]
    return Result(
        data={"profiles": rows, "authorities": authorities},
        tables=[
            Table("Profiles", tuple(rows[0]), [[_text(value) for value in row.values()] for row in rows]),
            Table("Profiles of CAs", tuple(authorities[0]), [[_text(v) for v in row.values()] for row in authorities]),
        ],
        jsonl=rows,
    )


@command("identity.profile.show", "show")
@click.argument("name")
def profile_show(ctx: Context, *, name: str) -> Result:
    """Show what the certificates of one profile hold, field by field."""
    from secguard.identity.profiles import load_ca_profiles, load_profiles

    with ctx.workspace() as ws:
        leaves, cas = load_profiles(ws.certs), load_ca_profiles(ws.certs / "ca")
        if name not in leaves:
            raise UsageError(
                "identity.profile.unknown",
                f"no profile {name[:40]!r}",
                hint=f"there are: {', '.join(leaves)}",
                where=str(ws.certs),
            )
        facts = {**_row(leaves[name], cas), **_content(leaves[name])}
    return Result(data=facts, tables=[Table(name, ("field", "value"), [(k, _text(v)) for k, v in facts.items()])])


@command("identity.profile.schema", "schema")
@click.argument("kind", type=click.Choice(["profile", "ca-profile"]), default="profile")
def profile_schema(ctx: Context, *, kind: str) -> Result:
    """Print the JSON Schema of a profile, for editors: of certs/*.yaml, or of certs/ca/*.yaml (ca-profile)."""
    from secguard.identity.profiles import profile_schemas

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **profile_schemas()[kind]}
    if not ctx.json:
        click.echo(json.dumps(schema, indent=2, ensure_ascii=False))
    return Result(data={"schema": schema})


def _text(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _row(item: "Profile", cas: "dict[str, CaProfile]") -> dict[str, Any]:
    issuers = [name for name, ca in cas.items() if item.purpose in ca.purposes]
    return {
        "profile": item.name,
        "purpose": str(item.purpose),
        "holder": str(item.holder),
        "types": list(item.types),
        "key": str(item.key),
        "days": item.days,
        "issued_by": issuers or (["every CA"] if item.purpose == "ocsp" else []),
        "companions": list(item.companions),
    }


def _content(item: "Profile") -> dict[str, Any]:
    """What stands in a certificate, in the words of RFC 5280."""
    from secguard.identity.profiles import Holder
    from secguard.trust import Purpose, oids_of

    oids = oids_of(item.purpose)
    more = {"client-auth": oids_of(Purpose.DEVICE).eku, "server-auth": oids_of(Purpose.PLATFORM).eku}
    usages = dict.fromkeys([oids.eku, *(more[usage] for usage in item.usages)])
    names = {
        Holder.DEVICE: ["permanentIdentifier (GB/T 28181 ID)", "hardwareModuleName (where the serial number is known)"],
        Holder.HOST: ["dNSName or iPAddress"],
        Holder.NAME: [],
    }[item.holder]
    return {
        "accepted_keys": [str(kind) for kind in item.accept or (item.key,)],
        "subject": "C, O, OU = type code, serialNumber = maker's, CN = ID"
        if item.holder == "device"
        else "C, O, OU, CN",
        "subject_alt_name": [*names, *(["dNSName d<ID>.<centre>.cam.<area>.<domain>"] if item.dns else [])],
        "basic_constraints": "critical, CA=FALSE",
        "key_usage": "critical, digitalSignature",
        "extended_key_usage": [usage.dotted_string for usage in usages],
        "certificate_policy": oids.policy.dotted_string,
        "names_from_request": [str(kind) for kind in item.from_request],
        "key_made_for_device": item.server_keys,
        "ocsp_nocheck": item.no_check,
    }


for _command in (profile_list, profile_show, profile_schema):
    profile.add_command(_command)
