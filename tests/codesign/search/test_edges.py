"""Optima on an edge of their choices, by hand."""

from __future__ import annotations

from codesign.search.edges import edges
from codesign.space import Dimension

CHIPS = (
    Dimension("accelerator.cores", (1, 2, 4)),
    Dimension("accelerator.pe_x", (32, 64, 128)),
    Dimension("accelerator.glb_mib", (1, 2, 4)),
    Dimension("accelerator.channels", (2,)),
)


def test_each_edge_is_named_once_with_its_designs_and_how_to_look_further():
    designs = {"least-carbon": (1, 64, 1, 2), "least-energy": (2, 128, 1, 2)}
    pe_x, glb = edges(CHIPS, designs)
    # One core is the least there is, two channels are the only choice; 64 columns lie inside.
    assert (pe_x.dimension, pe_x.designs, pe_x.least) == (
        "accelerator.pe_x",
        ("least-energy",),
        False,
    )
    assert pe_x.wider == (32, 64, 128, 256)
    assert glb.designs == ("least-carbon", "least-energy") and glb.wider == (0.5, 1, 2, 4)
    assert glb.line("space.glb_mib") == (
        "accelerator.glb_mib 1 of least-carbon, least-energy is the least of its choices; look "
        "further by --space.glb_mib '[0.5,1,2,4]'"
    )


def test_nothing_lies_behind_a_bound():
    ends = (
        Dimension("accelerator.cores", (8, 16)),
        Dimension("accelerator.pe_y", (1, 1024)),
        Dimension("accelerator.glb_mib", (1 / 64, 64)),
        Dimension("vision.layers", (1, 4)),
    )
    at_bounds = {"a": (16, 1024, 1 / 64, 1), "b": (16, 1, 64, 1)}
    assert edges(ends, at_bounds) == []
    (layers,) = edges(ends, {"large": (16, 1024, 64, 4)})
    assert layers.dimension == "vision.layers" and layers.wider == (1, 4, 8)


def test_below_what_memories_have_data_for_nobody_is_sent():
    l2 = (Dimension("accelerator.l2_kib", (4, 8)),)
    assert edges(l2, {"a": (4,)}) == []
    (wider,) = edges(l2, {"a": (8,)})
    assert wider.wider == (4, 8, 16)


def test_inside_there_is_nothing_to_say():
    assert edges(CHIPS, {"least-carbon": (2, 64, 2, 2)}) == []
    assert edges(CHIPS, {}) == []
