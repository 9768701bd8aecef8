"""What the commands' parsers share: one-line errors, --json, and CONFIG with its fields."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from codesign.errors import UserError


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What every command that trains takes: --resume, --check or --no-check, --loggers."""
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare the first step of each phase with its loss, compiled without optimisation, "
        "and stop where they disagree (default: on CPUs)",
    )
    parser.add_argument(
        "--loggers",
        type=lambda text: tuple(name for name in text.split(",") if name and name != "none"),
        metavar="NAMES",
        help="where metrics go beside the run folder: tensorboard (default), wandb, mlflow, or "
        "several with commas between; none",
    )


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, raised like every other bad input.

    Options are read with underscores as well, since the fields of configs are written so.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As of argparse, after options got their own spelling."""
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._spelt(word) for word in given], namespace)

    def _spelt(self, word: str) -> str:
        name, equals, value = word.partition("=")
        dashed = name.replace("_", "-")
        known = name.startswith("--") and dashed in self._option_string_actions
        return f"{dashed}{equals}{value}" if known else word

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would have printed."""
        raise UserError(f"{message}; see {self.prog} --help")


class _ConfigHelp(argparse.Action):
    """--help of commands that take a CONFIG: after one, its fields too."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any
    ) -> None:
        from codesign.overrides import config_names, format_overrides

        if getattr(namespace, "config", None):
            more = format_overrides(namespace.config, namespace.command_name).rstrip()
        else:
            more = f"configs: {', '.join(config_names()) or 'none'}"
        print(f"{parser.format_help()}\n{more}")
        parser.exit()


def add_command(commands: Any, name: str, run: Any, summary: str, **more: Any) -> Any:
    """A command with --json; `run` takes the parsed arguments and returns the exit code."""
    parser = commands.add_parser(
        name,
        help=summary,
        allow_abbrev=False,
        description=summary[0].upper() + summary[1:] + ".",
        **more,
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON, and nothing else, on stdout"
    )
    parser.set_defaults(command=run, command_name=name, overridable=False)
    return parser


def add_config_command(
    commands: Any, name: str, run: Any, summary: str, *, more: str = "", example: str
) -> Any:
    """A command that runs a CONFIG, any of whose fields can be given on the command line."""
    parser = add_command(
        commands,
        name,
        run,
        summary,
        add_help=False,
        usage=f"codesign {name} CONFIG [--out DIR] {more}[--json] [--FIELD VALUE ...]",
        epilog=f"codesign {name} CONFIG --help lists the config's fields; any of them is "
        f"overridden by --FIELD VALUE, such as {example}.",
    )
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="name of a config, or path of a .py or .yaml file or of a run's config.json",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the config with its overrides as YAML, which is a CONFIG, and exit",
    )
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/CONFIG)")
    parser.add_argument("-h", "--help", action=_ConfigHelp, nargs=0, help="show this and exit")
    parser.set_defaults(overridable=True, load=None)
    return parser
