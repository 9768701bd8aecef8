"""Between the cost model's words and the oracles' bytes.

A `Technology` counts in words of the scenario's precision, because a mapping's formulas do;
an oracle counts in bytes, because buffers and ports have so many, whatever a word is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from codesign.cost.technology import PARTIAL_SUM_BYTES, Technology

# Energies of a word in a Technology, of a byte in an oracle's constants.
_MOVED = (
    "register_read_pj", "register_write_pj", "l2_read_pj", "l2_write_pj", "glb_read_pj",
    "glb_write_pj", "dram_pj",
)  # fmt: skip
_RATES = {
    "dram_bytes_per_cycle": "dram_words_per_cycle",
    "glb_bytes_per_cycle": "glb_words_per_cycle",
}


def constants_of(tech: Technology) -> dict[str, Any]:
    """The fields of an oracle's `Constants` by name, arrays [...] like the technology's leaves."""
    word = tech.word_bytes
    return {
        "mac_pj": tech.mac_pj,
        **{name: getattr(tech, name) / word for name in _MOVED},
        "static_pj": tech.static_pj,
        **{name: getattr(tech, words) * word for name, words in _RATES.items()},
        "precision_bits": 8 * word,
    }


def technology_of(constants: Mapping[str, np.ndarray]) -> Technology:
    """Technology of an oracle's constants by name, [N] each; leaves float32 [N].

    All energy over time is in its leakage; lane_pj, which GEMMs do not use, is 0.
    """
    word = constants["precision_bits"] / 8
    moved: dict[str, Any] = {name: constants[name] * word for name in _MOVED}
    rates: dict[str, Any] = {words: constants[name] / word for name, words in _RATES.items()}
    technology = Technology(
        mac_pj=constants["mac_pj"],
        lane_pj=0.0,
        leakage_pj=constants["static_pj"],
        word_bytes=word,
        partial_sum_words=PARTIAL_SUM_BYTES / word,
        **moved,
        **rates,
    )
    like = constants["static_pj"]
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(x), like.shape), technology)
