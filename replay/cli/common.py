"""What commands share: their options, the open store, the index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from eventstore import AsOf
from replay.cli.failures import Run
from replay.cli.parameters import AS_OF, DATABASE, INDEX_DIRECTORY

__all__ = [
    "CONTEXT_SETTINGS",
    "as_of_option",
    "command",
    "database_argument",
    "debug_option",
    "index_option",
]

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

F = TypeVar("F", bound=Callable[..., Any])


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    run = ctx.find_object(Run)
    if value and run is not None:
        run.debug = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_debug,
    help="Show the traceback of an error.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def command(name: str, summary: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command with the options that every one has, last in its help; `summary` is its line in the list."""

    def decorate(function: Callable[..., None]) -> click.Command:
        # Decorators list their options from the outside in, and these have been applied first of all.
        made = click.command(name, short_help=summary, context_settings=CONTEXT_SETTINGS)(function)
        for option in (_json_option, debug_option):
            option(made)
        return made

    return decorate


database_argument = click.argument("database", metavar="DB", type=DATABASE)


def as_of_option(*, required: bool = False, help: str) -> Callable[[F], F]:
    """`--as-of T`."""

    def check(ctx: click.Context, param: click.Parameter, value: AsOf) -> AsOf:
        # Not click's own `required`, which takes None, our "now", for an option that was left out.
        if required and ctx.get_parameter_source("as_of") is ParameterSource.DEFAULT:
            raise click.MissingParameter(ctx=ctx, param=param)
        return value

    text = f"{help}  [required]" if required else help
    return click.option("--as-of", metavar="T", type=AS_OF, callback=check, help=text)


index_option = click.option(
    "--index",
    "directory",
    metavar="DIR",
    type=INDEX_DIRECTORY,
    help="Where the index keeps its checkpoints.  [default: DB.index]",
)
