"""Checks of single values: each returns the value, or says in one line what is wrong with it.

They take what JSON holds and what Python callers pass: numbers, NumPy and JAX scalars.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from codesign.cost import tables
from codesign.errors import UserError, did_you_mean
from codesign.printable import short_repr

Check = Callable[[Any, str], Any]
# Larger than any real dimension, small enough that no product overflows.
LARGEST_DIMENSION = 1_000_000


def show(value: Any) -> str:
    """A value as JSON, cut to 40 characters."""
    try:
        text = json.dumps(value, default=str)
    except ValueError:  # what has more digits than Python writes
        return short_repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def number(value: Any, where: str) -> float:
    """A finite number.

    Raises:
      UserError: anything else, or a number that no field of a design can have.
    """
    value = _plain(value)
    # JSON's true is Python's 1; 1e999 is read as infinity.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{where}: expected a number, got {show(value)}")
    if isinstance(value, float) and math.isnan(value):  # whole numbers may be beyond floats
        raise UserError(f"{where}: expected a finite number, got NaN")
    if abs(value) > 1e18:
        raise UserError(f"{where}: {show(value)} is far out of range; give a smaller number")
    return float(value)


def _plain(value: Any) -> Any:
    """The Python number of a NumPy or JAX scalar; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def dimension(value: Any, where: str) -> int:
    """A whole number from 1 to a million."""
    found = number(value, where)
    if not found.is_integer():
        raise UserError(f"{where}: expected a whole number, got {show(value)}")
    if not 1 <= found <= LARGEST_DIMENSION:
        raise UserError(f"{where}: expected 1 to {LARGEST_DIMENSION}, got {show(value)}")
    return int(found)


def optional(check: Check) -> Check:
    """A check for a value that may be left out, as None."""

    def or_none(value: Any, where: str) -> Any:
        return None if value is None else check(value, where)

    return or_none


def one_name(*names: str) -> Check:
    """A check for one of a few words."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise UserError(f"{where}: unknown {show(value)}; {did_you_mean(str(value), names)}")
        return value

    return check


def flag(value: Any, where: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise UserError(f"{where}: expected true or false, got {show(value)}")
    return value


def whole_up_to(most: int, least: int = 0) -> Check:
    """A check for a whole number from `least` to `most`."""

    def check(value: Any, where: str) -> int:
        found = number(value, where)
        if not found.is_integer() or not least <= found <= most:
            wanted = f"a whole number of {least} to {most}"
            raise UserError(f"{where}: expected {wanted}, got {show(value)}")
        return int(found)

    return check


def known(value: Any) -> list[Any]:
    """What can be looked at: each element of an array, none of what is traced."""
    if isinstance(value, jax.core.Tracer):
        return []
    return list(value.ravel()) if isinstance(value, (np.ndarray, jax.Array)) else [value]


def within(value: Any, where: str, low: float, high: float) -> None:
    """Refuses a number, or an array of them, that is not positive or not within bounds.

    A traced value cannot be looked at, and passes.
    """
    if isinstance(value, jax.core.Tracer):
        return
    try:
        found = np.asarray(value)
    except ValueError:  # lists of several lengths
        found = np.asarray(None)
    if found.dtype.kind in "bcOSU":
        raise UserError(f"{where}: expected a number, got {show(value)}")
    if not bool(np.all((found > 0) & (found >= low) & (found <= high))):
        least = f"{low:g}" if low else "more than 0"
        raise UserError(f"{where}: expected {least} to {high:g}, got {show(value)}")


def power_of_two(value: Any, where: str, low: float, high: float) -> int | float:
    """A power of two within bounds, themselves powers of two; an int where it is whole."""
    found = number(value, where)
    exponent = math.log2(max(found, low))
    around = (2.0 ** math.floor(exponent), 2.0 ** math.ceil(exponent))
    nearest = sorted({min(max(x, low), high) for x in around})
    if found not in nearest:
        shown = " or ".join(f"{x:g}" for x in nearest)
        raise UserError(
            f"{where}: {found:g} is off the grid; use {shown} "
            f"(a power of two from {low:g} to {high:g})"
        )
    return int(found) if found.is_integer() else found


def positive(value: Any, where: str, most: float = math.inf, zero: bool = False) -> float:
    """A number above 0, or from 0 where `zero`, and at most `most`."""
    found = number(value, where)
    if found > most or found < 0 or (found == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        top = f" and at most {most:g}" if most < math.inf else ""
        raise UserError(f"{where}: expected {least}{top}, got {show(value)}")
    return found


def share(value: Any, where: str) -> float:
    """A number above 0 and at most 1."""
    return positive(value, where, most=1)


def hours(value: Any, where: str) -> float:
    """Hours of a day, above 0."""
    return positive(value, where, most=24)


def plausible(
    low: float, high: float, unit: str, mistaken: Mapping[str, float], zero: bool = False
) -> Check:
    """A check for a number that the world can have, which asks about slips of the unit.

    Args:
      low, high: bounds, in `unit`.
      unit: the field's unit.
      mistaken: by another unit, how many `unit` it has.
      zero: whether 0 is allowed too.
    """

    def check(value: Any, where: str) -> float:
        found = positive(value, where, zero=zero)
        if low <= found <= high or (found == 0 and zero):
            return found
        meant = [
            f"; if it is in {other}, that is {found * factor:g} {unit}"
            for other, factor in mistaken.items()
            if low <= found * factor <= high
        ]
        raise UserError(
            f"{where}: {found:g} {unit} is not plausible ({low:g} to {high:g} are)"
            + "".join(meant[:1])
        )

    return check


def in_table(table: str, column: str) -> Check:
    """A check for a name (or number) in a column of a table in cost/data."""

    def check(value: Any, where: str) -> Any:
        value = _plain(value)
        names = tuple(tables.table(table, column))
        # The column is text; 22 and 22.0 both mean its "22".
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if isinstance(value, bool) or text not in names:
            raise UserError(f"{where}: unknown {show(value)}; {did_you_mean(text, names)}")
        return value if isinstance(value, str) else int(value)

    return check


def number_in_table(table: str, column: str, unit: str) -> Check:
    """A check for one of the numbers of a column of a table in cost/data, which it lists."""

    def check(value: Any, where: str) -> int:
        found = number(value, where)
        known = sorted(int(x) for x in tables.table(table, column))
        if found not in known:
            listed = ", ".join(map(str, known))
            raise UserError(f"{where}: unknown {show(value)}; choose from {listed} {unit}")
        return int(found)

    return check


def name_in_tables(*columns: tuple[str, str]) -> Check:
    """A check for a name in any of some columns, (table, column), of tables in cost/data."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise UserError(f"{where}: expected a name, got {show(value)}")
        known = dict.fromkeys(name for column in columns for name in tables.table(*column))
        if value not in known:
            raise UserError(f"{where}: unknown {show(value)}; {did_you_mean(value, known)}")
        return value

    return check


def one_of(*values: int) -> Check:
    """A check for one of a few whole numbers."""

    def check(value: Any, where: str) -> int:
        value = _plain(value)
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not plain or value not in values:
            *head, last = map(str, values)
            raise UserError(f"{where}: expected {', '.join(head)} or {last}, got {show(value)}")
        return int(value)

    return check


def electricity(table: str) -> Check:
    """A check for an electricity grid: a location of `table`, or its gCO2e/kWh.

    The cleanest sources emit some 10 g, coal 820 to 1,200; 0 is electricity free of carbon.
    """
    named = in_table(table, "location")
    of_number = plausible(
        1, 2000, "gCO2e/kWh", {"kg": 1e3, "gCO2e/MWh": 1e-3, "mg": 1e-3}, zero=True
    )

    def check(value: Any, where: str) -> str | float:
        checked: str | float = (named if isinstance(value, str) else of_number)(value, where)
        return checked

    return check
