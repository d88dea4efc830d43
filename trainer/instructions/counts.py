"""Instructions a step of the programs that ship, as `potstill profiles instructions` counted them (counts.toml)."""

from __future__ import annotations

import tomllib
from pathlib import Path

_FILE = Path(__file__).with_name("counts.toml")


def known_counts(core: str, program: str) -> dict[str, int]:
    """Runtime -> ARM instructions of one training step; empty for a core ("Cortex-A72") or program never counted."""
    table = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return dict(table.get(core.lower(), {}).get(program, {}))
