"""Which images a step sees, and how they are varied.

Both are pure functions of (seed, step) or of a key: a resumed run sees the batches the
interrupted one would have seen, and nothing has to be stored to make it so.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Keeps the two streams of one seed apart.
_IMAGES, _TEMPLATES = 0, 1


def batch_indices(seed: int, step_start: int, steps: int, batch_size: int, n: int) -> np.ndarray:
    """Image indices of consecutive steps.

    The training set is read in one endless sequence of permutations, a new one each
    epoch, and cut into batches: every epoch uses every image once. A batch may begin in
    one epoch and end in the next, so `batch_size` need not divide `n`, and may exceed it.

    Args:
      seed: at least 0.
      step_start: first step, counted from the start of training.
      steps: how many steps.
      batch_size: images a step.
      n: images in the training set.

    Returns:
      int32 [steps, batch_size] in [0, n). Chunks of steps put together equal the whole.

    Raises:
      ValueError: `n` or `batch_size` below 1, `step_start` or `steps` below 0.
    """
    _check_steps(step_start, steps, batch_size)
    if n < 1:
        raise ValueError(f"n is {n}: there must be at least 1 image")
    first, last = step_start * batch_size, (step_start + steps) * batch_size
    epochs = range(first // n, -(-last // n))
    sequence = [np.random.default_rng([_IMAGES, seed, epoch]).permutation(n) for epoch in epochs]
    offset = epochs.start * n
    chosen = np.concatenate([np.zeros(0, int), *sequence])[first - offset : last - offset]
    return chosen.astype(np.int32).reshape(steps, batch_size)


def repeats(batch_size: int, n: int, field: str = "optim.batch_size") -> str | None:
    """One line where a batch is larger than the data and holds a picture more than once.

    Args:
      batch_size: images a step, of all processes.
      n: images in the training set.
      field: that sets the batch.

    Returns:
      The line, or None where a batch fits.
    """
    if batch_size <= n:
        return None
    return (
        f"warning: a batch of {batch_size} holds some of the {n} pictures more than once, and "
        f"contrast sets each against its own copies; lower --{field}"
    )


def template_indices(
    seed: int, step_start: int, steps: int, batch_size: int, templates: int
) -> np.ndarray:
    """Caption template of every image of consecutive steps, uniform and independent.

    Args:
      seed, step_start, steps, batch_size: as in `batch_indices`.
      templates: how many templates there are.

    Returns:
      int32 [steps, batch_size] in [0, templates). Chunks put together equal the whole.

    Raises:
      ValueError: `templates` or `batch_size` below 1, `step_start` or `steps` below 0.
    """
    _check_steps(step_start, steps, batch_size)
    if templates < 1:
        raise ValueError(f"templates is {templates}: there must be at least 1")
    drawn = np.empty((steps, batch_size), np.int32)
    for row in range(steps):
        rng = np.random.default_rng([_TEMPLATES, seed, step_start + row])
        drawn[row] = rng.integers(templates, size=batch_size)
    return drawn


def _check_steps(step_start: int, steps: int, batch_size: int) -> None:
    if step_start < 0 or steps < 0 or batch_size < 1:
        raise ValueError(
            f"step_start {step_start} and steps {steps} must be at least 0, "
            f"batch_size {batch_size} at least 1"
        )


@partial(jax.jit, static_argnames=("shift", "flip"))
def augment(key: jax.Array, images: jax.Array, shift: int, flip: bool = False) -> jax.Array:
    """Shifts, and mirrors, every image at random and independently.

    Args:
      key: random key.
      images: [B, S, S, C].
      shift: largest shift along each side, pixels; every offset in [-shift, shift] is
        equally likely. What moves in is the edge row or column, repeated.
      flip: whether to mirror left and right with probability 1/2.

    Returns:
      Images of the same shape and dtype.
    """
    shift_key, flip_key = jax.random.split(key)
    batch, shape = images.shape[0], images.shape[1:]
    padded = jnp.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    corners = jax.random.randint(shift_key, (batch, 2), 0, 2 * shift + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)

    shifted = jax.vmap(crop)(padded, corners)
    if not flip:
        return shifted
    mirrored = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
    return jnp.where(mirrored, shifted[:, :, ::-1, :], shifted)
