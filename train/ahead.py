"""Programs compiled before they are called, on other threads.

To compile a step takes seconds to minutes, mostly on one core, while the step before it runs, or
beside another that is compiled. JAX finds what was compiled for arrays of the same shapes and
places when a program is called; the numbers are those of a program that is compiled when called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax

from codesign.termination import UNWAITED


def shapes(tree: Any, shardings: Any = None) -> Any:
    """The tree with shapes, types and places of its arrays in their stead.

    Args:
      tree: arrays, or, with shardings, what has their shapes.
      shardings: where they will be; None: where they are.
    """

    def of(x: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding, weak_type=x.weak_type)

    if shardings is not None:
        return jax.tree.map(of, tree, shardings)

    def as_it_is(x: Any) -> Any:
        # Random keys have no weak types, and are never given up.
        if not (isinstance(x, jax.Array) and hasattr(x, "weak_type")):
            return x
        return of(x, x.sharding if x.committed else None)

    return jax.tree.map(as_it_is, tree)


class Ahead:
    """Compiles programs while a run goes on; the program's end does not wait for them.

    Only where a process runs alone: several would wait for each other in another order.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=UNWAITED)
        self._begun: dict[str, list[Future[Any]]] = {}

    def begin(self, name: str, programs: Callable[[], Iterable[tuple[Any, ...]]]) -> None:
        """Begins to compile some programs; nothing where any of that name were begun before.

        Args:
          name: of them all.
          programs: jitted programs, each with what it will be called with, arrays or their shapes.
        """
        if name in self._begun or jax.process_count() > 1:
            return
        # The arrays themselves may be given up before long.
        self._begun[name] = [
            self._threads.submit(_compile, program, *shapes(given))
            for program, *given in programs()
        ]

    def end(self) -> None:
        """Waits for all that was begun; what hindered it hinders the call of the program too."""
        wait([each for begun in self._begun.values() for each in begun])

    def close(self) -> None:
        """Leaves out what has not begun to compile."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _compile(program: Any, *given: Any) -> None:
    program.lower(*given).compile()
