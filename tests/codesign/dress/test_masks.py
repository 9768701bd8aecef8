"""Masks against brute force in exact fractions, by hand, and their invariants."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from codesign.dress.budgets import Size, global_counts, row_average
from codesign.dress.masks import (
    Masks,
    apply,
    check_floor,
    checked_sparsities,
    densities,
    loss_weights,
    subnet_masks,
)
from codesign.dress.rows import RowSpec, chosen, flax_spec, from_rows, to_rows
from codesign.dress.trees import kernel_specs, named_leaves

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPES = {"dense": (5, 4), "conv": (2, 2, 2, 3), "stacked": (2, 3, 2, 2), "twin": (5, 4)}
SPECS = {
    "dense": flax_spec((5, 4)),
    "conv": flax_spec((2, 2, 2, 3)),
    "stacked": RowSpec(stacked=(0,), inputs=(1,), outputs=(2, 3)),
    "twin": flax_spec((5, 4)),
}
TOTAL = 20 + 24 + 24 + 20
FLOOR = 1


@functools.partial(jax.jit, static_argnames=("budget", "floor"))
def masks_of(params: Any, sparsities: Any, budget: str = "global", floor: int = FLOOR) -> Masks:
    return subnet_masks(params, SPECS, sparsities, budget=budget, floor=floor)


@jax.jit
def all_subnets(params: Any, masks: Masks) -> list[Any]:
    return [apply(params, masks, k) for k in range(-1, 3)]


def random_kernels(seed: int, largest: int | None = None) -> dict[str, np.ndarray]:
    """Normal kernels, or integers up to `largest`, of which many are equal."""
    rng = np.random.default_rng(seed)
    if largest is None:
        return {n: rng.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
    return {n: rng.integers(-largest, largest + 1, s).astype(np.float32) for n, s in SHAPES.items()}


# Brute force, in exact fractions and with loops.


def rows_by_loops(kernel: np.ndarray, spec: RowSpec) -> np.ndarray:
    layers, rows, length = spec.sizes(kernel.shape)
    out = np.zeros((layers, rows, length), kernel.dtype)
    for index in np.ndindex(*kernel.shape):
        place = []
        for axes in (spec.stacked, spec.outputs, spec.inputs):
            position = 0
            for axis in axes:
                position = position * kernel.shape[axis] + index[axis]
            place.append(position)
        out[tuple(place)] = kernel[index]
    return out


def ranked(row: np.ndarray) -> list[int]:
    """Positions in falling order of magnitude; equal ones in their own order."""
    return sorted(range(len(row)), key=lambda i: (-abs(row[i]), i))


def expected_counts(
    kernels: dict[str, np.ndarray], sparsity: float, budget: str, floor: int
) -> dict[str, list[int]]:
    rows = {name: rows_by_loops(kernels[name], SPECS[name]) for name in SPECS}
    if budget == "uniform":
        return {
            name: [max(r.shape[2] - round(np.float32(sparsity) * np.float32(r.shape[2])), floor)]
            * len(r)
            for name, r in rows.items()
        }
    entries = []
    for name, r in rows.items():
        for layer, its_rows in enumerate(r):
            falling = np.array([[abs(row[i]) for i in ranked(row)] for row in its_rows])
            for j in range(falling.shape[1]):
                average = sum(map(Fraction, falling[:, j].tolist())) / len(its_rows)
                entries.append((j >= floor, -average, len(entries), name, layer, len(its_rows)))
    left = TOTAL - round(sparsity * TOTAL)
    counts = {name: [0] * len(r) for name, r in rows.items()}
    for beyond_floor, _, _, name, layer, cost in sorted(entries):
        left -= cost
        if left < 0 and beyond_floor:
            break
        counts[name][layer] += 1
    return counts


def expected_levels(
    kernels: dict[str, np.ndarray], sparsities: list[float], budget: str, floor: int
) -> dict[str, np.ndarray]:
    levels = {}
    for name, spec in SPECS.items():
        rows = rows_by_loops(kernels[name], spec)
        found = np.zeros(rows.shape, np.uint8)
        for sparsity in sparsities:
            counts = expected_counts(kernels, sparsity, budget, floor)[name]
            for layer, row in np.ndindex(*rows.shape[:2]):
                found[layer, row, ranked(rows[layer, row])[: counts[layer]]] += 1
        levels[name] = found
    return levels


three_sparsities = (
    st.lists(st.integers(0, 78), min_size=3, max_size=3, unique=True)
    .map(sorted)
    .map(lambda hundredths: [h / 100 for h in hundredths])
)


@pytest.mark.parametrize("budget", ["global", "uniform"])
@given(seed=st.integers(0, 10**6), largest=st.integers(0, 40), sparsities=three_sparsities)
@settings(max_examples=15, deadline=None)
def test_masks_are_those_of_brute_force(
    budget: str, seed: int, largest: int, sparsities: list[float]
) -> None:
    kernels = random_kernels(seed, largest)
    masks = masks_of(kernels, jnp.asarray(sparsities), budget)
    for name, expected in expected_levels(kernels, sparsities, budget, FLOOR).items():
        np.testing.assert_array_equal(
            to_rows(np.asarray(masks.levels[name]), SPECS[name]), expected
        )


@given(seed=st.integers(0, 10**6), sparsities=three_sparsities)
@settings(max_examples=15, deadline=None)
def test_rows_are_balanced_nested_and_within_budget(seed: int, sparsities: list[float]) -> None:
    kernels = random_kernels(seed)
    masks = masks_of(kernels, jnp.asarray(sparsities))
    kept_of_subnet = []
    share = jax.jit(densities)(masks)
    whole, *subnets = all_subnets(kernels, masks)
    np.testing.assert_array_equal(whole["dense"], kernels["dense"])
    for k, (sparsity, sparse) in enumerate(zip(sparsities, subnets, strict=True)):
        kept = {n: to_rows(np.asarray(sparse[n]), SPECS[n]) != 0 for n in SPECS}
        for name, rows in kept.items():
            per_row = rows.sum(axis=2)
            assert (per_row == np.asarray(masks.counts[name][k])[:, None]).all()
            assert per_row.min() >= FLOOR
            if k:
                assert not (rows & ~kept_of_subnet[-1][name]).any()
        kept_of_subnet.append(kept)
        total = sum(int(rows.sum()) for rows in kept.values())
        budget = TOTAL - round(sparsity * TOTAL)
        most_rows = max(SPECS[n].sizes(SHAPES[n])[1] for n in SPECS)
        assert budget - most_rows < total <= budget
        assert float(share[k]) == pytest.approx(total / TOTAL)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    kernels, rng = random_kernels(seed), np.random.default_rng(seed + 1)
    sparsities = jnp.asarray([0.3, 0.5, 0.7])
    before = masks_of(kernels, sparsities)
    order = {"dense": rng.permutation(4), "conv": rng.permutation(3), "twin": rng.permutation(4)}
    shuffled = {n: kernels[n][..., order[n]] if n in order else kernels[n] for n in kernels}
    after = masks_of(shuffled, sparsities)
    for name, levels in before.levels.items():
        expected = levels[..., order[name]] if name in order else levels
        np.testing.assert_array_equal(after.levels[name], expected)


def test_averages_are_exact_and_do_not_depend_on_order() -> None:
    rng = np.random.default_rng(0)
    average = jax.jit(row_average)
    for scale in (1.0, 1e-30):
        magnitudes = (scale * np.abs(rng.normal(size=(301, 7)))).astype(np.float32)
        exact = magnitudes.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(average(magnitudes), exact, rtol=1e-6)
        shuffled = magnitudes[rng.permutation(301)]
        np.testing.assert_array_equal(average(magnitudes), average(shuffled))
    assert not average(jnp.zeros((301, 7))).any()


def test_masks_by_hand() -> None:
    # Two rows (columns of the kernel) of four weights; the first 3 beats the second.
    kernel = np.array([[1, -4], [3, 2], [-3, 0], [2, 1]], np.float32)
    spec = flax_spec(kernel.shape)
    masks = jax.jit(lambda params: subnet_masks(params, {"k": spec}, (0.0, 0.25, 0.5, 0.75)))(
        {"k": kernel}
    )
    by_hand = [[1, 4], [4, 3], [3, 1], [2, 2]]
    np.testing.assert_array_equal(masks.levels["k"], by_hand)
    np.testing.assert_array_equal(masks.counts["k"][:, 0], [4, 3, 2, 1])
    np.testing.assert_array_equal(
        apply({"k": kernel}, masks, 2)["k"], [[0, -4], [3, 2], [-3, 0], [0, 0]]
    )
    np.testing.assert_array_equal(apply({"k": kernel}, masks, -1)["k"], kernel)


def test_the_global_ranking_by_hand() -> None:
    # Costs are 2 and 3 weights an entry; in falling order a0 b0 a1 b1 b2 a2: 2 5 7 10 13 15.
    averages = {"a": jnp.array([[9.0, 5, 1]]), "b": jnp.array([[6.0, 4, 2]])}
    rows = {"a": 2, "b": 3}
    sparsities = jnp.array([0.0, 2 / 15, 3 / 15, 8 / 15, 14 / 15])  # 15 13 12 7 1 weights left
    counts = jax.jit(lambda a, s: global_counts(a, rows, s, 1))(averages, sparsities)
    np.testing.assert_array_equal(counts["a"][:, 0], [3, 2, 2, 2, 1])
    np.testing.assert_array_equal(counts["b"][:, 0], [3, 3, 2, 1, 1])  # the last: the floor


def test_equal_averages_go_to_the_first_layer() -> None:
    averages = {"a": jnp.ones((1, 2)), "b": jnp.ones((2, 2))}
    sparsities = jnp.array([0.0, 1 / 6, 0.5, 4 / 6])
    count = jax.jit(lambda a, s: global_counts(a, {"a": 1, "b": 1}, s, 1))
    counts = count(averages, sparsities)
    np.testing.assert_array_equal(counts["a"], [[2], [2], [1], [1]])
    np.testing.assert_array_equal(counts["b"], [[2, 2], [2, 1], [1, 1], [1, 1]])


def test_one_compilation_for_all_weights_and_sparsities() -> None:
    traced = []

    def refresh(kernels: Any, sparsities: Any) -> Masks:
        traced.append(None)
        return subnet_masks(kernels, {"dense": SPECS["dense"]}, sparsities)

    jitted = jax.jit(refresh)
    for seed, sparsities in ((0, [0.2, 0.4]), (1, [0.5, 0.75])):
        kernels = {"dense": random_kernels(seed)["dense"]}
        masks = jitted(kernels, jnp.asarray(sparsities))
        expected = [(20 - round(20 * s)) // 4 * 4 for s in sparsities]  # 4 rows
        assert [int(jnp.sum(masks.levels["dense"] > k)) for k in range(2)] == expected
    assert len(traced) == 1


@pytest.mark.parametrize(("budget", "once"), [("uniform", 0), ("global", 1)])
def test_a_kernel_is_sorted_once_for_all_subnets(budget: Any, once: int) -> None:
    kernels = random_kernels(0)

    def sorts(sparsities: list[float]) -> int:
        """Sorts in the traced program, those of the inner ones included."""
        masks = functools.partial(subnet_masks, specs=SPECS, sparsities=sparsities, budget=budget)
        todo, found = [jax.make_jaxpr(masks)(kernels).jaxpr], 0
        while todo:
            for equation in todo.pop().eqns:
                found += equation.primitive.name in ("sort", "top_k")
                todo += jaxprs_in_params(equation.params)
        return found

    assert sorts([0.5]) == sorts([0.1, 0.5, 0.6, 0.7]) == len(SPECS) + once


def test_a_vmapped_sweep_equals_its_members() -> None:
    kernels, sweep = random_kernels(3, 5), jnp.array([[0.1, 0.2, 0.5], [0.2, 0.6, 0.7]])
    together = jax.jit(jax.vmap(lambda s: subnet_masks(kernels, SPECS, s).levels))(sweep)
    for i, sparsities in enumerate(sweep):
        for name, levels in masks_of(kernels, sparsities).levels.items():
            np.testing.assert_array_equal(together[name][i], levels)


def test_narrow_weights_are_ranked_as_they_are() -> None:
    dtype = "bfloat16"
    narrow = {n: jnp.asarray(k, dtype) for n, k in random_kernels(4).items()}
    wide = {n: k.astype(jnp.float32) for n, k in narrow.items()}
    sparsities = jnp.asarray([0.2, 0.5, 0.8])
    of_narrow, of_wide = masks_of(narrow, sparsities), masks_of(wide, sparsities)
    for name in SPECS:
        np.testing.assert_array_equal(of_narrow.levels[name], of_wide.levels[name])
        assert apply(narrow, of_narrow, 1)[name].dtype == dtype


def test_gradients_stop_at_the_mask() -> None:
    kernels = {"dense": jnp.asarray(random_kernels(5)["dense"]), "bias": jnp.ones(4)}
    masks = masks_of(random_kernels(5), jnp.asarray([0.2, 0.4, 0.6]))
    masks = Masks({"dense": masks.levels["dense"]}, {"dense": masks.counts["dense"]})

    @jax.jit
    def gradient(k: jax.Array) -> Any:
        return jax.grad(lambda p: sum(jnp.sum(v) for v in apply(p, masks, k).values()))(kernels)

    for k in range(2):
        slope = gradient(jnp.int32(k))
        np.testing.assert_array_equal(slope["dense"], masks.levels["dense"] > k)
        np.testing.assert_array_equal(slope["bias"], np.ones(4))


@pytest.mark.parametrize("k", [-2, 2, 255, 256, 0.5, np.int64(2), jnp.int32(255), jnp.int32(-2)])
def test_a_subnet_that_is_none_is_refused(k: Any) -> None:
    params = {"dense": {"kernel": jnp.arange(1.0, 21.0).reshape(5, 4)}}
    masks = subnet_masks(params, kernel_specs(params), (0.2, 0.6))
    with pytest.raises(ValueError, match=f"no subnet {k}; the family has 0 to 1, and -1 keeps all"):
        apply(params, masks, k)
    jax.jit(apply)(params, masks, 1)


def test_loss_weights() -> None:
    np.testing.assert_allclose(loss_weights((0.5, 0.75), 1.0), [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(loss_weights((0.0, 0.5, 0.9), 0.0), [1 / 3] * 3, rtol=1e-6)
    np.testing.assert_allclose(loss_weights((0.0, 0.5), 2.0), [0.8, 0.2], rtol=1e-6)


@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(SPECS)))
@settings(max_examples=10, deadline=None)
def test_rows_and_back(seed: int, name: str) -> None:
    kernel = random_kernels(seed)[name]
    rows = to_rows(kernel, SPECS[name])
    np.testing.assert_array_equal(rows, rows_by_loops(kernel, SPECS[name]))
    np.testing.assert_array_equal(from_rows(rows, SPECS[name], kernel.shape), kernel)


class Cnn(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(2, 3, (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.head = nnx.Linear(3, 5, rngs=rngs)


def test_names_are_the_same_in_every_kind_of_tree() -> None:
    state = nnx.state(Cnn(nnx.Rngs(0)), nnx.Param)
    names = ["conv.bias", "conv.kernel", "head.bias", "head.kernel", "norm.bias", "norm.scale"]
    assert sorted(named_leaves(state)) == names
    assert sorted(named_leaves(nnx.to_pure_dict(state))) == names
    assert sorted(named_leaves(named_leaves(state))) == names
    assert list(named_leaves({"a": {"value": 1}, "b": [2]})) == ["a.value", "b.0"]
    assert kernel_specs(state) == {
        "conv.kernel": RowSpec((), (0, 1, 2), (3,)),
        "head.kernel": RowSpec((), (0,), (1,)),
    }
    assert list(kernel_specs(state, exclude=("head*",))) == ["conv.kernel"]


def test_a_state_keeps_its_kind_when_masked() -> None:
    model = Cnn(nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    specs = kernel_specs(params)
    sparse = jax.jit(lambda p: apply(p, subnet_masks(p, specs, (0.5, 0.75)), 1))(params)
    nnx.update(model, sparse)
    assert float(jnp.mean(model.conv.kernel[...] != 0)) <= 0.5
    np.testing.assert_array_equal(model.norm.scale[...], np.ones(3))


@pytest.mark.parametrize(
    ("sparsities", "message"),
    [
        ((), "there are 0 sparsities"),
        ((0.5, 1.0), r"sparsity 1 is outside \[0, 1\)"),
        ((-0.1, 0.5), "sparsity -0.1 is outside"),
        ((float("nan"),), "sparsity nan is outside"),
        ((0.5, 0.5), "sparsity 0.5 follows 0.5; give them strictly increasing"),
        ((0.9, 0.5), "sparsity 0.5 follows 0.9"),
    ],
)
def test_bad_sparsities(sparsities: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_sparsities(sparsities)
    with pytest.raises(ValueError, match=message):
        subnet_masks(random_kernels(0), SPECS, sparsities)


def test_bad_floors() -> None:
    sizes = {"a": Size(1, 10, 20), "b": Size(2, 5, 4)}
    with pytest.raises(ValueError, match="the floor is 0"):
        check_floor(sizes, (0.5,), 0)
    with pytest.raises(ValueError, match="a row of b has 4 weights, fewer than the floor of 5"):
        check_floor(sizes, (0.5,), 5)
    message = "sparsity 0.95 leaves 12 weights, fewer than the floor of 1 a row, 20 in all"
    with pytest.raises(ValueError, match=message):
        check_floor(sizes, (0.5, 0.95), 1)


def test_bad_kernels() -> None:
    kernels = random_kernels(0)
    with pytest.raises(ValueError, match="nothing to prune"):
        subnet_masks(kernels, {}, (0.5,))
    with pytest.raises(ValueError, match=r"conv: a kernel of shape \(2, 2, 2, 3\) has 4 axes"):
        subnet_masks(kernels, {"conv": SPECS["dense"]}, (0.5,))
    with pytest.raises(ValueError, match="no parameter is called 'dens'; did you mean 'dense'"):
        subnet_masks(kernels, {"dens": SPECS["dense"]}, (0.5,))
    with pytest.raises(ValueError, match="budget is 'local', expected one of global, uniform"):
        subnet_masks(kernels, SPECS, (0.5,), budget="local")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a.kernel: .*\(3, 4, 5\) is neither Dense .* nor Conv"):
        kernel_specs({"a": {"kernel": np.zeros((3, 4, 5))}})
    given_spec = {"a.kernel": RowSpec((), (0,), (1, 2))}
    assert kernel_specs({"a": {"kernel": np.zeros((3, 4, 5))}}, specs=given_spec) == given_spec


def test_bad_patterns() -> None:
    names = ["vision.fc1", "vision.fc2", "text.fc1"]
    assert chosen(names, ("vision.*",), ("*.fc2",)) == ["vision.fc1"]
    with pytest.raises(ValueError, match=r"no kernel is called 'vision.fc3'; did you mean"):
        chosen(names, ("vision.fc3",))
    with pytest.raises(ValueError, match=r"'\*.query'; choose from vision.fc1, vision.fc2, text"):
        chosen(names, exclude=("*.query",))
    with pytest.raises(ValueError, match="nothing to prune"):
        chosen(names, ("vision.*",), ("*.fc?",))
