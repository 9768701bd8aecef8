"""What the commands that run a CONFIG share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codesign.errors import Stalled
from codesign.printable import shell_line
from codesign.termination import Terminated, raised


def load(args: argparse.Namespace) -> Any:
    """The config of the command line, overrides applied, every field checked.

    Raises:
      UserError: a config that cannot be read, one of another command or of none, or a field
        that holds what it may not.
    """
    from codesign.api.runs import config_of

    return config_of(args.command_name, args.config, args.overrides)


def print_config(args: argparse.Namespace) -> int:
    """`--print-config` of a command that runs a CONFIG."""
    from codesign.overrides import printed

    print(printed((args.load or load)(args)), end="")
    return 0


def out_folder(args: argparse.Namespace) -> Path:
    """Where the run goes: --out, or runs/ and the config's name."""
    from codesign.overrides import config_name

    return Path(args.out if args.out is not None else Path("runs") / config_name(args.config))


def resume_command(args: argparse.Namespace) -> str:
    """The command that continues an interrupted run: the same, with --resume."""
    out = ["--out", args.out] if args.out is not None else []
    given = [f"--{name}" for name in ("distributed", "json") if getattr(args, name, False)]
    check = getattr(args, "check", None)
    if check is not None:
        given.append("--check" if check else "--no-check")
    loggers = getattr(args, "loggers", None)
    if loggers is not None:
        given += ["--loggers", ",".join(loggers) or "none"]
    words = ["codesign", args.command_name, args.config, *args.overrides, *out, *given]
    return shell_line([*words, "--resume"])


@contextlib.contextmanager
def kept_when_stopped(args: argparse.Namespace, *, alone: bool = True) -> Iterator[None]:
    """Ctrl-C and SIGTERM within end in a line that tells how to go on.

    Args:
      args: of the command line.
      alone: False: one of several processes, which JAX brings to agree about SIGTERM.
    """
    again = resume_command(args)
    try:
        with raised() if alone else contextlib.nullcontext():
            yield
    except KeyboardInterrupt:
        message = f"interrupted; the run is kept: {again} continues it"
        raise KeyboardInterrupt(message) from None
    except Stalled as stalled:
        raise Stalled(f"{stalled}; the run is kept: {again} continues it") from None
    except Terminated as terminated:
        terminated.args = (f"stopped by SIGTERM; the run is kept: {again} continues it",)
        raise
