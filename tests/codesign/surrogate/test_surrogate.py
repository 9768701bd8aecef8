"""Ensembles: what they learn, their derivatives, files, and where they would buy samples."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.accelerator import Accelerator
from codesign.cost.technology import technology
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices
from codesign.surrogate import acquisition, features, files, gradients
from codesign.surrogate.config import FitConfig
from codesign.surrogate.fitting import Job, fit_many
from codesign.surrogate.models import Analytic, Prediction, base, forward, init_params
from codesign.surrogate.points import Points, Samples, observe, predict, take
from simulators.events import event, with_events
from simulators.products import in_full

pytestmark = pytest.mark.usefixtures("quick_compilation")

COUNT = 160
# Points of every batch that the slow model maps again: one shape compiles once.
SHOWN = 40
CONFIG = FitConfig(members=3, hidden=(16,), steps=600, checks=20, batch_size=32, lr=1e-2)


@pytest.fixture(scope="module")
def points():
    """Random GEMMs on random accelerators of the default grid."""
    rng = np.random.default_rng(0)
    grid = AcceleratorChoices()
    draw = lambda name: rng.choice(getattr(grid, name), COUNT).astype(np.float32)  # noqa: E731
    chips = Accelerator(*(draw(f.name) for f in dataclasses.fields(Accelerator)))
    tech = jax.jit(jax.vmap(lambda chip: technology(chip, Scenario())))(chips)
    m = rng.choice([50, 77, 197], COUNT).astype(np.float32)
    k, n = (64.0 * rng.integers(1, 40, (2, COUNT))).astype(np.float32)
    return Points(m, k, n, chips, jax.tree.map(np.asarray, tech))


@pytest.fixture(scope="module")
def seen(points):
    return {kind: observe(kind, points) for kind in ("learned", "corrected")}


@pytest.fixture(scope="module")
def truth(points, seen):
    """The analytic model, distorted by something smooth that a network can know."""
    analytic = base(seen["corrected"])
    wave = 0.3 * np.sin(np.log(points.k)) + 0.05 * np.log(points.accelerator.l2_kib / 256)
    return Prediction(analytic.cycles * np.exp(wave), analytic.energy_pj * np.exp(0.2 - wave))


@pytest.fixture(scope="module")
def ensembles(seen, truth):
    """Of each kind one fitted to the first 120 points."""
    rows = [Job(np.arange(120), seed) for seed in (0, 1)]
    return {kind: fit_many(kind, seen[kind], truth, rows, CONFIG) for kind in seen}


def errors(predicted, truth, rows):
    """Mean logarithmic errors of cycles and energy, [2]."""
    pairs = zip(predicted, truth, strict=True)
    return np.array([np.abs(np.log(p[rows] / t[rows])).mean() for p, t in pairs])


def test_correction_learns_a_distortion_and_the_learned_one_the_whole(seen, truth, ensembles):
    held_out = np.arange(120, COUNT)
    analytic = errors(base(seen["corrected"]), truth, held_out)
    bound = errors(base(seen["learned"]), truth, held_out)
    corrected = errors(ensembles["corrected"][0].at(seen["corrected"]), truth, held_out)
    learned = errors(ensembles["learned"][0].at(seen["learned"]), truth, held_out)
    assert (corrected < 0.4 * analytic).all()
    assert (learned < 0.5 * bound).all()


def test_nothing_to_correct_leaves_the_analytic_model(points, seen):
    analytic = base(seen["corrected"])
    few = Job(np.arange(12), 0)
    (ensemble,) = fit_many("corrected", seen["corrected"], analytic, [few], CONFIG)
    assert errors(ensemble.at(seen["corrected"]), analytic, np.arange(COUNT)).max() < 1e-3


def test_same_seed_same_weights_other_seed_others(seen, truth, ensembles):
    rows = [Job(np.arange(120), seed) for seed in (0, 1)]
    again = fit_many("learned", seen["learned"], truth, rows, CONFIG)
    for a, b in zip(again, ensembles["learned"], strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    kernels = [e.params["last"]["kernel"][...] for e in again]
    assert not np.array_equal(*kernels)


def test_too_few_samples(seen, truth):
    with pytest.raises(ValueError, match="5 samples are too few to fit: at least 8"):
        fit_many("learned", seen["learned"], truth, [Job(np.arange(5), 0)], CONFIG)


def test_accelerators_predict_in_full_float32():
    params = init_params(jax.random.key(0), 5, (8, 8))
    assert in_full(lambda x: forward(params, x, (8, 8)), jnp.ones((3, 5)))


def test_mapped_equals_one_by_one(points, ensembles):
    few = take(points, np.arange(SHOWN))
    mapped = predict(ensembles["learned"][0], few)
    alone = jax.jit(lambda surrogate, point: surrogate(*point))
    for i in range(4):
        one = alone(ensembles["learned"][0], take(few, i))
        np.testing.assert_allclose(np.array(one), np.array([x[i] for x in mapped]), rtol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "corrected"])
def test_inputs_say_all_that_points_do(kind, points, seen, ensembles):
    rows = np.arange(SHOWN)
    from_points = predict(ensembles[kind][0], take(points, rows))
    from_inputs = ensembles[kind][0].at(take(seen[kind], rows))
    np.testing.assert_allclose(np.array(from_inputs), np.array(from_points), rtol=1e-4)


def test_base_of_the_corrected_one_is_the_analytic_model(points, seen):
    rows = np.arange(SHOWN)
    found = base(take(seen["corrected"], rows))
    expected = predict(Analytic(), take(points, rows))
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=1e-4)


def test_derivatives_of_the_learned_one_are_finite_differences(points, ensembles):
    # Along factors that no padding depends on: elsewhere the derivative is the mean slope.
    with jax.enable_x64(True):
        doubled = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), ensembles["learned"][0])
        point = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), take(points, 3))

        def log(shift):
            l2, glb, dram = shift
            chip = dataclasses.replace(
                point.accelerator,
                l2_kib=point.accelerator.l2_kib * jnp.exp(l2),
                glb_mib=point.accelerator.glb_mib * jnp.exp(glb),
            )
            tech = with_events(point.tech, dram_pj=point.tech.read_pj["dram"] * jnp.exp(dram))
            return jnp.log(jnp.stack(doubled(point.m, point.k, point.n, chip, tech)))

        log = jax.jit(log)
        step = 1e-5 * np.eye(3)
        differences = np.stack([(log(s) - log(-s)) / 2e-5 for s in step], axis=-1)
        derivatives = jax.jit(jax.jacfwd(log))(np.zeros(3))
    assert np.abs(derivatives).max() > 1e-3
    np.testing.assert_allclose(derivatives, differences, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["learned", "corrected"])
def test_slopes_over_a_short_path_are_differences(kind, points, ensembles):
    """Half a per cent of DRAM bandwidth more: short enough for one straight line."""
    half = SHOWN // 2
    few = take(points, np.arange(half))
    more = with_events(
        few.tech, dram_words_per_cycle=few.tech.words_per_cycle["dram"] * np.float32(1.005)
    )
    both = jax.tree.map(lambda a, b: np.concatenate([a, b]), few, few._replace(tech=more))
    pairs = gradients.Pairs(np.arange(half), np.arange(half) + half, np.zeros(half, int))
    path = gradients.path_inputs(kind, both, pairs)
    ensemble = ensembles[kind][0]
    expected = gradients.change(predict(ensemble, both), pairs)
    assert np.abs(expected[:, 0]).max() > 2e-3
    for found in gradients.slopes(ensemble, path).values():
        np.testing.assert_allclose(found, expected, rtol=0.05, atol=2e-5)


def test_files_hold_surrogate_and_samples_exactly(tmp_path, points, truth, ensembles):
    path = tmp_path / "surrogate.npz"
    saved = files.Fitted(
        surrogate=ensembles["corrected"][0],
        samples=Samples(points, jax.tree.map(np.asarray, truth)),
        oracle="toy",
        fingerprint="toy-1",
        config=CONFIG,
    )
    files.save(path, saved)
    found = files.load(path, AcceleratorChoices())
    assert (found.oracle, found.fingerprint, found.config) == ("toy", "toy-1", CONFIG)
    assert jax.tree.structure(found.surrogate) == jax.tree.structure(saved.surrogate)
    for a, b in zip(*map(jax.tree.leaves, (found.surrogate, saved.surrogate)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(found.samples.points.factors, points.factors)
    np.testing.assert_array_equal(found.samples.truth, truth)
    static = [p.tech.static_pj for p in (found.samples.points, points)]
    np.testing.assert_allclose(*static, rtol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["surrogate.npz"]


def test_files_of_an_earlier_version_and_of_other_precisions(tmp_path, points, truth, ensembles):
    """The first files named bandwidths otherwise, not their columns, and had no precision."""
    path = tmp_path / "surrogate.npz"
    word = np.float32(2)
    wide = dataclasses.replace(
        points.tech,
        word_bytes=points.tech.word_bytes * word,
        partial_sum_words=points.tech.partial_sum_words / word,
    )
    for tech in (points.tech, wide):
        samples = Samples(points._replace(tech=tech), jax.tree.map(np.asarray, truth))
        files.save(path, files.Fitted(ensembles["learned"][0], samples, "toy", "toy-1", CONFIG))
        found = files.load(path).samples.points.tech
        for name in ("word_bytes", "partial_sum_words", "l2_read_pj", "dram_words_per_cycle"):
            np.testing.assert_allclose(event(found, name), event(tech, name), rtol=1e-6)
    samples = Samples(points, jax.tree.map(np.asarray, truth))
    files.save(path, files.Fitted(ensembles["learned"][0], samples, "toy", "toy-1", CONFIG))
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    assert about.pop("constants")[-1] == "precision_bits"
    about["bounds"]["l2_words_per_cycle"] = about["bounds"].pop("l2_bytes_per_cycle")
    arrays |= {
        "about": np.array(json.dumps(about)),
        "samples/constants": arrays["samples/constants"][:, :-1],
    }
    new = files.load(path)
    np.savez(path, **arrays)
    old = files.load(path, AcceleratorChoices())
    for a, b in zip(*map(jax.tree.leaves, (old.samples, new.samples)), strict=True):
        np.testing.assert_array_equal(a, b)


def one_line(path, expected, *args):
    with pytest.raises(UserError, match=expected) as caught:
        files.load(path, *args)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_files_of_another_kind_version_or_space(tmp_path, monkeypatch, points, truth, ensembles):
    path = tmp_path / "surrogate.npz"
    one_line(path, "cannot read")
    path.write_bytes(b"not a zip")
    one_line(path, "no fitted surrogate")
    np.savez(path, about=np.array("{}"))
    one_line(path, "no fitted surrogate")
    samples = Samples(points, jax.tree.map(np.asarray, truth))
    files.save(path, files.Fitted(ensembles["learned"][0], samples, "toy", "toy-1", CONFIG))
    path.with_name("torn.npz").write_bytes(path.read_bytes()[:2000])
    one_line(path.with_name("torn.npz"), "no fitted surrogate")
    small = dataclasses.replace(AcceleratorChoices(), pe_x=(4, 8))
    one_line(path, "another space: it knows pe_x from 32 to 256, not 4 to 8", small)
    monkeypatch.setattr(features, "VERSION", features.VERSION + 1)
    one_line(path, "fitted on version 2 of the features")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, points, truth, ensembles):
    """A file, and what it holds."""
    path = tmp_path_factory.mktemp("fitted") / "surrogate.npz"
    samples = Samples(points, jax.tree.map(np.asarray, truth))
    files.save(path, files.Fitted(ensembles["learned"][0], samples, "toy", "toy-1", CONFIG))
    return path, files.load(path)


def _about(**changes):
    def change(arrays):
        about = json.loads(str(arrays["about"]))
        arrays["about"] = np.array(json.dumps(about | changes))

    return change


def _array(name, change):
    def changed(arrays):
        arrays[name] = change(arrays[name])

    return changed


DAMAGE = {
    "text": (lambda a: a.update(about=np.array("{")), "is not JSON: "),
    "levels": (lambda a: a.update(about=np.array("[" * 10**5)), "nested too deeply"),
    "bytes": (lambda a: a.update(about=np.zeros(3)), "is no fitted surrogate"),
    "no about": (lambda a: a.pop("about"), "is no fitted surrogate"),
    "format": (_about(format=[1]), "is no fitted surrogate"),
    "version": (_about(features="x" * 1000), "fitted on version 'xxx"),
    "kind": (_about(kind=["learned"]), r"kind is \['learned'\], expected 'learned' or 'corrected'"),
    "hidden": (_about(hidden=48), "hidden is 48, expected a list"),
    "huge": (_about(hidden=[10**30]), r"hidden\[0\] is 10{10,}.*, expected a whole number"),
    "other layers": (_about(hidden=[5]), r"damaged surrogate \(params.* has shape"),
    "more layers": (_about(hidden=[48, 48, 48]), "damaged surrogate"),
    "fit": (_about(fit={"lr": "x"}), "fit.lr is 'x', expected a finite number, above 0"),
    "fit together": (_about(fit={"steps": 7}), "fit: steps, 7, must be a multiple of checks"),
    "constants": (_about(constants=["a"]), "samples/constants has shape"),
    "NaN": (_array("mean", lambda x: x * np.nan), "mean is no array of finite numbers"),
    "factors": (_array("samples/factors", lambda x: x[:, 1:]), "samples/factors has shape"),
    "truth": (_array("samples/truth", lambda x: x.astype(int)), "samples/truth is int"),
    "unit": (_array("unit", lambda x: x[:1]), "unit has shape"),
    "gone": (lambda a: a.pop("scale"), "damaged surrogate .'scale'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files(fitted, tmp_path, case):
    change, message = DAMAGE[case]
    with np.load(fitted[0]) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(tmp_path / "x.npz", **arrays)
    one_line(tmp_path / "x.npz", message)


@pytest.mark.slow
def test_mutations(fitted, tmp_path):
    """Of a file's bytes: the same surrogate, or one line."""
    data, rng, path = fitted[0].read_bytes(), np.random.default_rng(0), tmp_path / "x.npz"
    lines = []
    for _ in range(300):
        # Most of a file is numbers; what tells of them stands around zip's and NumPy's marks.
        marks = [data.find(mark, int(rng.integers(len(data)))) for mark in (b"PK", b"NUMPY")]
        place = max(0, marks[int(rng.integers(2))] + int(rng.integers(100)))
        path.write_bytes(data[:place] + rng.bytes(int(rng.integers(1, 4))) + data[place + 3 :])
        try:
            found = files.load(path)
        except UserError as error:
            lines.append(str(error).splitlines())
        else:
            told = [(f.surrogate, f.samples, f.config) for f in (found, fitted[1])]
            assert told[0][2] == told[1][2]
            for a, b in zip(*map(jax.tree.leaves, told), strict=True):
                np.testing.assert_array_equal(a, b)
    assert len(lines) > 150 and all(len(line) == 1 for line in lines)


def test_disagreement_leads_to_what_was_never_seen(points, seen, truth):
    near = np.flatnonzero(points.k <= 640)
    far = np.flatnonzero(points.k >= 1600)
    (ensemble,) = fit_many("learned", seen["learned"], truth, [Job(near, 0)], CONFIG)
    pool = np.concatenate([near, far])
    score = acquisition.disagreement(ensemble, take(seen["learned"], pool))
    chosen = pool[acquisition.choose(score, acquisition.positions(seen["learned"])[pool], 10)]
    assert len(set(chosen)) == 10
    assert np.isin(chosen, far).sum() >= 8


def test_choice_spreads_out():
    # Three clusters; the best one's points have the ten highest scores of all.
    where = np.repeat([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], 10, axis=0)
    score = np.repeat([3.0, 2.0, 1.0], 10) + np.linspace(0, 0.1, 30)
    chosen = acquisition.choose(score, where, 3)
    assert sorted(chosen // 10) == [0, 1, 2]
    assert chosen[0] == np.argmax(score)
    assert sorted(acquisition.choose(score, where, 99)) == list(range(30))


def test_where_nothing_fits_cycles_are_infinite_and_the_rest_is_finite(points, ensembles):
    # A local buffer of three bytes holds no two copies of any tile.
    chip = Accelerator(1, 256, 64, 0.003, 32, 2)
    chips = jax.tree.map(lambda x: np.full(SHOWN, x, np.float32), chip)
    batch = take(points, np.arange(SHOWN))._replace(accelerator=chips)
    found = predict(ensembles["corrected"][0], batch)
    assert np.isinf(found.cycles).all() and np.isfinite(found.energy_pj).all()


def test_config_refuses_what_cannot_work():
    for bad in ({"members": 0}, {"validation": 1.0}, {"steps": 70, "checks": 20}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            FitConfig(**bad)
