"""What waits in the global buffer from one operator to the next, and what is left for blocks.

Activations that fit need not cross the DRAM. How much of an operand waits in the global buffer
(GLB) follows from the most that is alive at once while it waits, `workload.operators.Live`, and
from the capacity: nothing where the GLB has half the room or less, all where it has room for all,
and linearly between, so that the slope tells how much a larger buffer or a smaller network would
save. What waits is taken from the room of the mapper's blocks, a quarter of the GLB never.
docs/cost-model.md derives it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.workload.operators import Live

Array = jax.Array
# Share of the GLB that is the mapper's in any case: two chunks of a stream, unfinished sums.
BLOCKS = 0.25
# Least share of an operand's room in a block: it is read in chunks wherever it lies.
_CHUNK = 1 / 64


class Shares(NamedTuple):
    """Shares of the operands of a product that are in the GLB between operators, in [0, 1].

    Attributes:
      input, second, output: of I, of the second operand and of O.
    """

    input: Any = 0.0
    second: Any = 0.0
    output: Any = 0.0

    @property
    def crossing(self) -> Shares:
        """Shares that cross the DRAM.

        None below 0: a quotient of equals is a product with a reciprocal to a compiler, whose
        difference from 1 a fused multiply-add gives exactly, some -3e-8.
        """
        return Shares(*(_at_least(1 - share, 0.0) for share in self))

    @property
    def room(self) -> Shares:
        """Shares of the operands' blocks in the GLB that they need beside what waits there."""
        return Shares(*(_at_least(1 - share, _CHUNK) for share in self))


def _at_least(share: Any, least: float) -> Any:
    return share if isinstance(share, float) else jnp.maximum(share, least)


def held_words(live: Any, glb_words: Any) -> Any:
    """Words that wait in a GLB of so many, out of those that are alive at once.

    Args:
      live: words alive at once; infinite: what waits does so in DRAM. [...].
      glb_words: capacity of the GLB, words; [...].
    """
    room = (1 - BLOCKS) * glb_words
    return jnp.clip(2 * room - live, 0, live)


def held_share(live: Any, glb_words: Any) -> Any:
    """The same as a share of what is alive, in [0, 1]."""
    return held_words(live, glb_words) / live


def shares_of(live: Live, glb_words: Any) -> Shares:
    """Shares of all operands of a product or of an element-wise operator."""
    return Shares(*(held_share(words, glb_words) for words in live))


def taken_words(live: Live, glb_words: Any) -> Any:
    """Words of the GLB that are taken while an operator runs: those of its largest live set."""
    held = [held_words(words, glb_words) for words in live]
    return jnp.maximum(held[0], jnp.maximum(held[1], held[2]))
