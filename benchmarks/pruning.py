"""Zero-shot accuracy right after pruning: which importance keeps most of it?

    python benchmarks/pruning.py --digits
    python benchmarks/pruning.py --checkpoint runs/cifar10_clip/clip --data FOLDER

Each dimension of each tower, and all at once, is cut to 75 % and 50 % by every method of
`score_units` and, as the yardstick, in random order. Networks are really cut and not trained
again; accuracy is on images that neither training nor importance has seen. --digits trains
the quickstart's supernet on scikit-learn's digits, some minutes on two CPU cores; the
checkpoint is any CLIP, the data pictures with classes, splits train and test.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from codesign.architecture import ELASTIC, TOWERS
from codesign.configs.quickstart import config
from codesign.models import CLIP, Gates, clamp_logit_scale, full_gates
from codesign.models.calibration import Calibration
from codesign.models.importance import METHODS, score_units
from codesign.models.prune import prune, scaled
from codesign.train.clip_subject import start
from codesign.train.data import augment, batch_indices, template_indices
from codesign.train.data.named import open_named
from codesign.train.evaluate import class_embeddings, zero_shot_accuracy
from codesign.train.feed import caption_ids, pixels_of_all
from codesign.train.losses import contrastive_loss
from machine import here

SHARES = (0.75, 0.5)
CUTS = (*(f"{tower}.{name}" for tower in TOWERS for name in ELASTIC), "all")
RANDOM_ORDERS, NETWORKS, GROUPS = 3, 3, 16
BLOCK = 500  # images embedded at once


class Subject(NamedTuple):
    """A network and its data.

    Attributes:
      model: to be pruned.
      batches: its calibration set.
      images: held out, normalised [n,S,S,C].
      labels: theirs, int [n].
      prompts: ids of every class's captions, [K,templates,T].
    """

    model: CLIP
    batches: Calibration
    images: Any
    labels: Any
    prompts: Any


def digits_subjects(steps: int, samples: int, batch_size: int) -> Iterator[Subject]:
    """The quickstart's supernet, trained from several seeds."""
    data = open_named(config.data)
    largest = config.design_space(
        image=data.settings.size, channels=1, context=config.data.context, vocab=1
    ).largest()
    begun = start(data.train, checkpoint=None, untrained=largest, settings=data.settings)
    largest, processor = begun.model.architecture, begun.processor
    ids = caption_ids(data.train, processor)
    splits = data.train, data.validation, data.test
    train, *others = (processor.normalise(pixels_of_all(split, processor)) for split in splits)

    def drawn(seed: int, first: int, count: int, size: int) -> Calibration:
        chosen = batch_indices(seed, first, count, size, len(train))
        labels = data.train.labels[chosen]
        template = template_indices(seed, first, count, size, ids.shape[1])
        return Calibration(train[chosen], ids[labels, template], labels)

    for seed in range(NETWORKS):
        model = CLIP(largest, rngs=nnx.Rngs(seed))
        trained = train_digits(model, drawn(seed, 0, steps, 64), jax.random.key(seed))
        yield Subject(
            model=trained,
            batches=drawn(seed, 10**6, -(-samples // batch_size), batch_size),
            images=np.concatenate(others),
            labels=np.concatenate([split.labels for split in splits[1:]]),
            prompts=ids,
        )


def train_digits(model: CLIP, batches: Calibration, key: jax.Array) -> CLIP:
    """The model after a step of Adam on each batch, shifted at random."""
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = split
    return nnx.merge(graphdef, _trained(graphdef, params, rest, batches, key), rest)


@functools.partial(jax.jit, static_argnums=0)
def _trained(
    graphdef: Any, params: nnx.State, rest: nnx.State, batches: Calibration, key: jax.Array
) -> nnx.State:
    steps = batches.labels.shape[0]
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, 50, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    def loss(params: nnx.State, batch: Calibration, key: jax.Array) -> jax.Array:
        model: CLIP = nnx.merge(graphdef, params, rest)
        output, _ = model(augment(key, batch.images, shift=1), batch.ids)
        return contrastive_loss(*output, batch.labels)

    def step(state: Any, now: Any) -> tuple[Any, None]:
        params, opt_state = state
        updates, opt_state = optimizer.update(jax.grad(loss)(params, *now), opt_state, params)
        return (clamp_logit_scale(optax.apply_updates(params, updates)), opt_state), None

    start = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(step, start, (batches, jax.random.split(key, steps)))
    return params


def checkpoint_subject(
    checkpoint: str, data: str, templates: str, held_out: int, samples: int, batch_size: int
) -> Subject:
    """A checkpoint and a set of pictures with classes."""
    from codesign.models.formats import load_clip, load_processor
    from codesign.train.calibrate import calibration_batches
    from codesign.train.data import SourceConfig, evaluation_batches, open_source
    from codesign.train.data.captions import captions

    model = load_clip(checkpoint)
    processor = load_processor(checkpoint, model)
    train = open_source(SourceConfig(path=data, templates=templates))
    test = open_source(SourceConfig(path=data, split="test", templates=templates, limit=held_out))
    with evaluation_batches(test, processor, batch_size=BLOCK) as read:
        parts = [(chosen, pixels[: len(chosen)]) for chosen, pixels in read]
    texts = captions(test.class_names, test.templates)
    prompts = processor.texts([text for row in texts for text in row])
    return Subject(
        model=model,
        batches=calibration_batches(train, processor, samples=samples, batch_size=batch_size),
        images=processor.normalise(np.concatenate([pixels for _, pixels in parts])),
        labels=test.labels[np.concatenate([chosen for chosen, _ in parts])],
        prompts=np.reshape(prompts, (len(texts), -1, prompts.shape[-1])),
    )


def accuracy(model: CLIP, subject: Subject) -> float:
    """Zero-shot accuracy on the held-out images, in percent."""
    graphdef, state = nnx.split(model)
    classes = _embedded_classes(graphdef, state, subject.prompts)
    images = np.concatenate(
        [
            _embedded_images(graphdef, state, subject.images[i : i + BLOCK])
            for i in range(0, len(subject.images), BLOCK)
        ]
    )
    return 100 * float(zero_shot_accuracy(images, classes, jnp.asarray(subject.labels)))


@functools.partial(jax.jit, static_argnums=0)
def _embedded_images(graphdef: Any, state: nnx.State, images: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, state).encode_image(images)[0]


@functools.partial(jax.jit, static_argnums=0)
def _embedded_classes(graphdef: Any, state: nnx.State, prompts: jax.Array) -> jax.Array:
    flat = prompts.reshape(-1, prompts.shape[-1])
    embedded = nnx.merge(graphdef, state).encode_text(flat)[0]
    return class_embeddings(embedded.reshape(*prompts.shape[:2], -1))


def all_scores(subject: Subject, seconds: dict[str, list[float]]) -> dict[str, list[Gates]]:
    """Scores of every method, and several random ones; the seconds of a second scoring."""
    found: dict[str, list[Gates]] = {}
    for method in METHODS:
        for _ in range(2):  # the first compiles
            before = time.perf_counter()
            scores = score_units(subject.model, subject.batches, method, groups=GROUPS)
            jax.block_until_ready(scores)
            last = time.perf_counter() - before
        found[method] = [scores]
        seconds.setdefault(method, []).append(last)
    rng = np.random.default_rng(0)
    full = full_gates(subject.model.architecture)
    found["random"] = [
        jax.tree.map(lambda g: jnp.asarray(rng.random(g.shape), jnp.float32), full)
        for _ in range(RANDOM_ORDERS)
    ]
    return found


def report(subjects: list[Subject]) -> None:
    """Prints the table."""
    seconds: dict[str, list[float]] = {}
    whole: list[float] = []
    kept: dict[tuple[str, float, str], list[float]] = {}
    for subject in subjects:
        model = subject.model
        whole.append(accuracy(model, subject))
        for method, orders in all_scores(subject, seconds).items():
            for cut in CUTS:
                for share in SHARES:
                    keep = share if cut == "all" else {cut: share}
                    target = scaled(model.architecture, keep, multiple=1)
                    kept[cut, share, method] = kept.get((cut, share, method), []) + [
                        accuracy(prune(model, target, scores), subject) for scores in orders
                    ]
    methods = (*METHODS, "random")
    images = len(subjects[0].labels)
    a = subjects[0].model.architecture
    print(f"vision {a.vision}, text {a.text}; networks: {len(subjects)}")
    print(f"zero-shot accuracy in % on {images} held-out images, right after pruning;")
    print(f"unpruned: {', '.join(f'{value:.1f}' for value in whole)}\n")
    print("| kept | " + " | ".join(methods) + " |\n|---|" + "---:|" * len(methods))
    for cut in CUTS:
        for share in SHARES:
            row = [np.mean(kept[cut, share, method]) for method in methods]
            print(f"| {cut} {share:.0%} | " + " | ".join(f"{value:.1f}" for value in row) + " |")
    means = [np.mean([kept[c, s, m] for c in CUTS for s in SHARES]) for m in methods]
    print("| mean | " + " | ".join(f"{value:.1f}" for value in means) + " |")
    took = [f"{np.median(seconds[method]):.2g} s" for method in METHODS]
    print("| scoring, once compiled | " + " | ".join(took) + " | |\n")
    count, size = subjects[0].batches.images.shape[:2]
    passes = " and ".join(str(_passes(tower)) for tower in a.towers.values())
    print(
        f"calibration: {count} batches of {size}; a batch costs taylor one pass of each tower "
        f"forth and back, loss {passes} passes forth besides"
    )


def _passes(tower: Any) -> int:
    """Forward passes of `removal.loss_increase`, a batch."""
    ffn, channels = min(GROUPS, tower.ffn), min(GROUPS, tower.width)
    return tower.layers * (1 + tower.heads + ffn) + channels + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--digits", action="store_true", help="train small networks on digits")
    what.add_argument("--checkpoint", help="a CLIP, of any format")
    parser.add_argument("--data", help="pictures with classes, splits train and test")
    parser.add_argument("--templates", default="cifar", help="captions of the classes")
    parser.add_argument("--held-out", type=int, default=2000, help="images accuracy is taken on")
    parser.add_argument("--samples", type=int, default=512, help="images of the calibration set")
    parser.add_argument("--batch-size", type=int, default=32, help="of the calibration set")
    parser.add_argument("--steps", type=int, default=700, help="of training, with --digits")
    args = parser.parse_args()
    if args.checkpoint and not args.data:
        parser.error("--checkpoint needs --data")
    print(
        f"{here()}, jax {jax.__version__}, {jax.default_backend()}, {jax.device_count()} device(s)"
    )
    if args.digits:
        report(list(digits_subjects(args.steps, args.samples, args.batch_size)))
        return
    report(
        [
            checkpoint_subject(
                args.checkpoint,
                args.data,
                args.templates,
                args.held_out,
                args.samples,
                args.batch_size,
            )
        ]
    )


if __name__ == "__main__":
    main()
