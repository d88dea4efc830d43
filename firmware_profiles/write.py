"""A profile as TOML, in the form in which profiles are written by hand: a section a header, a fact a line."""

from __future__ import annotations

import json
from dataclasses import fields

from firmware_profiles.facts import Fact
from firmware_profiles.schema import SECTIONS, Profile


def profile_toml(profile: Profile) -> str:
    """What `firmware_profiles.load.read_profile` reads back to the same profile."""
    parts = [f"name = {_value(profile.name)}\ntitle = {_value(profile.title)}\n"]
    for section in SECTIONS:
        values = getattr(profile, section)
        if values is None:
            continue
        facts = ((key.name, getattr(values, key.name)) for key in fields(values))
        lines = [f"{name} = {_fact(fact)}" for name, fact in facts if fact is not None]
        parts.append("\n".join([f"[{section}]", *lines]) + "\n")
    return "\n".join(parts)


def _fact(fact: Fact[object]) -> str:
    words = [
        f"value = {_value(fact.value)}",
        f"source = {_value(fact.source)}",
        f"quality = {_value(str(fact.quality))}",
    ]
    if fact.note:
        words.append(f"note = {_value(fact.note)}")
    if fact.others:
        words.append("others = [" + ", ".join(map(_fact, fact.others)) + "]")
    return "{ " + ", ".join(words) + " }"


def _value(value: object) -> str:
    """JSON's strings, numbers and truths are TOML's too; tuples become lists."""
    return json.dumps(value, ensure_ascii=False)
