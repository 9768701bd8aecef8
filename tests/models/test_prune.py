from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from codesign.architecture import ELASTIC, TOWERS, Architecture, Tower, clip_vit_b16
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect, Present, TowerDialect
from codesign.models.gates import Gates, TowerGates
from codesign.models.prune import prune, scaled

pytestmark = pytest.mark.usefixtures("quick_compilation")


def random_scores(architecture: Architecture, seed: int = 0) -> Gates:
    rng = np.random.default_rng(seed)

    def tower(t: Tower) -> TowerGates:
        shapes = ((t.layers,), (t.layers, t.heads), (t.layers, t.ffn), (t.width,))
        return TowerGates(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))

    return Gates(tower(architecture.vision), tower(architecture.text))


def best(scores: Any, count: int) -> np.ndarray:
    """Indices of the highest scores, in their original order."""
    return np.sort(np.argsort(np.asarray(scores))[-count:])


def kept_by_hand(model: CLIP, target: Architecture, scores: Gates) -> CLIP:
    """A model of the highest scored units in their original order, picked array by array."""
    graphdef, state = nnx.split(model)
    flat = []
    for path, variable in nnx.to_flat_state(state):
        values, axes = np.asarray(variable[...]), variable.axes
        if path[0] in TOWERS:
            s, t = getattr(scores, path[0]), getattr(target, path[0])
            if "D" in axes:
                values = np.take(values, best(s.channels, t.width), axes.index("D"))
            if "L" in axes:
                layers = best(s.layers, t.layers)
                values = np.stack([values[layer] for layer in layers])
                for letter, of_layers, count in (("H", s.heads, t.heads), ("F", s.ffn, t.ffn)):
                    if letter in axes:
                        values = np.stack(
                            [
                                np.take(one, best(of_layers[layer], count), axes.index(letter) - 1)
                                for one, layer in zip(values, layers, strict=True)
                            ]
                        )
        flat.append((path, variable.replace(jnp.asarray(values))))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def test_pruning_keeps_the_units_of_the_highest_scores(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Any, reference: Callable
) -> None:
    model, scores = random_clip(small), random_scores(small)
    target = dataclasses.replace(small, vision=Tower(2, 7, 2, 5), text=Tower(1, 8, 1, 3))
    pruned = prune(model, target, scores)
    assert pruned.architecture == target
    expected = reference(kept_by_hand(model, target, scores), batch)
    for found, wanted in zip(reference(pruned, batch), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_units_a_layer_lacks_go_first(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Any, reference: Callable
) -> None:
    """Their weights are zero, and here their scores the highest."""
    model = random_clip(small, dialect=Dialect(vision=TowerDialect(ragged=True)))
    heads = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1]], bool)
    ffn = np.random.default_rng(1).random((3, 8)) < 0.7
    blocks = model.vision.blocks
    blocks.present_heads = Present(jnp.asarray(heads), axes="LH")
    blocks.present_ffn = Present(jnp.asarray(ffn), axes="LF")
    blocks.out[...] *= heads[:, :, None, None]
    blocks.fc2[...] *= ffn[:, :, None]
    scores = random_scores(small)
    eager = dataclasses.replace(
        scores.vision,
        heads=jnp.where(heads, scores.vision.heads, 100.0),
        ffn=jnp.where(ffn, scores.vision.ffn, 100.0),
    )
    target = dataclasses.replace(small, vision=Tower(2, 7, 2, int(ffn.sum(1).min())))
    pruned = prune(model, target, dataclasses.replace(scores, vision=eager))
    assert pruned.vision.blocks.present_heads[...].all()
    assert pruned.vision.blocks.present_ffn[...].all()
    right = dataclasses.replace(
        scores.vision,
        heads=jnp.where(heads, scores.vision.heads, -100.0),
        ffn=jnp.where(ffn, scores.vision.ffn, -100.0),
    )
    by_hand = kept_by_hand(model, target, dataclasses.replace(scores, vision=right))
    np.testing.assert_allclose(
        reference(pruned, batch)[0], reference(by_hand, batch)[0], atol=1e-12
    )


def test_what_does_not_fit_is_refused(
    small: Architecture, random_clip: Callable[..., CLIP]
) -> None:
    model, scores = random_clip(small), random_scores(small)
    larger = dataclasses.replace(small, text=Tower(2, 10, 3, 6))
    with pytest.raises(ValueError, match=r"text\.heads = 3: the model has only 2"):
        prune(model, larger, scores)
    with pytest.raises(ValueError, match=r"patch = 2: the model has 4"):
        prune(model, dataclasses.replace(small, patch=2), scores)
    other = random_scores(dataclasses.replace(small, vision=Tower(3, 12, 3, 9)))
    with pytest.raises(ValueError, match=r"scores\.vision\.ffn has shape \(3, 9\).*\(3, 8\)"):
        prune(model, small, other)


HALF = (Tower(6, 384, 6, 1536), Tower(6, 256, 4, 1024))
WHOLE = (Tower(12, 768, 12, 3072), Tower(12, 512, 8, 2048))


@pytest.mark.parametrize(
    ("keep", "multiple", "expected"),
    [
        (0.5, 8, HALF),
        (1, 8, WHOLE),
        (0.75, 8, (Tower(9, 576, 9, 2304), Tower(9, 384, 6, 1536))),
        (0.01, 64, (Tower(1, 64, 1, 64), Tower(1, 64, 1, 64))),
        ({"vision": 0.5}, 8, (HALF[0], WHOLE[1])),
        ({"vision": 0.5, "text": 0.5}, 8, HALF),
        ({"ffn": 0.3, "text.ffn": 1.0}, 256, (Tower(12, 768, 12, 1024), WHOLE[1])),
        ({"text": 0.5, "layers": 0.25}, 8, (Tower(3, 768, 12, 3072), Tower(3, 256, 4, 1024))),
    ],
)
def test_shares_of_vit_b16(keep: Any, multiple: int, expected: tuple[Tower, Tower]) -> None:
    found = scaled(clip_vit_b16(), keep, multiple=multiple)
    assert (found.vision, found.text) == expected
    assert dataclasses.replace(found, vision=WHOLE[0], text=WHOLE[1]) == clip_vit_b16()


@given(
    sizes=st.tuples(*[st.integers(1, 50)] * 4),
    share=st.floats(0.0, 1.0, exclude_min=True),
    multiple=st.integers(1, 12),
)
def test_a_share_is_never_nothing_nor_more(
    sizes: tuple[int, ...], share: float, multiple: int
) -> None:
    whole = Architecture(vision=Tower(*sizes), text=Tower(*sizes[::-1]))
    found = scaled(whole, share, multiple=multiple)
    for tower in TOWERS:
        for name in ELASTIC:
            size, kept = (getattr(getattr(a, tower), name) for a in (whole, found))
            step = multiple if name in ("width", "ffn") else 1
            assert 1 <= kept <= size
            assert kept == size or kept % step == 0
            assert abs(kept - share * size) <= max(step / 2, step - share * size)


def test_bad_shares_are_refused() -> None:
    for share in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="a share lies above 0"):
            scaled(clip_vit_b16(), share)
    with pytest.raises(ValueError, match=r"did you mean 'text\.ffn'"):
        scaled(clip_vit_b16(), {"text.fnn": 0.5})
    with pytest.raises(ValueError, match="multiple is 0"):
        scaled(clip_vit_b16(), 0.5, multiple=0)
