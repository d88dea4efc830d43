"""Every command has help, an example that names it, and a line in docs/commands.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import potstill

ROOT = Path(__file__).resolve().parent.parent


def _commands(group: click.Group, path: tuple[str, ...] = ("potstill",)) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(_commands(potstill.main))


def test_there_are_the_commands_that_users_are_told_of() -> None:
    assert {
        "potstill demo",
        "potstill edge run",
        "potstill broker serve",
        "potstill broker run",
        "potstill broker runs",
        "potstill broker show",
        "potstill trainer compile",
        "potstill trainer split",
        "potstill profiles list",
        "potstill profiles show",
        "potstill profiles check",
    } <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_a_runnable_example(name: str) -> None:
    text = COMMANDS[name].help or ""
    assert len(text.split()) > 5, f"{name}: say what it does"
    assert name in text, f"{name}: its help shows no example"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is(name: str) -> None:
    options = [parameter for parameter in COMMANDS[name].params if isinstance(parameter, click.Option)]
    silent = [option.opts[-1] for option in options if not option.help and not option.hidden]
    assert not silent, f"{name}: no help for {silent}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_line_in_the_docs(name: str) -> None:
    assert f"`{name}" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
