"""`potstill broker`: options, and one call a command."""

from __future__ import annotations

import json

import click

from broker import servers


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def broker() -> None:
    """The broker side: serve, run rounds, read the ledger."""


@broker.command()
@click.option("--kind", type=click.Choice(["embedded", "mosquitto"]), default="embedded", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any free port.  [default: 0]")
@click.option("--expose", is_flag=True, help="Allow an address that other machines reach, without TLS or passwords.")
@click.option("--json", "as_json", is_flag=True, help="Print the URL as one JSON object.")
def serve(kind: str, host: str, port: int, expose: bool, as_json: bool) -> None:
    r"""Start an MQTT 5 broker, print its URL, and run until SIGTERM or Ctrl-C.

    \b
    Example:
      potstill broker serve --port 1883
    """
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
