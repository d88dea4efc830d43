"""Stand-alone training: what a device reaches by itself, the floor of every comparison."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.reference.site import NOTHING, Arrays, Message, Site


class Alone:
    JUDGED = ("devices",)

    def device(self, site: Site, memory: Arrays, broadcast: Arrays) -> tuple[Arrays, Message]:
        """K steps w <- w - eta grad CE(F(w, x), y)."""
        del broadcast
        site.runtime.set_state(memory.get("state", site.state))
        for x, y in site.local_batches():
            site.step(x, site.onehot(y))
        return {"state": site.runtime.state()}, NOTHING

    def server(self, site: Site, memory: Arrays, uploads: Sequence[Arrays]) -> tuple[Arrays, Message]:
        del site, uploads
        return memory, NOTHING


METHOD = Alone()
