"""Search: constraints that converge, Pareto sets by counting, exact choices by brute force."""

from __future__ import annotations

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesign.architecture import Architecture, Tower
from codesign.constraints import check_config
from codesign.cost import build_table
from codesign.cost.estimate import estimate
from codesign.cost.model import Costs
from codesign.errors import UserError
from codesign.overrides import config_to_json, load_config
from codesign.scenario import Scenario
from codesign.search.grid import (
    Choice,
    best_accelerator,
    neighbours,
    roundings,
    without_parts,
)
from codesign.search.lagrangian import AugmentedLagrangian
from codesign.search.objectives import (
    METRIC,
    OBJECTIVES,
    FunctionLimit,
    Limits,
    excess,
    feasible,
    is_objective,
    least_index,
    metric,
    objective,
    spread_targets,
)
from codesign.search.pareto import hypervolume, pareto_front
from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices

pytestmark = pytest.mark.usefixtures("quick_compilation")

SCENARIO = Scenario(clock_mhz=100.0, dram_gb=0.001, inferences_per_s=20.0, hours_per_day=24.0)
SPACE = DesignSpace(
    base=Architecture(
        vision=Tower(1, 8, 1, 8),
        text=Tower(1, 8, 1, 8),
        patch=2,
        image=8,
        channels=1,
        context=10,
        projection=32,
        head_dim=8,
        vocab=32,
    ),
    vision=TowerChoices((1, 2, 3), (8, 16), (1, 2), (16, 32)),
    text=TowerChoices((1, 2), (8, 16), (1, 2), (16, 32)),
    accelerator=AcceleratorChoices((1,), (4, 8), (2, 4), (4, 8), (8,), (1 / 64, 1 / 32)),
)
LARGEST = SPACE.steps[:8]
_THREE = TowerChoices((1, 2, 3), (8, 16, 24), (1, 2, 3), (16, 32, 48))
THREES = dataclasses.replace(SPACE, vision=_THREE, text=_THREE, sparsity=((0.5, 0.6, 0.7),))


@pytest.fixture(scope="module")
def table():
    return build_table(SPACE, SCENARIO)


def costs(**values):
    fields = {f.name: 1.0 for f in dataclasses.fields(Costs) if f.name != "breakdown"}
    return Costs(**{k: jnp.asarray(v, jnp.float32) for k, v in (fields | values).items()})


def test_lagrangian_finds_the_constrained_minimum_and_its_multiplier():
    """Least x^2 with x >= 1: x = 1 and, by 2 x = y, the multiplier y = 2."""
    lagrangian = AugmentedLagrangian(stiffness=2.0, rate=0.05)

    def step(carry, _):
        x, y = carry
        over = lambda x: (1 - x)[None]  # noqa: E731
        slope = jax.grad(lambda x: x**2 + lagrangian.penalty(y, over(x)))(x)
        return (x - 0.05 * slope, lagrangian.update(y, over(x))), None

    start = (jnp.asarray(-3.0), lagrangian.init(1))
    (x, y), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=3000))(start)
    assert float(x) == pytest.approx(1, abs=1e-3) and float(y[0]) == pytest.approx(2, abs=1e-3)


def test_a_constraint_that_is_met_adds_nothing():
    lagrangian = AugmentedLagrangian(stiffness=2.0, rate=0.05)
    idle, met = lagrangian.init(3), jnp.array([-0.1, -5.0, 0.0])
    value, slope = jax.value_and_grad(lambda g: lagrangian.penalty(idle, g))(met)
    assert float(value) == 0 and not np.any(slope)
    np.testing.assert_array_equal(lagrangian.update(idle, met), idle)
    y = jnp.array([1.0, 0.05, 0.5])
    decayed = lagrangian.update(y, met)
    np.testing.assert_allclose(decayed, [0.99, 0.0, 0.5], rtol=1e-6)


def test_penalty_gradient_is_the_pushed_multiplier_and_the_finite_difference():
    lagrangian = AugmentedLagrangian(stiffness=3.0, rate=0.1)
    y, over = jnp.array([0.0, 0.7, 0.2, 1.5]), jnp.array([0.4, 0.3, -0.5, -0.2])
    penalty = jax.jit(lagrangian.penalty)
    slope = jax.grad(penalty, argnums=1)(y, over)
    np.testing.assert_allclose(slope, np.maximum(0, y + 3 * over), rtol=1e-6)
    for i, h in enumerate(0.01 * np.eye(4)):
        difference = (penalty(y, over + h) - penalty(y, over - h)) / 0.02
        assert float(slope[i]) == pytest.approx(float(difference), abs=1e-4)


def test_feasible_is_every_limit_and_a_finite_latency():
    many = costs(latency_s=[1.0, 2.0, 3.0, math.inf], area_mm2=[1.0, 1.0, 1.0, 0.0])
    got = feasible(many, Limits())
    np.testing.assert_array_equal(got, [True, True, True, False])
    np.testing.assert_array_equal(feasible(many, Limits(latency_s=2.0))[:3], [True, True, False])
    assert not np.any(feasible(many, Limits(latency_s=2.0, area_mm2=0.5)))
    assert bool(feasible(costs(), Limits(1.0, 1.0, 1.0)))
    assert not bool(feasible(costs(), Limits(1.0, 1.0, 0.999)))


def test_excess_is_the_logarithm_of_cost_over_bound():
    one = costs(latency_s=2.0, energy_j=5.0, operational_kgco2e=3.0, embodied_kgco2e=1.0, tops=4.0)
    limits = Limits(latency_s=1.0, tops=8.0)
    rest = [math.log(2), -math.log(2)]
    for mode, cost in (("carbon", 4.0), ("latency", 2.0), ("energy", 5.0)):
        assert float(metric(one, mode)) == cost == float(getattr(one, METRIC[mode]))
        got = excess(one, limits, mode, 4.0)
        np.testing.assert_allclose(got, [math.log(cost / 4), *rest], rtol=1e-6, atol=1e-7)
    assert excess(one, Limits(), "carbon", 4.0).shape == (1,)


def test_targets_are_even_in_the_logarithm():
    targets = spread_targets(2.0, 0.1, 0.9, 5)
    assert targets[0] == pytest.approx(0.2) and targets[-1] == pytest.approx(1.8)
    np.testing.assert_allclose(np.diff(np.log(targets)), math.log(9) / 4)
    assert spread_targets(2.0, 0.1, 0.9, 1) == [0.2]


def test_pareto_front_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.integers(0, 6, size=(12, 2)).astype(float)  # ties and equals happen
        expected = [
            not any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for c, a in points)
            for cost, accuracy in points
        ]
        assert pareto_front(points[:, 0].tolist(), points[:, 1].tolist()) == expected
    assert pareto_front([], []) == [] and pareto_front([1.0, 1.0], [0.5, 0.5]) == [True, True]


def test_hypervolume_by_hand():
    box = {"worst_cost": 100.0, "best_cost": 1.0, "worst_accuracy": 0.5}
    assert hypervolume([], [], **box) == 0
    assert hypervolume([1.0], [1.0], **box) == pytest.approx(1)
    assert hypervolume([10.0], [0.75], **box) == pytest.approx(0.25)
    assert hypervolume([10.0, 1.0], [1.0, 0.75], **box) == pytest.approx(0.75)
    assert hypervolume([10.0, 50.0], [0.75, 0.75], **box) == pytest.approx(0.25)
    # What lies beyond the best sides is clipped to them: never more than the whole box.
    assert hypervolume([0.01], [1.0], **box) == pytest.approx(1)
    assert hypervolume([0.01, 10.0], [0.75, 1.0], **box) == pytest.approx(0.75)
    for outside in ((100.0, 0.9), (200.0, 0.9), (10.0, 0.5), (10.0, 0.2)):
        assert hypervolume(*([x] for x in outside), **box) == 0


def test_hypervolume_by_counting_cells():
    rng = np.random.default_rng(1)
    cost, accuracy = np.exp(rng.uniform(0, 3, 6)), rng.uniform(0.6, 1, 6)
    logs, rights = np.meshgrid((np.arange(600) + 0.5) / 200, 0.6 + (np.arange(400) + 0.5) / 1000)
    dominated = np.zeros_like(logs, bool)
    for c, a in zip(cost, accuracy, strict=True):
        dominated |= (np.log(c) <= logs) & (a >= rights)
    got = hypervolume(cost, accuracy, worst_cost=math.exp(3), best_cost=1.0, worst_accuracy=0.6)
    assert got == pytest.approx(dominated.mean(), abs=5e-3)


def brute_best(indices, mode, limits):
    """Flat index and cost of the best chip, one `estimate` at a time."""
    architecture = SPACE.architecture_at(indices)
    best = (None, math.inf)
    chips = itertools.product(*(range(n + 1) for n in SPACE.steps[8:]))
    for flat, chip in enumerate(chips):
        found = estimate(architecture, SPACE.accelerator_at(np.array(chip)), SCENARIO)
        bounds = ((found.latency_s, limits.latency_s), (found.area_mm2, limits.area_mm2))
        met = all(limit is None or cost <= limit for cost, limit in bounds)
        if met and getattr(found, METRIC[mode]) < best[1]:
            best = (flat, getattr(found, METRIC[mode]))
    return best


@pytest.mark.parametrize(
    "mode", ["carbon", *(pytest.param(x, marks=pytest.mark.slow) for x in ("latency", "energy"))]
)
def test_best_accelerator_is_that_of_brute_force(mode, table):
    every = table.on_every_accelerator(jnp.asarray(LARGEST))
    middle = Limits(
        latency_s=float(np.median(every.latency_s)) * 1.001,
        area_mm2=float(np.median(every.area_mm2)) * 1.001,
    )
    rng = np.random.default_rng(0)
    architectures = [LARGEST, 0 * LARGEST, *rng.integers(0, LARGEST + 1, size=(2, 8))]
    seen = set()
    for indices, limits in itertools.product(architectures, (Limits(), middle)):
        flat, cost = brute_best(indices, mode, limits)
        choice = best_accelerator(table, jnp.asarray(indices), mode, limits)
        assert float(choice.value) == pytest.approx(cost, rel=1e-5)
        # Chips may cost the same; the one named must cost what it says.
        named = metric(table.on_every_accelerator(jnp.asarray(indices)), mode)
        assert float(named[choice.accelerator]) == pytest.approx(cost, rel=1e-5)
        seen.add(flat)
    assert math.isinf(best_accelerator(table, LARGEST, mode, Limits(area_mm2=1e-9)).value)
    assert len(seen) > 1 or mode != "carbon", "the limits and the architecture matter"


def test_neighbours_are_all_roundings():
    position = np.array([1.4, 0.0, 1.0, 0.5, -0.2, 1.3, 1.0, 0.999])
    got = neighbours(position, LARGEST)
    expected = itertools.product([1, 2], [0], [1], [0, 1], [0], [1], [1], [0, 1])
    assert sorted(map(tuple, got.tolist())) == sorted(expected)


def least_value(table, indices, limits):
    return float(best_accelerator(table, jnp.asarray(indices), "carbon", limits).value)


@pytest.mark.parametrize("share", [0.4, 0.8, 2.0])
def test_roundings_meet_target_and_limits_nearest_first(share, table):
    every = table.on_every_accelerator(jnp.asarray(LARGEST))
    limits = Limits(latency_s=float(np.median(every.latency_s)) * 1.001)
    small, large = (least_value(table, i, limits) for i in (0 * LARGEST, LARGEST))
    target = small + share * (large - small)
    position = np.array([1.3, 0.6, 0.2, 0.9, 0.5, 1.0, 0.0, 0.7])
    found, choice = roundings(table, position, target, "carbon", limits)
    within = [
        tuple(i) for i in neighbours(position, LARGEST) if least_value(table, i, limits) <= target
    ]
    assert within and sorted(map(tuple, found.tolist())) == sorted(within)
    far = np.abs(found - position).sum(axis=-1)
    assert (np.diff(far) >= 0).all()
    for indices, chip, value in zip(found[:8], *choice, strict=False):
        costs = estimate(
            SPACE.architecture_at(indices),
            SPACE.accelerator_at(np.asarray(table.accelerator_indices(chip))),
            SCENARIO,
        )
        assert costs.carbon_kgco2e == pytest.approx(float(value), rel=1e-5)
        assert costs.carbon_kgco2e <= target * (1 + 1e-5)
        assert costs.latency_s <= limits.latency_s


@pytest.mark.slow
def test_roundings_that_cost_too_much_give_way_to_any_a_choice_smaller(table):
    """Not to those alone that are smaller in every dimension."""
    position = np.array([1.04, 0.6, 0.2, 0.9, 0.5, 1.0, 0.9, 0.7])
    costs = [least_value(table, i, Limits()) for i in neighbours(position, LARGEST)]
    # The DRAM's package and the PHY, the same for all, are most of what a network costs here.
    target = min(costs) - 0.01 * (max(costs) - min(costs))
    found, choice = roundings(table, position, target, "carbon", Limits())
    low, high = np.maximum(np.floor(position) - 1, 0), np.ceil(position)
    every = itertools.product(*(range(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)))
    within = [i for i in every if least_value(table, np.array(i), Limits()) <= target]
    assert within and sorted(map(tuple, found.tolist())) == sorted(within)
    assert (choice.value <= target).all()
    smaller = np.floor(position) - found > 0
    assert smaller.any(axis=1).all() and not smaller[0].all()
    assert (np.diff(np.abs(found - position).sum(axis=-1)) >= 0).all()


def test_roundings_lower_a_position_that_costs_too_much(table):
    small, large = (least_value(table, i, Limits()) for i in (0 * LARGEST, LARGEST))
    lower = np.maximum(LARGEST - 1, 0)
    lowered = least_value(table, lower, Limits())
    target = lowered + 0.01 * (large - lowered)
    assert small < target < large
    found, choice = roundings(table, LARGEST.astype(float), target, "carbon", Limits())
    assert len(found) and (choice.value <= target).all() and (found <= LARGEST).all()
    none, _ = roundings(table, LARGEST.astype(float), 0.9 * small, "carbon", Limits())
    assert len(none) == 0


@given(
    st.lists(st.tuples(*(st.integers(0, 2),) * 8, st.integers(0, 2)), min_size=1, max_size=60),
)
def test_what_is_part_of_another_network_is_left_out(rows):
    """Smaller by a choice in one dimension; a sparser network is part of a denser one."""
    networks = np.unique(np.array(rows), axis=0)
    numbers = np.arange(len(networks))
    kept, choice = without_parts(THREES, networks, Choice(numbers, numbers + 0.5))
    rest = {tuple(row) for row in networks.tolist()}

    def has_larger(row):
        larger = ((*row[:i], row[i] + (1 if i < 8 else -1), *row[i + 1 :]) for i in range(len(row)))
        return any(other in rest for other in larger)

    wanted = [i for i, row in enumerate(networks.tolist()) if not has_larger(tuple(row))]
    assert kept.tolist() == networks[wanted].tolist()
    assert choice.accelerator.tolist() == wanted and (choice.value - 0.5).tolist() == wanted


# ---- objectives as arguments ---------------------------------------------------------------


def energy_twice_j(costs):
    return 2 * costs.energy_j


@pytest.mark.parametrize(
    ("mode", "name", "key", "value"),
    [
        ("carbon", "carbon", "carbon_kgco2e", 4.0),
        ("energy_j", "energy", "energy_j", 5.0),
        ("area", "area", "area_mm2", 7.0),
        ("tops", "tops", "tops", 1.5),
        ("edp", "edp", "edp_js", 10.0),
        ("carbon-delay", "carbon-delay", "carbon_delay_kgco2es", 8.0),
        ("latency^2*energy", "latency2-energy1", "latency2_energy1", 20.0),
        ("carbon^.5 * latency ^ 1.5", "carbon0.5-latency1.5", "carbon0_5_latency1_5", 2 * 2**1.5),
        (energy_twice_j, "energy-twice", "energy_twice_j", 10.0),
    ],
)
def test_any_cost_product_or_function_is_an_objective(mode, name, key, value):
    one = costs(
        latency_s=2.0,
        energy_j=5.0,
        area_mm2=7.0,
        tops=1.5,
        operational_kgco2e=3.0,
        embodied_kgco2e=1.0,
    )
    sought = objective(mode)
    assert (sought.name, sought.key) == (name, key)
    assert float(metric(one, mode)) == pytest.approx(value)
    got = excess(one, Limits(), mode, value / 3)
    np.testing.assert_allclose(got, [math.log(3)], rtol=1e-6)


def test_any_cost_or_function_is_a_limit():
    one = costs(
        latency_s=2.0,
        energy_j=5.0,
        area_mm2=7.0,
        tops=1.5,
        operational_kgco2e=3.0,
        embodied_kgco2e=1.0,
    )
    held = {f.name for f in dataclasses.fields(Limits)} - {"functions"}
    assert held == {row.key for row in OBJECTIVES}  # every named objective is a limit as well
    for row in OBJECTIVES:
        value = float(row(one))
        met, missed = (Limits(**{row.key: value * share}) for share in (1.001, 0.999))
        assert bool(feasible(one, met)) and not bool(feasible(one, missed))
        assert missed.active() == {row.key: value * 0.999}
    own = Limits(functions=(FunctionLimit(energy_twice_j, 9.0),))
    assert own.active() == {"energy_twice_j": 9.0} and not bool(feasible(one, own))
    np.testing.assert_allclose(excess(one, own, "tops", 1.5)[1], math.log(10 / 9), rtol=1e-6)


@pytest.mark.parametrize(
    "mode", ["carbn", "carbon^", "carbon*", "carbon^0", "carbon^3*latency^2", "", 3, None]
)
def test_what_is_no_objective_is_refused_before_a_run(mode):
    assert not is_objective(mode)
    config = load_config("quickstart")
    bad = dataclasses.replace(config, targets=dataclasses.replace(config.targets, mode=mode))
    with pytest.raises(UserError, match=r"--targets\.mode is .*: it must be 'carbon', 'latency'"):
        check_config(bad)


def test_products_of_small_costs_do_not_vanish():
    tiny = np.array([1.1e-12, 1e-12, 2e-12], np.float32)
    many = jax.tree.map(np.asarray, costs(latency_s=tiny, energy_j=tiny))
    assert least_index(objective("energy^2*latency^2"), many, tiny > 0) == 1
    with pytest.raises(ValueError, match=r"add up to 800; only their ratios matter, so divide"):
        objective("carbon^400*latency^400")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda c: c.breakdown["latency_s"]["gemm"], "KeyError: 'latency_s'; .* without breakdown"),
        (lambda c: [][2], "IndexError"),
        (lambda c: jnp.log(c.energy_j - 2), r"no finite number on 1 of the 2 accelerators"),
        (lambda c: np.stack([c.energy_j, c.latency_s]), r"shape \[2, 3\] for 3 accelerators"),
    ],
)
def test_a_function_that_gives_no_number_for_each_is_told_in_one_line(function, message):
    many = costs(latency_s=np.ones(3), energy_j=np.arange(1.0, 4.0))
    allowed = np.array([False, True, True])
    with pytest.raises(UserError, match=message) as caught:
        least_index(objective(function), many, allowed)
    assert "\n" not in str(caught.value)
    assert least_index(objective(lambda c: 2.0), many, allowed) == 1


def test_an_unknown_objective_is_told_the_nearest():
    with pytest.raises(ValueError, match="there is no objective 'carbn'; did you mean 'carbon'"):
        objective("carbn*latency")


def test_objectives_on_the_command_line_and_in_config_files(tmp_path):
    assert load_config("quickstart", ["--targets.mode", "edp"]).targets.mode == "edp"
    path = tmp_path / "own.py"
    path.write_text(
        "import dataclasses\n"
        "from codesign.configs.quickstart import config\n"
        "def wasted_j(costs):\n    return costs.energy_j - 1e-9\n"
        "targets = dataclasses.replace(config.targets, mode=wasted_j)\n"
        "config = dataclasses.replace(config, targets=targets)\n"
    )
    own = load_config(path.as_posix())
    check_config(own)
    assert config_to_json(own)["targets"]["mode"] == "own.wasted_j"
    again = load_config(path.as_posix(), ["--targets.mode", "carbon^0.5*latency^0.5"])
    check_config(again)
    assert again.targets.mode == "carbon^0.5*latency^0.5"
