"""The `codesign` program.

Results go to stdout, progress to stderr, so that a result can always be piped; with
--json the result is one JSON value. Bad input ends in one line and exit code 2, a
failure in one line and exit code 1, Ctrl-C in 130; SIGTERM ends a run in 0, once it is
saved. Whatever else goes wrong is a bug and
shows its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from codesign import compilation_cache

# Heavy modules (JAX, matplotlib) are imported by the commands that need them: help is instant.
from codesign.cli import (
    ablate,
    compare,
    convert,
    cost,
    dress,
    evaluate,
    finetune,
    front,
    prune,
    push,
    report,
    search,
    study,
    workload,
)
from codesign.cli.arguments import Parser
from codesign.cli.completion import SHELLS, PrintCompletion
from codesign.cli.output import only_results, spell_what_no_stream_holds
from codesign.errors import RunError, Stalled, UserError, did_you_mean, out_of_memory, out_of_space
from codesign.printable import printable
from codesign.renamed import RetiredWarning
from codesign.termination import Terminated, unwaited

_COMMANDS = {
    "search": search,
    "front": front,
    "compare": compare,
    "cost": cost,
    "workload": workload,
    "ablate": ablate,
    "study": study,
    "finetune": finetune,
    "dress": dress,
    "eval": evaluate,
    "prune": prune,
    "convert": convert,
    "push": push,
    "report": report,
}
# As long as a name of a file may be on most systems, times the folders of a readable line.
_MOST_OF_A_NAME = 500


def program() -> NoReturn:
    """The process of the program: `main`, and its end, for which threads that hang do not count.

    Python waits for its threads before it ends; those that read from a disk that is gone would
    keep the process for ever, and those that compile what an interrupted run will not call, for
    minutes.
    """
    code, hangs = _outcome(None)
    if hangs or unwaited():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program within this process.

    Args:
      argv: arguments after the program's name; default: those of the process.

    Returns:
      The exit code.
    """
    return _outcome(argv)[0]


def _outcome(argv: Sequence[str] | None) -> tuple[int, bool]:
    """The exit code, and whether threads may hang that wait for data."""
    try:
        return _code(argv), False
    except Stalled as error:
        return _fail(error, 1), True
    except Terminated as terminated:
        print(terminated, file=sys.stderr)
        return 0, terminated.hangs


def _code(argv: Sequence[str] | None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    # Tokenizers and image processors need no PyTorch; transformers would say it misses it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    spell_what_no_stream_holds()
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # Here, where a closed pipe is still caught.
    except UserError as error:
        return _fail(error, 2)
    except Stalled:
        raise
    except RunError as error:
        return _fail(error, 1)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python flushes stdout once more at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (full := out_of_space(error)) is not None:
            name = getattr(error, "filename", None)
            return _fail(full + (f": {name}" if name else ""), 1)
        if (large := out_of_memory(error)) is not None:
            return _fail(f"not enough memory ({large}); make batches, networks or files smaller", 1)
        if isinstance(error, OSError) and error.filename is not None:
            return _fail(f"{str(error.filename)[:_MOST_OF_A_NAME]}: {error.strerror}", 1)
        raise
    except KeyboardInterrupt as interrupt:
        print(printable(interrupt) or "interrupted", file=sys.stderr)
        return 130


def _fail(error: object, code: int) -> int:
    print(f"codesign: {printable(error)}", file=sys.stderr)
    return code


def _run(argv: list[str]) -> int:
    _check_command(argv)
    args, extra = _parser().parse_known_args(argv)
    compilation_cache.start(wanted=not args.no_compilation_cache)
    if extra and not args.overridable:
        help_of = f"codesign {args.command_name} --help"
        raise UserError(f"unexpected argument '{extra[0]}'; see {help_of}")
    args.overrides = extra
    args.command_line = ["codesign", *argv]
    command: Callable[[argparse.Namespace], int] = args.command
    results = only_results() if args.json else contextlib.nullcontext()
    with _retired_in_a_line(), results:
        if getattr(args, "print_config", False):
            from codesign.cli.configured import print_config

            return print_config(args)
        return command(args)


@contextlib.contextmanager
def _retired_in_a_line() -> Iterator[None]:
    """What a file or an option sets that is no more is said in one line each, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", RetiredWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, RetiredWarning):
                print(f"codesign: warning: {printable(message)}", file=sys.stderr)
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = show
        yield


class _Version(argparse.Action):
    """--version, read from the installed package only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import importlib.metadata

        print(f"codesign {importlib.metadata.version('codesign')}")
        parser.exit()


def _check_command(argv: list[str]) -> None:
    if argv and not argv[0].startswith("-") and argv[0] not in _COMMANDS:
        hint = did_you_mean(argv[0], _COMMANDS)
        raise UserError(f"there is no command '{argv[0]}'; {hint}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="codesign",
        description="Differentiable co-design of CLIP models and edge accelerators.",
        epilog="codesign COMMAND --help tells more.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-V", "--version", action=_Version, nargs=0, help="show the version and exit"
    )
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help=f"print what {', '.join(SHELLS)} read to complete commands and options, and exit",
    )
    parser.add_argument(
        "--no-compilation-cache",
        action="store_true",
        help="compile every program anew, and keep none for the next command",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for command in _COMMANDS.values():
        command.add(commands)
    return parser
