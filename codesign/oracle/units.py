"""Between the cost model's words and the oracles' bytes.

A `Technology` counts in words of the scenario's precision, because a mapping's formulas do;
an oracle counts in bytes, because buffers and ports have so many, whatever a word is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from codesign.cost.memories import LEVELS
from codesign.cost.technology import PARTIAL_SUM_BYTES, Technology


def constants_of(tech: Technology) -> dict[str, Any]:
    """The fields of an oracle's `Constants` by name, arrays [...] like the technology's leaves."""
    word = tech.word_bytes
    return {
        "mac_pj": tech.mac_pj,
        **{
            f"{level}_{way}_pj": pj[level] / word
            for level in LEVELS[:-1]
            for way, pj in (("read", tech.read_pj), ("write", tech.write_pj))
        },
        "dram_pj": tech.read_pj["dram"] / word,
        "static_pj": tech.static_pj,
        **{f"{level}_bytes_per_cycle": x * word for level, x in tech.words_per_cycle.items()},
        "precision_bits": 8 * word,
    }


def technology_of(constants: Mapping[str, np.ndarray]) -> Technology:
    """Technology of an oracle's constants by name, [N] each; leaves float32 [N].

    All energy over time is in its leakage; lane_pj, which GEMMs do not use, is 0.
    """
    word = constants["precision_bits"] / 8

    def moved(way: str) -> dict[str, Any]:
        on_chip = {level: constants[f"{level}_{way}_pj"] * word for level in LEVELS[:-1]}
        return on_chip | {"dram": constants["dram_pj"] * word}

    technology = Technology(
        mac_pj=constants["mac_pj"],
        lane_pj=0.0,
        leakage_pj=constants["static_pj"],
        word_bytes=word,
        partial_sum_words=PARTIAL_SUM_BYTES / word,
        read_pj=moved("read"),
        write_pj=moved("write"),
        words_per_cycle={
            level: constants[f"{level}_bytes_per_cycle"] / word for level in ("glb", "dram")
        },
    )
    like = constants["static_pj"]
    return jax.tree.map(lambda x: np.broadcast_to(np.float32(x), like.shape), technology)
