"""What waits in the global buffer: live sets and traffic against counts by hand, and slopes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.cost.handover import held_share, held_words, taken_words
from codesign.cost.model import run_workload
from codesign.cost.technology import technology
from codesign.costing import costing_of, default_scenario
from codesign.scenario import Scenario
from codesign.workload.blocks import Block, block_operators
from codesign.workload.memory import activation_words, attention_words, ffn_words
from codesign.workload.operators import Live

pytestmark = pytest.mark.usefixtures("quick_compilation")

# A block whose weights are small beside its activations, so that no mapping fetches anything twice.
TOKENS, WIDTH, HEAD, HIDDEN = 64, 8, 8, 16
TINY = Block(WIDTH, 1, HEAD, HIDDEN)
WEIGHTS = 4 * WIDTH * HEAD + 2 * WIDTH * HIDDEN
CHIP = Accelerator(1, 8, 4, 16, 32, 1, 2)
MIB = 2.0**20


def test_what_waits_by_hand():
    """Three quarters of 1,000 words: all of 750, none of 1,500, half of 1,000."""
    live = np.array([10.0, 750.0, 1000.0, 1500.0, 4000.0, np.inf])
    np.testing.assert_allclose(held_words(live, 1000.0), [10, 750, 500, 0, 0, 0])
    np.testing.assert_allclose(held_share(live, 1000.0), [1, 1, 0.5, 0, 0, 0])
    # The largest of what waits, not their sum: one live set holds all operands of its half.
    assert taken_words(Live(750.0, np.inf, 1000.0), 1000.0) == 750


def test_more_room_and_less_alive_hold_a_larger_share():
    live, room = np.meshgrid(np.geomspace(1, 1e7, 41), np.geomspace(1, 1e7, 41), indexing="ij")
    share = np.asarray(held_share(live, room))
    assert (share >= 0).all() and (share <= 1).all()
    assert (np.diff(share, axis=0) <= 1e-6).all() and (np.diff(share, axis=1) >= -1e-6).all()
    assert (held_words(live, room) <= 0.75 * room * (1 + 1e-6)).all()


@pytest.mark.parametrize("live", [900.0, 1200.0, 1400.0])
def test_slopes_of_the_share_are_finite_differences(live):
    for argument, other in ((0, 1000.0), (1, live)):

        def of(x, argument=argument, other=other):
            return held_share(x, other) if argument == 0 else held_share(other, x)

        at = live if argument == 0 else 1000.0
        difference = (float(of(at + 8.0)) - float(of(at - 8.0))) / 16
        assert float(jax.grad(of)(at)) == pytest.approx(difference, rel=1e-3)
    assert float(jax.grad(held_share, argnums=1)(np.inf, 1000.0)) == 0


def most_alive(block: Block, tokens: int) -> tuple[int, int]:
    """The most words alive in either half of a block, by running it step by step."""
    t, heads = tokens, block.heads
    groups = block.kv_heads or heads
    rows = heads // groups * t  # of a product that shares keys
    alive = {"stream": t * block.width}
    most = 0

    def run(makes: dict[str, int], frees: tuple[str, ...] = (), into: tuple[str, ...] = ()) -> None:
        """A step; what it frees goes after it, what it writes `into` goes as it writes."""
        nonlocal most
        for name in into:
            del alive[name]
        alive.update(makes)
        most = max(most, sum(alive.values()))
        for name in frees:
            del alive[name]

    run({"normed": t * block.width})
    run({f"q{g}": rows * block.head_dim for g in range(groups)})
    run({f"k{g}": t * block.head_dim for g in range(groups)})
    run({f"v{g}": t * block.head_dim for g in range(groups)}, frees=("normed",))
    for g in range(groups):
        run({f"s{g}": rows * t})
        run({f"a{g}": rows * block.head_dim}, frees=(f"s{g}",), into=(f"q{g}",))
    run({}, frees=tuple(f"{x}{g}" for g in range(groups) for x in "akv"))
    early, most = most, 0
    run({"normed": t * block.width})
    if block.gated:
        run({"gate": t * block.ffn})
    run({"hidden": t * block.ffn}, frees=("normed",))
    if block.gated:
        run({}, frees=("gate",))
    run({"result": t * block.width}, frees=("hidden",))
    return early, most


@pytest.mark.parametrize("seed", range(8))
def test_live_sets_are_those_of_a_block_run_step_by_step(seed):
    rng = np.random.default_rng(seed)
    groups, per_group = (int(x) for x in rng.integers(1, 5, 2))
    block = Block(
        *(
            int(x)
            for x in (
                rng.integers(1, 200),
                groups * per_group,
                rng.integers(1, 70),
                rng.integers(1, 900),
            )
        ),
        kv_heads=groups,
        gated=bool(seed % 2),
    )
    tokens = int(rng.integers(1, 120))
    early, late = most_alive(block, tokens)
    assert attention_words(block, tokens=tokens) == early
    assert ffn_words(block, tokens=tokens) == late
    assert activation_words(block, tokens=tokens) == max(early, late)


@jax.jit
def _dram_words(glb_mib, operators):
    chip = dataclasses.replace(CHIP, glb_mib=glb_mib)
    tech = technology(jax.tree.map(jnp.float32, chip), Scenario())
    pj = run_workload(operators, chip, tech).energy_pj["dram"]
    return pj / tech.read_pj["dram"]


OPERATORS = block_operators(TINY, tokens=TOKENS).workload


def counted_words(glb_words: float) -> float:
    """Words between DRAM and chip of the tiny block: tensor by tensor, writes and reads."""
    size, scores, hidden = TOKENS * WIDTH, TOKENS * TOKENS, TOKENS * HIDDEN
    early, late = most_alive(TINY, TOKENS)
    a, f = (1 - min(max(1.5 * glb_words / live - 1, 0), 1) for live in (early, late))
    both = max(a, f)
    words = WEIGHTS
    words += 2 * (size + size) * both  # each norm reads the stream and writes what it normed
    words += 3 * (size + size) * a  # queries, keys and values
    words += (2 * size + scores) * a + 2 * scores * a  # their scores; softmax
    words += (scores + size + size) * a  # values
    words += (size + size) * a  # output projection, into the stream
    words += (size + hidden) * f + 2 * hidden * f + (hidden + size) * f
    return words + 3 * size * f  # the residual reads two and writes one


@pytest.mark.parametrize("share", [0.5, 0.7, 0.75, 0.8, 1.0, 1.4, 2.0, 8.0])
def test_traffic_is_that_counted_tensor_by_tensor(share):
    """From a GLB that holds nothing over one that holds part to one that holds it all."""
    early, _ = most_alive(TINY, TOKENS)
    glb_words = share * early
    found = float(_dram_words(glb_words / MIB, OPERATORS))
    assert found == pytest.approx(counted_words(glb_words), rel=2e-3)
    if share > 4 / 3:
        assert found == pytest.approx(WEIGHTS, rel=1e-4)
    everything = float(_dram_words(glb_words / MIB, OPERATORS.through_dram))
    assert everything == pytest.approx(counted_words(0.0), rel=2e-3)


def test_the_slope_of_traffic_in_the_buffer_is_that_of_the_count():
    early, _ = most_alive(TINY, TOKENS)
    at, step = 0.9 * early, 0.01 * early
    slope = jax.jit(jax.grad(lambda glb: _dram_words(glb, OPERATORS)))(at / MIB)
    difference = (counted_words(at + step) - counted_words(at - step)) / (2 * step)
    assert float(slope) / MIB == pytest.approx(difference, rel=0.02)


def test_what_a_cache_holds_crosses_the_dram():
    """Keys and values of a decoder, in a GLB that has room for all activations."""
    operators = block_operators(TINY, tokens=TOKENS, cached=True).workload
    found = float(_dram_words(64 * TOKENS * TOKENS / MIB, operators))
    size = TOKENS * WIDTH
    # All three projections go out as they are of one row of the table; keys and values come.
    assert found == pytest.approx(WEIGHTS + 3 * size + 2 * size, rel=1e-3)


@pytest.mark.slow
def test_a_scenario_may_do_without_and_the_reference_does():
    work = OPERATORS
    chip = dataclasses.replace(CHIP, glb_mib=1.0)

    def words(scenario):
        tech = technology(jax.tree.map(jnp.float32, chip), scenario)
        run = jax.jit(run_workload)(work, jax.tree.map(jnp.float32, chip), tech)
        return float(run.energy_pj["dram"] / tech.read_pj["dram"])

    assert words(Scenario(hand_over=False)) == pytest.approx(counted_words(0.0), rel=2e-3)
    reference = default_scenario("catransformers")
    assert not costing_of(reference).hands_over
    assert words(reference) == words(dataclasses.replace(reference, hand_over=False))
