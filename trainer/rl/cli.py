"""`potstill trainer rl` and `potstill trainer agent`: options, and one call each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge.wire.options import AgentOptions
from edge.wire.tasks import TASKS
from trainer.record.folder import FolderError, make_folder, run_folder
from trainer.record.run import now, write_record

if TYPE_CHECKING:
    from trainer.rl.study import Study

METHODS = ("alone", "frd", "mixfrd", "pd", "frl")


def _layers(text: str) -> tuple[int, ...]:
    sides = text.split(",")
    if not all(side.strip().isdigit() and int(side) > 0 for side in sides):
        raise click.BadParameter("positive numbers with commas between them, such as 24,24")
    return tuple(int(side) for side in sides)


def _hidden(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(_layers(one) for one in value)


_ENV = click.option(
    "--env", "env", required=True, type=click.Choice(tuple(TASKS)), help="What is played: gymnasium's name."
)
_HIDDEN = click.option(
    "--hidden",
    callback=_hidden,
    multiple=True,
    metavar="N,N",
    help="Hidden layers of actor and critic; repeated: of the agents in turn.  [default: 24,24]",
)


@click.command("rl")
@click.argument("methods", nargs=-1, required=True, type=click.Choice(METHODS))
@_ENV
@click.option("--agents", type=click.IntRange(1, 1000), default=2, show_default=True, help="Of one fleet.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Fleets: seeds 0, 1, ...")
@click.option("--episodes", type=click.IntRange(1), default=25, show_default=True, help="Between two exchanges.")
@click.option("--cap", type=click.IntRange(1), default=1000, show_default=True, help="Episodes of an agent at most.")
@click.option("--lr", type=float, default=1e-3, show_default=True, help="Of the actor; the critic's is 3 times that.")
@click.option("--segment", type=int, help="n: steps between two updates.  [default: 20]")
@click.option("--bins", type=int, help="Cells along each component of a state.  [default: 30]")
@click.option("--bits", type=click.Choice(["4", "8"]), default="4", show_default=True, help="Of a policy's code.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(["current", "average"]),
    help="What frd and mixfrd tell: the policy of now, or the round's mean as in the papers; may be repeated.  "
    "[default: current]",
)
@click.option("--values/--no-values", default=False, help="Tell the critic's values too.")
@click.option("--epochs", type=int, help="Passes over the fleet's memory an exchange.  [default: 5]")
@click.option("--distil-lr", type=float, help="Learning rate of these.  [default: 0.001]")
@_HIDDEN
@click.option("--newcomer/--no-newcomer", default=False, help="Then teach fresh networks from the fleets' memories.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Run folder.  [default: runs/TIME]")
def rl(methods: tuple[str, ...], **options: Any) -> None:
    """Let fleets of agents learn a game by METHOD: episodes to solve, returns, bytes, side by side.

    METHOD is one or more of alone, frd, mixfrd, pd, frl. `potstill trainer run METHOD... --env NAME` is the same
    command. docs/rl.md says what each method does and what was found.

    \b
    Examples:
      potstill trainer rl alone frd frl --env CartPole-v1
      potstill trainer rl frd mixfrd --env CartPole-v1 --policy average --policy current --lr 3e-4
    """  # noqa: D301 - click's mark must be the character itself
    from trainer.rl import report

    started = now()
    try:
        folder = run_folder(options["out"])
        studies = _studies(methods, options)
        make_folder(folder)
        results = [(study, report.follow(study, click.echo)) for study in studies]
        newcomers = report.newcomers(studies[0], click.echo) if options["newcomer"] else ()
    except (FolderError, ValueError) as problem:
        raise click.ClickException(str(problem)) from problem
    record = report.record_of(results, newcomers, started=started)
    write_record(record, folder / "run.json")
    for table in record.tables:
        click.echo(report.text(table))
    click.echo(f"{folder / 'run.json'}")


def _studies(methods: tuple[str, ...], options: dict[str, Any]) -> list[Study]:
    """One a method, and one a policy where the method tells policies. Raises ValueError."""
    from edge.wire.messages import Method
    from edge.wire.tasks import task
    from trainer.rl.agents import Learning
    from trainer.rl.study import HIDDEN, Study

    said = {name: options[name] for name in ("segment", "bins", "epochs", "distil_lr") if options[name] is not None}
    studies = []
    for name in methods:
        method = Method[name.upper()]
        tells = method in {Method.FRD, Method.MIXFRD}
        for policy in options["policies"] or ("current",) if tells else ("current",):
            told = AgentOptions(average=policy == "average", values=options["values"] and tells, **said)
            studies.append(
                Study(
                    task=task(options["env"]),
                    method=method,
                    seeds=tuple(range(options["seeds"])),
                    agents=options["agents"],
                    episodes=options["episodes"],
                    cap=options["cap"],
                    bits=int(options["bits"]),
                    learning=Learning(lr=options["lr"], options=told),
                    hidden=options["hidden"] or (HIDDEN,),
                    common=method is Method.FRL,
                )
            )
    return studies


@click.command("agent")
@_ENV
@_HIDDEN
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the parameters.")
@click.option("--name", default="", help="Whose first parameters: a device's name; without it, those of all (frl).")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
def agent(*, env: str, hidden: tuple[tuple[int, ...], ...], seed: int, name: str, out: Path) -> None:
    """Compile an agent's two programs, OUT/actor and OUT/critic, for `potstill edge agent`.

    \b
    Example:
      potstill trainer agent --env CartPole-v1 --name d00 -o agents/d00
    """  # noqa: D301
    from edge.wire.tasks import task
    from trainer.rl.agents import Learning, parameters
    from trainer.rl.study import HIDDEN

    if len(hidden) > 1:
        raise click.UsageError("one agent has one network: give --hidden once")
    try:
        from trainer.rl.programs import pack_agent, write_agent
    except ModuleNotFoundError as problem:
        raise click.ClickException(
            f"compiling needs {problem.name}: pip install 'potstill[trainer]' (the workstation only, not the devices)"
        ) from problem
    known, layers = task(env), hidden[0] if hidden else HIDDEN
    actor, critic = parameters(known, layers, seed, name)
    packed = pack_agent(known, layers, actor, critic, clip=Learning().clip, name=env.lower())
    write_agent(packed, out)
    for part in packed:
        click.echo(f"{part.manifest.name}: {part.manifest.parameter_count:,} parameters")
