"""One file a method. A method is what its devices and its server compute in a round; all else is the same for all.

    round r:   each device   (memory, broadcast r)        -> memory, upload r
               the server    (memory, uploads r that came) -> memory, broadcast r + 1

Memory, uploads and broadcasts are plain arrays by name; who is in the cohort of a broadcast stands in `cohort` (D,).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol

from trainer.reference.site import Arrays, Message, Site


class Method(Protocol):
    """Both halves are pure given their site: every random number comes from its streams."""

    JUDGED: tuple[str, ...]
    """Whose models are measured, the one that counts first: `devices` (each its own, after its round), `server` (the
    broadcast's `model`)."""

    def device(self, site: Site, memory: Arrays, broadcast: Arrays) -> tuple[Arrays, Message]:
        """Memory is empty and so is the broadcast in round 0. The runtime's state afterwards is the device's model."""
        ...

    def server(self, site: Site, memory: Arrays, uploads: Sequence[Arrays]) -> tuple[Arrays, Message]:
        """The uploads of the devices of the cohort, in their order; at least one."""
        ...


_MODULES = {"mixfld": "fld", "mix2fld": "fld", "ds-fl": "dsfl"}


def method(name: str) -> Method:
    """One of `settings.METHODS`."""
    made: Method = import_module(f"trainer.reference.methods.{_MODULES.get(name, name)}").METHOD
    return made
