"""Oracles by name, and their answers to a plan: shipped ones first, then bought ones."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from codesign.errors import UserError, did_you_mean
from codesign.oracle.cache import default_cache
from codesign.oracle.collect import collect
from codesign.oracle.exact import Exact
from codesign.oracle.interface import Oracle, OracleError, Point, Sample, precisions_of
from codesign.oracle.zigzag import ZigZag
from codesign.surrogate.plan import Plan
from codesign.userfile import load_file

BUILT_IN: dict[str, Callable[[], Oracle]] = {"zigzag": ZigZag, "exact": Exact}


def find_oracle(name: str) -> Oracle:
    """An oracle by name: one of BUILT_IN, or PACKAGE.MODULE:NAME or FILE.py:NAME of another.

    NAME is an oracle or a class of which one is made.

    Raises:
      UserError: there is none, or its module fails to import.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    place, colon, member = name.rpartition(":")
    if not colon:
        hint = did_you_mean(name, BUILT_IN)
        raise UserError(f"there is no oracle '{name}'; {hint} (or FILE.py:NAME of your own)")
    try:
        # Standard output belongs to the program's result.
        with contextlib.redirect_stdout(sys.stderr):
            found = getattr(_module(place), member)
            oracle: Oracle = found() if isinstance(found, type) else found
            oracle.fingerprint()
    except UserError as error:  # in a file: it tells where
        raise UserError(f"oracle {name}: {error}") from error
    except (Exception, SystemExit) as error:  # the user's own code: any error in it is bad input
        text = str(error).partition("\n")[0]
        raise UserError(f"oracle {name}: {type(error).__name__}: {text}") from error
    return oracle


def _module(place: str) -> Any:
    if place.endswith(".py"):
        return load_file(Path(place), "file")
    return importlib.import_module(place)


@dataclasses.dataclass(frozen=True)
class _Shipped:
    """The samples shipped of an oracle, as an oracle that knows nothing else."""

    oracle: Oracle

    @property
    def name(self) -> str:
        return self.oracle.name

    @property
    def precisions_bits(self) -> tuple[int, ...]:
        return precisions_of(self.oracle)

    def fingerprint(self) -> str:
        return self.oracle.fingerprint()

    def __call__(self, point: Point) -> Sample:
        raise OracleError("not stored")


class Answers(NamedTuple):
    """What an oracle said to a plan.

    Attributes:
      samples: one a point of the plan, None where there is none.
      shipped: how many came with the package.
      bought: how many were asked for now, or earlier, on this machine.
      failures: points that the oracle failed on, one line each.
    """

    samples: list[Sample | None]
    shipped: int
    bought: int
    failures: list[str]


def answer(oracle: Oracle, plan: Plan, purchases: int, processes: int) -> Answers:
    """The oracle's answers: shipped ones, and `purchases` at most of the missing ones.

    What was bought before counts as bought, but costs nothing.

    Raises:
      UserError: points are to be bought of an oracle that is not installed.
      RunError: the disk refuses.
    """
    stored = collect(_Shipped(oracle), plan.points, cache=None, processes=0, progress=False)
    samples = dict(stored.answers)
    wanted = [point for point in plan.in_turn() if point not in samples][:purchases]
    failures: dict[Point, str] = {}
    if wanted:
        bought = collect(oracle, wanted, cache=default_cache(), processes=processes)
        samples |= bought.answers
        failures = bought.failures
    return Answers(
        samples=[samples.get(point) for point in plan.points],
        shipped=len(stored.answers),
        bought=len(samples) - len(stored.answers),
        failures=[f"{p.m}x{p.k}x{p.n} on {p.accelerator}: {why}" for p, why in failures.items()],
    )
