"""The command: a lazy click group over the packages' own groups, nothing else."""

from __future__ import annotations

from importlib import import_module

import click

_GROUPS = {
    "demo": ("trainer.demo.cli", "demo", "Train a fleet on real data over MQTT: alone, FL and FD side by side."),
    "edge": ("edge.cli", "edge", "The device: train locally, publish logits."),
    "broker": ("broker.cli", "broker", "The broker side: serve, run rounds, read the ledger."),
    "trainer": ("trainer.cli", "trainer", "The workstation: compile programs, split data."),
    "emulate": ("trainer.emulate.cli", "emulate", "A fleet of emulated devices: links, speed, memory, mishaps."),
    "container": ("trainer.emulate.container_cli", "container", "Devices in containers: image, compose file."),
    "report": ("trainer.report.cli", "report", "One HTML page of a run, or of several."),
    "ntk": ("trainer.ntk.cli", "ntk", "The kernel checks: distillation against neural tangent kernel theory."),
    "budget": ("edge.budget_cli", "budget", "What fits a radio: bits, rounds a day, airtime, energy."),
    "profiles": ("firmware_profiles.cli", "profiles", "Device classes and radios: what is known, with sources."),
}

_ADDED = {
    "profiles": {
        "instructions": ("trainer.instructions.cli", "instructions"),
        "calibrate": ("trainer.calibration.cli", "calibrate"),
    }
}
"""Commands of one package in another's group: the profiles know nobody, and what is found out for them stands there."""


class _LazyGroup(click.Group):
    """Imports a package's commands only when they are asked for: `potstill edge run` must not load torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _GROUPS:
            return None
        module, name, _ = _GROUPS[cmd_name]
        command = _load(module, name)
        for added, place in _ADDED.get(cmd_name, {}).items():
            assert isinstance(command, click.Group)
            command.add_command(_load(*place), added)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _GROUPS.items()])


def _load(module: str, name: str) -> click.Command:
    command = getattr(import_module(module), name)
    assert isinstance(command, click.Command)
    return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="potstill")
def main() -> None:
    """Potstill: federated distillation on Raspberry Pi-class devices.

    Start with `potstill demo`.
    """


if __name__ == "__main__":
    main()
