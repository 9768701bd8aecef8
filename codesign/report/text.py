"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeGuard

from codesign.quantities import fixed_unit_of, unit_of

MISSING = "–"

_PREFIXES = {-15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
_NO_PREFIX = ("mm²", "")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number that a float can hold; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int of hundreds of digits
        return False


def si(value: Any, unit: str, digits: int = 3) -> str:
    """A number with an SI prefix: si(1.23e-3, "s") is "1.23 ms".

    Args:
      value: in `unit`; None or NaN gives a dash.
      unit: "s", "J", "kgCO2e", ...; one that starts with "kg" is counted in grams;
        "mm²" takes no prefix.
      digits: significant digits.
    """
    if not is_number(value):
        return MISSING
    # Decimal, because the grams of 1e308 kg are beyond a float.
    number = Decimal(value)
    if unit.startswith("kg"):
        number, unit = number.scaleb(3), unit[1:]
    if number == 0 or unit in _NO_PREFIX:
        return f"{significant(number, digits)} {unit}".rstrip()
    # Rounding first, so that 999.7 ms becomes 1.00 s.
    number = Decimal(f"{number:.{digits - 1}e}")
    exponent = _exponent(number, unit)
    return f"{significant(number.scaleb(-exponent), digits)} {_PREFIXES[exponent]}{unit}"


def amount(key: str, value: Any) -> str:
    """A quantity by its name in files, with its unit: "1.23 ms", "20.0 TOPS"."""
    fixed = fixed_unit_of(key)
    if fixed is not None and is_number(value):
        return f"{significant(value, 3)} {fixed}"
    return si(value, unit_of(key) or "")


def prefixed(value: float, unit: str) -> tuple[str, Decimal]:
    """The unit that `si` shows a value in, and what a number in `unit` is multiplied by for it."""
    kilo, unit = (3, unit[1:]) if unit.startswith("kg") else (0, unit)
    if unit in _NO_PREFIX or not value:
        return unit, Decimal(1).scaleb(kilo)
    exponent = _exponent(Decimal(f"{Decimal(value).scaleb(kilo):.2e}"), unit)
    return f"{_PREFIXES[exponent]}{unit}", Decimal(1).scaleb(kilo - exponent)


def _exponent(number: Decimal, unit: str) -> int:
    """Of the prefix that a number takes."""
    # A tonne of CO2e is not a MgCO2e to anyone, so grams stop at kilo.
    top = 3 if unit.startswith("g") else max(_PREFIXES)
    return min(max(number.adjusted() // 3 * 3, min(_PREFIXES)), top)


def significant(value: float | Decimal, digits: int) -> str:
    """`value` with `digits` significant digits, in plain notation where it is short."""
    if value == 0:
        return "0"
    number = Decimal(f"{Decimal(value):.{digits - 1}e}")
    if not Decimal("1e-4") <= abs(number) < Decimal("1e7"):
        return f"{number:.{digits - 1}e}"
    return f"{number:.{max(digits - 1 - number.adjusted(), 0)}f}"


def percent(value: Any) -> str:
    """A share as per cent: percent(0.5) is "50.0 %"; None gives a dash."""
    return f"{_hundredfold(value)} %" if is_number(value) else MISSING


def share(value: Any, standard_error: Any) -> str:
    """A measured share with its standard error where that is known: "96.7 ± 0.9 %"."""
    if not is_number(value) or not is_number(standard_error):
        return percent(value)
    return f"{_hundredfold(value)} ± {_hundredfold(standard_error)} %"


def share_of(value: Any, count: Any) -> str:
    """A share measured on `count` trials, with its binomial standard error."""
    return share(value, standard_error(value, count))


def standard_error(value: Any, count: Any) -> float | None:
    """Of a share measured on `count` trials, binomial; None where it is not known."""
    if not is_number(value) or not is_number(count) or not (0 <= value <= 1 <= count):
        return None
    # No better known than where one trial had ended otherwise.
    variance = max(value * (1 - value), (count - 1) / count**2)
    return math.sqrt(variance / count)


def percent_interval(interval: Sequence[float] | None) -> str:
    """An interval of a share: "94.1 to 98.2 %"; None gives a dash."""
    if interval is None:
        return MISSING
    low, high = interval
    return f"{_hundredfold(low)} to {_hundredfold(high)} %"


def _hundredfold(value: float) -> str:
    hundredfold = Decimal(value) * 100
    return f"{hundredfold:.1f}" if abs(hundredfold) < 10**7 else f"{hundredfold:.2e}"


def duration(seconds: Any) -> str:
    """A time as people say it: "4.20 s", "3 min 05 s", "2 h 07 min"."""
    if not is_number(seconds):
        return MISSING
    if not 60 <= seconds < 1e9:
        return si(seconds, "s")
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
