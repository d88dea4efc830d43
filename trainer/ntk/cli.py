"""`potstill ntk`: what theory says of distillation, beside what networks do. Torch is imported where it is used."""

from __future__ import annotations

import click

from trainer.data import DataError, Dataset, load_dataset


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def ntk() -> None:
    """The kernel checks: distillation against neural tangent kernel theory."""


def _numbers(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(item) for item in value.split(","))
    except ValueError as problem:
        raise click.BadParameter("numbers with commas between them, such as 0.5,1,2") from problem
    if min(numbers) < 0:
        raise click.BadParameter("none may be negative")
    return numbers


def _counts(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, ...]:
    items = [item.strip() for item in value.split(",")]
    if not all(item.isdigit() and int(item) > 0 for item in items):
        raise click.BadParameter("positive whole numbers with commas between them, such as 256,1024")
    return tuple(int(item) for item in items)


def _data(_ctx: click.Context, _param: click.Parameter, value: str) -> Dataset:
    try:
        return load_dataset(value)
    except DataError as problem:
        raise click.BadParameter(str(problem)) from problem


data_option = click.option(
    "--data",
    "dataset",
    default="digits",
    show_default=True,
    callback=_data,
    help="digits, or mnist:DIR (docs/data.md).",
)


@ntk.command()
@data_option
@click.option("--all", "every", is_flag=True, help="Print every claim, not only the failed ones and the trained ones.")
def check(dataset: Dataset, *, every: bool) -> None:
    """Print pass or fail for each claim, with what was measured, predicted and allowed; exit 1 if any failed.

    Example: potstill ntk check --data mnist:data/mnist
    """
    _need_torch()
    from trainer.ntk.check import all_claims
    from trainer.ntk.exact import EXACT, Claim

    made: list[Claim] = []
    for claim in all_claims(dataset):
        made.append(claim)
        if every or not claim.passed or claim.tolerance != EXACT:
            click.echo(line(claim))
    exact = [claim for claim in made if claim.tolerance == EXACT]
    worst = max(claim.measured for claim in exact)
    failed = sum(not claim.passed for claim in made)
    click.echo(f"{len(exact)} exact claims: largest difference {worst:.1e}, allowed {EXACT:.0e}")
    click.echo(f"{len(made) - failed} of {len(made)} claims hold on {dataset.name}")
    if failed:
        raise SystemExit(1)


def line(claim: object) -> str:
    """Pass or fail, the claim, measured, predicted, tolerance."""
    from trainer.ntk.exact import Claim

    assert isinstance(claim, Claim)
    allowed = f"at least {claim.tolerance:g}" if claim.at_least else f"within {claim.tolerance:g}"
    verdict = "pass" if claim.passed else "FAIL"
    return f"{verdict}  {claim.text:<82}  measured {claim.measured:<9.3g} predicted {claim.predicted:<6.3g} {allowed}"


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as problem:
        raise click.ClickException("the kernels need torch: pip install 'potstill[trainer]'") from problem
