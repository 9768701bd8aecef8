"""`codesign --print-completion`: what a shell reads to complete commands, options and files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from codesign.errors import UserError

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
# What a positional or an option is called in the help where it is a file or a folder.
_PLACES = {
    "CHECKPOINT",
    "DATA",
    "DESIGN",
    "DIR",
    "FILE",
    "IN",
    "MODEL",
    "OUT",
    "RUN",
}


class PrintCompletion(argparse.Action):
    """Prints the completion of the parser it stands in, by shtab, and ends."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        """Prints and ends."""
        try:
            import shtab
        except ImportError:
            raise UserError("--print-completion needs shtab: pip install shtab") from None
        from codesign.overrides import config_names

        _mark(parser, shtab.FILE, config_names())
        print(shtab.complete(parser, shell=values))
        parser.exit()


def _mark(parser: argparse.ArgumentParser, file: Any, configs: Sequence[str]) -> None:
    """Says what is a file and what the name of a config, of this parser and of its commands'."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark(command, file, configs)
        elif action.dest == "config":
            action.choices = configs  # Shells go on to files where none of these fits.
        elif action.metavar in _PLACES or action.dest in ("design", "family", "tokenizer"):
            action.complete = file  # type: ignore[attr-defined]
