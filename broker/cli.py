"""`potstill broker`: options, and one call a command."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from broker import servers

if TYPE_CHECKING:
    from broker.conversion import Converter
    from broker.ledger import Ledger
    from broker.round import End
    from broker.settings import RunSettings
    from edge.mqtt import Address
    from edge.wire.messages import Method
    from edge.wire.options import AgentOptions, FldOptions, Options, ShareOptions

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY"):
    # As on the device (`edge.cli`), and before the options' defaults import numpy: neither a round's mean nor a
    # conversion's batch is large enough for a second BLAS thread, which would only wait.
    os.environ.setdefault(_name, "1")

F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def broker() -> None:
    """The broker side: serve, run rounds, read the ledger."""


@broker.command()
@click.option(
    "--kind", type=click.Choice(["embedded", "mosquitto"]), default="embedded", show_default=True, help="Which broker."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any free port.  [default: 0]")
@click.option("--expose", is_flag=True, help="Allow an address that other machines reach, without TLS or passwords.")
@click.option("--json", "as_json", is_flag=True, help="Print the URL as one JSON object.")
def serve(kind: str, host: str, port: int, expose: bool, as_json: bool) -> None:
    """Start an MQTT 5 broker, print its URL, and run until SIGTERM or Ctrl-C.

    \b
    Example:
      potstill broker serve --port 1883
    """  # noqa: D301
    if not servers.is_loopback(host):
        if not expose:
            raise click.UsageError(f"{host} is reachable from other machines and this broker has no TLS: add --expose")
        click.echo(f"Warning: anybody who reaches {host} can read and write every topic.", err=True)
    try:
        with servers.stop_signals() as stop, _server(kind, host, port) as server:
            click.echo(json.dumps({"event": "serving", "url": server.url, "kind": kind}) if as_json else server.url)
            servers.serve(server, stop)
    except servers.ServerError as problem:
        raise click.ClickException(str(problem)) from problem


def _server(kind: str, host: str, port: int) -> servers.Server:
    if kind == "mosquitto":
        from broker.servers.mosquitto import Mosquitto

        return Mosquitto(host=host, port=port)
    from broker.servers.embedded import EmbeddedBroker

    return EmbeddedBroker(host=host, port=port)


# ---------------------------------------------------------------- run

_connection = (
    click.option(
        "--broker", "url", default="mqtt://127.0.0.1:1883", show_default=True, help="mqtt:// or mqtts:// URL."
    ),
    click.option("--username", "user", help="For the broker."),
    click.option("--password-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One line."),
    click.option("--cafile", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CA of the broker."),
    click.option("--cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Of this client."),
    click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Of --cert."),
)

_LEDGER = Path("potstill-ledger.sqlite")

_ledger = click.option(
    "--ledger",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_LEDGER,
    show_default=True,
    help="File that keeps every run.",
)


def _connects(command: F) -> F:
    for option in reversed(_connection):
        command = option(command)
    return command


def _default(kind: type[RunSettings | FldOptions | ShareOptions | AgentOptions], name: str) -> Any:
    return next(field.default for field in dataclasses.fields(kind) if field.name == name)


def _setting(flag: str, name: str, what: str, **more: Any) -> Callable[[F], F]:
    """An option of `broker.settings.RunSettings`, whose default is told but never passed."""
    from broker.settings import RunSettings

    default = _default(RunSettings, name)
    told = f"  [default: {default.name.lower() if name == 'method' else default}]"
    return click.option(flag, name, default=None, help=what + ("" if default is dataclasses.MISSING else told), **more)


_METHODS = ("alone", "fl", "fd", "fld", "mixfld", "mix2fld", "share", "frd", "mixfrd", "pd", "frl")


def _option(flag: str, name: str, what: str, **more: Any) -> Callable[[F], F]:
    """An option of a method, such as `fld__seeds`: the field of `_kinds()["fld"]`, whose default is told."""
    kind, _, field = name.partition("__")
    default = _default(_kinds()[kind], field)
    return click.option(flag, name, default=None, help=f"{what} ({kind})  [default: {default}]", **more)


def _kinds() -> dict[str, type[FldOptions | ShareOptions | AgentOptions]]:
    from edge.wire.options import AgentOptions, FldOptions, ShareOptions

    return {"fld": FldOptions, "share": ShareOptions, "agents": AgentOptions}


@broker.command()
@_connects
@_ledger
@click.option("--fleet", help="Name of the fleet; needed unless --resume.")
@click.option(
    "--program",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the compiled program; with --resume only where the aggregator trains (fld).",
)
@click.option(
    "--task",
    help="What agents play, instead of --program: CartPole-v1 or Acrobot-v1. frl needs an agent's folder as --program "
    "too.",
)
@_setting("--devices", "devices", "The run starts when so many are there.", type=int)
@_setting("--method", "method", "What is exchanged.", type=click.Choice(_METHODS))
@_setting("--rounds", "rounds", "Of the run.", type=int)
@_setting("--steps", "steps", "Local training steps a round.", type=int)
@_setting("--lr", "lr", "Learning rate.", type=float)
@_setting("--gamma", "gamma", "Weight of the distillation term (fd, share).", type=float)
@_option("--seeds", "fld__seeds", "Samples, or mixed pairs, a device gives once.", type=int)
@_option("--conversion-steps", "fld__steps", "The aggregator's training steps a round.", type=int)
@_option("--conversion-lr", "fld__lr", "Their learning rate.", type=float)
@_option("--beta", "fld__beta", "Weight of the devices' logits in them.", type=float)
@_option("--lam", "fld__lam", "Weight of a mixed pair's first sample.", type=float)
@_option("--inputs", "share__inputs", "Shared inputs a round.", type=int)
@_option("--label-bits", "share__bits", "Of a shared label: 0 for the label alone, or 8, 4, 3 for all.", type=int)
@_option("--shift", "share__shift", "Pixels that images are shifted by at most.", type=int)
@_option("--buffer", "share__buffer", "Rounds whose shared inputs are trained on.", type=int)
@_option("--warm-up", "share__warm_up", "Rounds without shared inputs, at first.", type=int)
@_option("--bins", "agents__bins", "Cells along each component of a state.", type=int)
@_option("--average/--current", "agents__average", "Tell the round's mean policies, or those of now.")
@_option("--values/--no-values", "agents__values", "Tell the critic's values too.")
@_option("--epochs", "agents__epochs", "Passes over the fleet's memory a round.", type=int)
@_option("--distil-lr", "agents__distil_lr", "Learning rate of these.", type=float)
@_setting("--normalise/--no-normalise", "normalise", "Divide the target by 1 + gamma.")
@_setting("--bits", "bits", "Of a logit on the wire: 32, 16, 8, 4 or 3.", type=int)
@_setting("--seed", "seed", "Of every random stream.", type=int)
@_setting("--qos", "qos", "MQTT QoS of the uploads.", type=click.IntRange(0, 1))
@_setting("--report/--no-report", "report", "Devices report accuracy and bytes after each round.")
@_setting("--deadline", "deadline_s", "Seconds a round may take.", type=float)
@_setting("--extensions", "extensions", "Times a round without its quorum is extended.", type=int)
@_setting("--quorum", "quorum", "Uploads without which no round closes.", type=int)
@_setting("--start-deadline", "start_deadline_s", "Seconds to wait for the devices.", type=float)
@click.option("--run", "run_number", type=click.IntRange(0, 2**32 - 1), help="Number of the run.  [default: random]")
@click.option("--resume", type=click.IntRange(0, 2**32 - 1), help="Go on with this unfinished run of the ledger.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line (docs/ledger.md).")
def run(
    *,
    path: Path,
    fleet: str | None,
    program: Path | None,
    task: str | None,
    run_number: int | None,
    resume: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run one training run with the devices of a fleet, and exit: 0 complete, 1 failed.

    \b
    Example:
      potstill broker run --broker mqtt://127.0.0.1:1883 --fleet demo --program PROGRAM --devices 10 --method fd
    """  # noqa: D301
    from broker.aggregator import Aggregator
    from broker.ledger import Ledger, LedgerError
    from broker.link import BrokerError, Link, client_id, filters

    address = _address(options)
    typed = {name: value for name, value in options.items() if value is not None}
    try:
        with Ledger.open(path) as ledger, servers.stop_signals() as stop:
            if resume is None:
                make = _new if task is None else partial(_new_agents, task=task)
                name, settings = make(fleet=fleet, program=program, number=run_number, typed=typed)
            else:
                name, settings = _unfinished(ledger, resume, typed)
            converter = _converter(program, settings)
            emit = _print_json if as_json else _print_text
            link = Link(address, client_id(name), filters(name), resumable=resume is not None)
            aggregator = Aggregator(
                link=link, ledger=ledger, fleet=name, settings=settings, emit=emit, converter=converter
            )
            link.connect()
            began = time.monotonic()
            emit({"event": "run", "run": settings.run, "fleet": name, "method": settings.method.name.lower()})
            aggregator.take_up() if resume is not None else aggregator.begin()
            end = aggregator.run(stop)
            link.close(forget=not stop.is_set())
    except (LedgerError, BrokerError) as problem:
        if as_json:
            _print_json({"event": "end", "run": run_number, "complete": False, "reason": str(problem)})
        raise click.ClickException(str(problem)) from problem
    _report_end(end, settings, time.monotonic() - began, emit)


def _report_end(end: End, settings: RunSettings, seconds: float, emit: Callable[[dict[str, Any]], None]) -> None:
    emit(
        {
            "event": "end",
            "run": settings.run,
            "complete": end.complete,
            "reason": end.reason,
            "seconds": round(seconds, 3),
        }
    )
    if not end.complete:
        raise click.ClickException(end.reason)


def _new_agents(
    fleet: str | None, task: str, program: Path | None, number: int | None, typed: dict[str, Any]
) -> tuple[str, RunSettings]:
    """Settings of a new run of agents from what was typed. Raises `click.UsageError`."""
    from broker.settings import AGENT_DEFAULTS, RunSettings
    from edge.wire.manifest import parse_manifest
    from edge.wire.messages import AGENTS, Method
    from edge.wire.tasks import task as known
    from edge.wire.topics import check_name

    if fleet is None or "devices" not in typed:
        raise click.UsageError("a new run of agents needs --fleet, --task and --devices (or give --resume RUN)")
    method = Method[typed.pop("method", "frd").upper()]
    if method not in AGENTS | {Method.ALONE}:
        raise click.UsageError(f"{method.name.lower()} is not for agents: alone, frd, mixfrd, pd or frl with --task")
    if method is Method.FRL and program is None:
        raise click.UsageError("frl averages networks: give the agents' folder (actor and critic) as --program")
    try:
        played = known(task)
        parts = () if program is None else (program / "actor", program / "critic")
        manifests = [parse_manifest((part / "manifest.json").read_text(encoding="utf-8")) for part in parts]
        return check_name(fleet, "fleet"), RunSettings(
            run=secrets.randbits(32) if number is None else number,
            program=played.digest,
            schema=played.digest,
            labels=len(played.actions),
            parameters=sum(manifest.parameter_count for manifest in manifests) or 1,
            method=method,
            options=_options(method, typed),
            size=len(played.ranges),
            **{**AGENT_DEFAULTS, **{name: value for name, value in typed.items() if "__" not in name}},
        )
    except OSError as problem:
        raise click.UsageError(
            f"{program} is no agent's folder: {problem}; make one with `potstill trainer agent`"
        ) from problem
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem


def _new(fleet: str | None, program: Path | None, number: int | None, typed: dict[str, Any]) -> tuple[str, RunSettings]:
    """Settings of a new run from what was typed. Raises `click.UsageError`."""
    from broker.settings import RunSettings
    from edge.wire.manifest import POOL_FILE, parse_manifest
    from edge.wire.messages import Method
    from edge.wire.topics import check_name

    if fleet is None or program is None or "devices" not in typed:
        raise click.UsageError("a new run needs --fleet, --program and --devices (or give --resume RUN)")
    method = Method[typed.pop("method").upper()] if "method" in typed else _default(RunSettings, "method")
    try:
        manifest = parse_manifest((program / "manifest.json").read_text(encoding="utf-8"))
        if method is Method.SHARE and POOL_FILE not in manifest.files:
            raise click.UsageError(
                f"{program} has no {POOL_FILE}: add one with `potstill trainer pool`, and give that to the devices"
            )
        return check_name(fleet, "fleet"), RunSettings(
            run=secrets.randbits(32) if number is None else number,
            program=manifest.digest,
            schema=manifest.schema,
            labels=len(manifest.labels),
            parameters=manifest.parameter_count,
            method=method,
            options=_options(method, typed),
            size=manifest.sample_size,
            **{name: value for name, value in typed.items() if "__" not in name},
        )
    except OSError as problem:
        raise click.UsageError(
            f"{program} is no program: {problem}; compile one with `potstill trainer compile`"
        ) from problem
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem


def _options(method: Method, typed: dict[str, Any]) -> Options | None:
    """Those of the method from what was typed. Raises `click.UsageError` on another method's, ValueError."""
    from edge.wire.messages import OPTIONS

    kind = OPTIONS.get(method)
    said: dict[str, Any] = {}
    for name, value in typed.items():
        family, dot, field = name.partition("__")
        if dot and _kinds()[family] is not kind:
            raise click.UsageError(f"{field} is an option of {family}, and the method is {method.name.lower()}")
        if dot:
            said[field] = value
    return None if kind is None else kind(**said)


def _converter(program: Path | None, settings: RunSettings) -> Converter | None:
    """What the aggregator trains with, where the method needs it. Raises `click.UsageError`."""
    from edge.wire.messages import SEEDED

    if settings.method not in SEEDED:
        return None
    from broker.conversion import Converter

    if program is None:
        raise click.UsageError("the aggregator of this run trains: give the run's --program too")
    try:
        converter = Converter(program)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem
    if converter.digest != settings.program:
        raise click.UsageError(f"{program} is not the program of run {settings.run}: give that one")
    return converter


def _unfinished(ledger: Ledger, number: int, typed: dict[str, Any]) -> tuple[str, RunSettings]:
    row = ledger.run(number)
    if typed:
        raise click.UsageError(f"a resumed run keeps its settings: leave out {', '.join(sorted(typed))}")
    if row.complete is not None:
        state = "complete" if row.complete else f"over ({row.reason})"
        raise click.ClickException(f"run {number} is {state}: there is nothing to resume")
    return row.fleet, ledger.settings(number)


def _address(options: dict[str, Any]) -> Address:
    """Takes the connection's options out of `options`. Raises `click.UsageError`."""
    from edge.mqtt import parse_url

    given = {name: options.pop(name) for name in ("user", "cafile", "cert", "key")}
    url, password_file = options.pop("url"), options.pop("password_file")
    try:
        address = parse_url(url)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem
    if password_file is not None:
        given["password"] = password_file.read_text(encoding="utf-8").strip()
    return dataclasses.replace(address, **{name: value for name, value in given.items() if value is not None})


def _print_json(event: dict[str, Any]) -> None:
    """Written at once; `click.echo` would look for colours and a terminal in every line of every round."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _print_text(event: dict[str, Any]) -> None:
    template = _TEXTS.get(event["event"])
    if template is not None:
        accuracy = event.get("accuracy")
        shown = {"counted": len(event.get("cohort", ())), "accuracy": "-" if accuracy is None else f"{accuracy:.3f}"}
        click.echo(template.format_map(event | shown))
    if event.get("missing"):
        click.echo(f"  missing: {', '.join(event['missing'])}")


_TEXTS = {
    "run": "run {run} of fleet {fleet}: {method}",
    "waiting": "{born} of {devices} devices are there",
    "round": "round {round} of {rounds}: {counted} uploads counted, {seconds:.2f} s",
    "report": "  {device} after round {round}: accuracy {accuracy}, loss {loss:.4f}",
    "extended": "round {round}: extended, the quorum is not there; {left} extensions left",
    "refused": "refused from {device}: {reason} ({times} times)",
    "end": "run {run}: {reason}, {seconds:.1f} s",
}


# ---------------------------------------------------------------- the ledger


@broker.command()
@_ledger
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run.")
def runs(path: Path, as_json: bool) -> None:
    """List the ledger's runs.

    \b
    Example:
      potstill broker runs --ledger potstill-ledger.sqlite
    """  # noqa: D301
    from broker.ledger import Ledger, LedgerError

    try:
        with Ledger.read(path) as ledger:
            rows = ledger.runs()
    except LedgerError as problem:
        raise click.ClickException(str(problem)) from problem
    if as_json:
        for row in rows:
            click.echo(json.dumps(row._asdict() | {"settings": json.loads(row.settings)}))
        return
    click.echo(f"{'run':>10}  {'fleet':16} {'method':6} {'started (UTC)':19}  state")
    for row in rows:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row.started))
        state = "unfinished" if row.complete is None else "complete" if row.complete else f"failed: {row.reason}"
        click.echo(f"{row.run:>10}  {row.fleet:16} {row.method:6} {started}  {state}")


@broker.command()
@click.argument("number", metavar="RUN", type=int)
@_ledger
@click.option("--json", "as_json", is_flag=True, help="One JSON object: run, rounds, refusals, reports, meters.")
def show(number: int, path: Path, as_json: bool) -> None:
    """Show one run: who counted in each round, who was missing, what was refused.

    \b
    Example:
      potstill broker show 1234567 --ledger potstill-ledger.sqlite
    """  # noqa: D301
    from broker.ledger import Ledger, LedgerError

    try:
        with Ledger.read(path) as ledger:
            row, rounds = ledger.run(number), ledger.rounds(number)
            refusals, reports = ledger.refusals(number), ledger.reports(number)
            meters = ledger.meters(number)
    except LedgerError as problem:
        raise click.ClickException(str(problem)) from problem
    if as_json:
        whole = {
            "run": row._asdict() | {"settings": json.loads(row.settings)},
            "rounds": [dataclasses.asdict(entry) for entry in rounds],
            "refusals": [dict(zip(("device", "reason", "times"), entry, strict=True)) for entry in refusals],
            "reports": [{"round": r, "device": device, **report} for r, device, report in reports],
            "meters": [{"round": r, "device": device, **meter} for r, device, meter in meters],
        }
        click.echo(json.dumps(whole))
        return
    state = "unfinished" if row.complete is None else row.reason
    click.echo(f"run {row.run} of fleet {row.fleet}: {row.method}, {state}")
    click.echo(f"{'round':>5} {'seconds':>8} {'bytes':>9} {'counted':>7}  uploads that did not count; devices missing")
    for entry in rounds:
        seconds = "-" if entry.closed is None else f"{entry.closed - entry.opened:.2f}"
        counted = entry.fates.get("counted", 0)
        notes = [f"{times} {fate}" for fate, times in sorted(entry.fates.items()) if fate != "counted"]
        if entry.missing:
            notes.append(f"missing {', '.join(entry.missing)}")
        click.echo(f"{entry.round:>5} {seconds:>8} {entry.payload_bytes:>9} {counted:>7}  {'; '.join(notes)}".rstrip())
    for device, reason, times in refusals:
        click.echo(f"refused from {device}: {reason} ({times} times)")


# ---------------------------------------------------------------- orders


@broker.command()
@_connects
@click.option("--fleet", required=True, help="Name of the fleet.")
@click.option("--device", "devices", multiple=True, help="Device to stop; may be repeated.")
@click.option("--all", "everyone", is_flag=True, help="All devices that are there.")
def stop(fleet: str, devices: tuple[str, ...], everyone: bool, **options: Any) -> None:
    """Tell devices to end their client.

    \b
    Example:
      potstill broker stop --broker mqtt://127.0.0.1:1883 --fleet demo --all
    """  # noqa: D301
    from broker.link import BrokerError, Link, order, present_devices
    from edge.wire import topics
    from edge.wire.messages import Order

    address = _address(options)
    if everyone == bool(devices):
        raise click.UsageError("name devices with --device, or say --all")
    try:
        for device in devices:
            topics.check_name(device, "device")
        births = topics.every_birth(fleet)
    except ValueError as problem:
        raise click.UsageError(str(problem)) from problem
    try:
        link = Link(address, f"ps-{secrets.token_hex(4)}", [births], resumable=False)
        link.connect()
        found = present_devices(link)
        order(link, fleet, found if everyone else list(devices), Order.STOP)
        link.close(forget=True)
    except BrokerError as problem:
        raise click.ClickException(str(problem)) from problem
    click.echo(f"told {', '.join(found if everyone else devices) or 'nobody: no device is there'} to stop")
