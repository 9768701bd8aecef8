"""The stream: the same pictures in the same order whatever reads them, each once an epoch."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from codesign.train.data import (
    AugmentConfig,
    DataError,
    EvaluationBatches,
    ImageTextBatch,
    Skipped,
    Source,
    SourceConfig,
    TrainingStream,
    evaluation_batches,
    open_source,
)
from codesign.train.data.picture import decoded, random_box
from codesign.train.data.stream import redistributed

CIFAR10 = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10"


def numbers(batch: ImageTextBatch, processor: Any) -> list[int]:
    """What the captions say the pictures are."""
    words = processor.tokenizer.convert_ids_to_tokens(batch.ids[:, 2])
    return [int(word) for word in words]


def assert_same(first: ImageTextBatch, second: ImageTextBatch) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@given(
    n=st.integers(1, 30),
    batch=st.integers(1, 9),
    processes=st.integers(1, 3),
    broken=st.sets(st.integers(0, 29), max_size=3),
)
@settings(max_examples=15, deadline=None)
def test_every_picture_is_shown_once_an_epoch(
    n: int, batch: int, processes: int, broken: set[int], numbered: Callable, processor: Any
) -> None:
    broken = {i for i in broken if i < n and n > 8}
    source = numbered(n, tuple(broken))
    shown: Counter[int] = Counter()
    for index in range(processes):
        # A process reads every processes-th place of the order: three epochs are these.
        places = len(range(index, 3 * n, processes))
        stream = TrainingStream(
            source,
            processor,
            batch_size=batch,
            threads=0,
            process_index=index,
            process_count=processes,
        )
        with stream:
            while stream.skipped.read < places:
                before = stream.skipped.read
                drawn = numbers(next(stream), processor)
                if stream.skipped.read <= places:
                    shown.update(drawn)
                else:  # the batch reaches into the fourth epoch
                    shown.update(_first(source, processor, before, places, batch, stream, index))
    assert shown == {i: 3 for i in range(n) if i not in broken}


def _first(
    source: Any, processor: Any, before: int, places: int, batch: int, stream: Any, index: int
) -> list[int]:
    """The pictures at the places from `before` to `places`, one at a time."""
    state = stream.state()
    state["position"] = {"next_index": before}
    state["skipped"] = {"count": 0, "read": before, "examples": []}
    found = []
    with TrainingStream(
        source,
        processor,
        batch_size=1,
        threads=0,
        process_index=index,
        process_count=state["processes"],
    ) as again:
        again.restore(state)
        while True:
            drawn = numbers(next(again), processor)
            if again.skipped.read > places:
                return found
            found += drawn


def test_captions_pictures_and_labels_belong_together(
    numbered: Callable, processor: Any, number_of: Callable
) -> None:
    with TrainingStream(numbered(40), processor, batch_size=16, seed=3) as stream:
        for _ in range(4):
            batch = next(stream)
            assert batch.images.shape == (16, 8, 8, 3) and batch.images.dtype == np.uint8
            assert batch.ids.shape == (16, 6) and batch.ids.dtype == np.int32
            assert batch.labels.dtype == np.int32
            shown = [number_of(image) for image in batch.images]
            assert shown == numbers(batch, processor)
            np.testing.assert_array_equal(batch.labels, np.asarray(shown) % 3)


def test_threads_do_not_change_the_batches(numbered: Callable, processor: Any) -> None:
    source, augment = numbered(30, (4, 17), captions=3), AugmentConfig((0.3, 1.0), True, 2)

    def draw(threads: int, seed: int = 5) -> list[ImageTextBatch]:
        with TrainingStream(
            source, processor, batch_size=8, seed=seed, augment=augment, threads=threads
        ) as stream:
            return [next(stream) for _ in range(9)]

    alone = draw(0)
    for threads in (1, 4):
        for one, other in zip(alone, draw(threads), strict=True):
            assert_same(one, other)
    orders = [numbers(batch, processor) for batch in alone]
    assert orders != [numbers(batch, processor) for batch in draw(0, seed=6)]
    flat = [number for order in orders for number in order]
    assert flat[:28] != flat[28:56] and sorted(flat[:28]) == sorted(flat[28:56])


@pytest.mark.parametrize("threads", [0, 3])
def test_resumed_is_uninterrupted(threads: int, numbered: Callable, processor: Any) -> None:
    source = numbered(20, (3, 11), captions=2)

    def stream() -> TrainingStream:
        return TrainingStream(source, processor, batch_size=7, seed=2, threads=threads)

    with stream() as whole:
        batches, states = [], []
        for _ in range(9):  # three epochs and a half
            states.append(json.loads(json.dumps(whole.state())))
            batches.append(next(whole))
        told = whole.skipped
    assert told.count == 6 and told.read == 69
    assert sorted(example[:9] for example in told.examples) == ["number 11", "number 3:"]
    for start in (0, 1, 2, 5):
        with stream() as resumed:
            resumed.restore(states[start])
            for expected in batches[start:]:
                assert_same(next(resumed), expected)
            assert resumed.skipped == told
    with stream() as rewound:  # a stream may also go back
        for _ in range(3):
            next(rewound)
        rewound.restore(states[1])
        assert_same(next(rewound), batches[1])
        assert rewound.state() == states[2]


def test_a_checkpoint_of_other_data_is_refused(numbered: Callable, processor: Any) -> None:
    with TrainingStream(numbered(9), processor, batch_size=2, threads=0) as stream:
        state = stream.state()
    for source, options, message in (
        (numbered(8), {}, "images was 9, is 8"),
        (numbered(9), {"seed": 1}, "seed was 0, is 1"),
        (numbered(9), {"process_count": 2}, "processes was 1, is 2"),
    ):
        other = TrainingStream(source, processor, batch_size=2, threads=0, **options)
        with other, pytest.raises(DataError, match=f"cannot resume numbers: {message}; set it"):
            other.restore(state)


def _rows(batch: ImageTextBatch) -> Iterator[bytes]:
    """All that a batch holds of each of its pairs."""
    return (b"".join(np.asarray(x).tobytes() for x in row) for row in zip(*batch, strict=True))


def test_two_processes_see_what_one_sees(numbered: Callable, processor: Any) -> None:
    source, augment = numbered(31, captions=2), AugmentConfig((0.5, 1.0), True, 1)

    def draw(batch: int, index: int, count: int) -> list[set[bytes]]:
        with TrainingStream(
            source,
            processor,
            batch_size=batch,
            seed=1,
            augment=augment,
            threads=2,
            process_index=index,
            process_count=count,
        ) as stream:
            return [set(_rows(next(stream))) for _ in range(10)]

    together = draw(8, 0, 1)
    for whole, first, second in zip(together, draw(4, 0, 2), draw(4, 1, 2), strict=True):
        assert len(whole) == 8 and first | second == whole


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 3), (3, 2)])
def test_another_number_of_processes_goes_on_where_the_others_stopped(
    first: int, then: int, numbered: Callable, processor: Any
) -> None:
    """All that is read in one order, twelve pictures a step, by whatever number of processes."""
    source, augment = numbered(31, captions=2), AugmentConfig((0.5, 1.0), True, 1)

    def steps(count: int, steps: int, places: list[Any] | None) -> tuple[list[set[bytes]], Any]:
        shown: list[set[bytes]] = [set() for _ in range(steps)]
        after = []
        for index in range(count):
            with TrainingStream(
                source,
                processor,
                batch_size=12 // count,
                seed=1,
                augment=augment,
                threads=2,
                process_index=index,
                process_count=count,
            ) as stream:
                if places is not None:
                    stream.restore(redistributed(places, index, count))
                for step in shown:
                    step.update(_rows(next(stream)))
                after.append(json.loads(json.dumps(stream.state())))
        return shown, after

    whole, _ = steps(1, 5, None)
    before, places = steps(first, 2, None)
    after, told = steps(then, 3, places)
    assert before + after == whole
    assert sum(state["skipped"]["read"] for state in told) == 60


def test_unreadable_pictures_are_counted_and_named(numbered: Callable, processor: Any) -> None:
    source = numbered(12, (0, 5), lost=("a.tar: cut short",))
    with TrainingStream(source, processor, batch_size=10, threads=2) as stream:
        assert stream.skipped == Skipped(1, ("a.tar: cut short",))
        while stream.skipped.read < 24:
            next(stream)
        assert stream.skipped.count == 5 and stream.skipped.read == 24
        lost, *others = stream.skipped.examples
        assert lost == "a.tar: cut short"
        assert sorted(other[:10] for other in others) == ["number 0: ", "number 5: "]
        assert "\n" not in str(stream.skipped)
        assert str(stream.skipped).startswith("5 of 24 pictures skipped; a.tar: cut short; num")


@pytest.mark.parametrize("broken", [range(10), range(0, 12, 2), range(6)])
def test_mostly_unreadable_is_an_error(broken: range, numbered: Callable, processor: Any) -> None:
    source = numbered(10, tuple(broken))
    failing = len(set(broken) & set(range(10))) > 5
    with TrainingStream(source, processor, batch_size=4, threads=1) as stream:
        if failing:
            message = r"of 10 pictures of numbers cannot be read, such as number \d: 4 bytes that"
            with pytest.raises(DataError, match=message):
                list(itertools.islice(stream, 9))
        else:
            assert len(list(itertools.islice(stream, 9))) == 9
    with evaluation_batches(source, processor, 4, 1) as batches:
        if failing:
            with pytest.raises(DataError, match=r"of 10 pictures of numbers cannot be read"):
                list(batches)
        else:
            assert [len(indices) for indices, _ in batches] == [2, 2, 1]


def test_captions_are_drawn(numbered: Callable, processor: Any) -> None:
    with TrainingStream(numbered(1, captions=4), processor, batch_size=400, threads=0) as stream:
        batch = next(stream)
    # As many tokens as the caption has words, plus start and end, cut at 6 with the end kept.
    lengths = np.count_nonzero(batch.ids, axis=1)
    assert np.bincount(lengths)[4:] == pytest.approx([100, 0, 300], abs=40)
    assert (batch.ids[lengths == 6, 5] == processor.tokenizer.eos_token_id).all()


def test_classes_are_captions_by_templates(numbered: Callable, processor: Any) -> None:
    named = {"class_names": ("7", "8", "9"), "templates": ("a {}", "of a {}")}
    with TrainingStream(
        numbered(3, captions=0, **named), processor, batch_size=300, threads=0
    ) as stream:
        batch = next(stream)
    texts = processor.tokenizer.batch_decode(batch.ids, skip_special_tokens=True)
    for text, label in zip(texts, batch.labels, strict=True):
        assert text in (f"a {7 + label}", f"of a {7 + label}")
    assert len(set(texts)) == 6
    silent = TrainingStream(numbered(3, captions=0), processor, batch_size=1, threads=0)
    with silent, pytest.raises(DataError, match=r"number .: no caption and no named class"):
        next(silent)


# Augmentation


def draw_augmented(image: np.ndarray, augment: AugmentConfig, processor: Any, n: int) -> np.ndarray:
    labels = np.zeros(1, np.int32)
    source = Source("one", labels, lambda i: ("a picture",), lambda i: image, lambda i: "it")
    with TrainingStream(source, processor, batch_size=n, augment=augment, threads=0) as stream:
        return next(stream).images


def test_no_augmentation_is_the_preprocessing_of_evaluation(processor: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    plain = draw_augmented(image, AugmentConfig((1.0, 1.0)), processor, 3)
    np.testing.assert_array_equal(plain, [processor.pixels(image)] * 3)


def test_shifts_and_mirrors_are_uniform(processor: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    possible = {
        kept.tobytes()
        for mirrored in (padded, padded[:, ::-1])
        for row in range(3)
        for column in range(3)
        for kept in [np.ascontiguousarray(mirrored[row : row + 8, column : column + 8])]
    }
    drawn = draw_augmented(image, AugmentConfig((1.0, 1.0), flip=True, shift=1), processor, 900)
    counts = Counter(one.tobytes() for one in drawn)
    assert set(counts) == possible
    assert min(counts.values()) > 20 and max(counts.values()) < 90


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.05, 1), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_crops_lie_within_and_show_their_share(
    width: int, height: int, least: float, seed: int
) -> None:
    left, top, right, bottom = random_box(width, height, (least, 1.0), np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    if width == height > 20:  # where the ratios always fit
        assert (right - left) * (bottom - top) >= 0.8 * least * width * height


def test_large_photographs_are_decoded_smaller_and_look_the_same(processor: Any) -> None:
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((1600, 1200), 3)
    buffer = io.BytesIO()
    scene.save(buffer, "JPEG", quality=95)

    def source(image: Any) -> Source:
        labels = np.zeros(1, np.int32)
        return Source("one", labels, lambda i: ("a",), lambda i: image, lambda i: "it")

    draws = []
    for image in (buffer.getvalue(), np.asarray(Image.open(buffer))):  # arrays are left whole
        with TrainingStream(source(image), processor, batch_size=6, threads=0) as stream:
            draws.append(next(stream).images.astype(int))
    small, whole = draws
    other_crops = np.abs(small - whole[::-1]).mean()
    assert np.abs(small - whole).mean() < other_crops / 3
    assert decoded(source(buffer.getvalue()), 0, "RGB", 100).size == (200, 150)
    assert decoded(source(buffer.getvalue()), 0, "RGB").size == (1600, 1200)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (AugmentConfig((0.0, 1.0)), "crop_scale is"),
        (AugmentConfig((0.9, 0.8)), "crop_scale is"),
        (AugmentConfig(shift=-1), "shift is -1"),
    ],
)
def test_impossible_augmentation(
    augment: AugmentConfig, message: str, numbered: Callable, processor: Any
) -> None:
    with pytest.raises(DataError, match=message):
        TrainingStream(numbered(1), processor, batch_size=1, augment=augment)


def test_impossible_shares(numbered: Callable, processor: Any) -> None:
    for options, message in (
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5: it must be a whole number"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2"),
        ({"threads": -1}, "threads is -1"),
    ):
        for make in (TrainingStream, EvaluationBatches):
            with pytest.raises((DataError, ValueError), match=message):
                make(numbered(2), processor, **({"batch_size": 1} | options))
    with pytest.raises(DataError, match="seed is -1"):
        TrainingStream(numbered(2), processor, batch_size=1, seed=-1)
    with pytest.raises(DataError, match="numbers holds no pictures"):
        evaluation_batches(numbered(0), processor, 1)


# Threads and interrupts


@pytest.mark.parametrize("threads", [0, 2])
def test_an_interrupt_leaves_the_stream_at_its_last_batch(
    threads: int, numbered: Callable, processor: Any
) -> None:
    source = numbered(20)
    with TrainingStream(source, processor, batch_size=6, threads=threads) as whole:
        expected = [next(whole) for _ in range(3)]
    interrupts = iter([True])

    def image(i: int) -> bytes:
        if next(interrupts, False):
            raise KeyboardInterrupt
        return source.image(i)

    with TrainingStream(source, processor, batch_size=6, threads=threads) as stream:
        assert_same(next(stream), expected[0])
        state = stream.state()
    interrupted = dataclasses.replace(source, image=image)
    with TrainingStream(interrupted, processor, batch_size=6, threads=threads) as stream:
        stream.restore(state)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert stream.state() == state
        assert_same(next(stream), expected[1])
        assert_same(next(stream), expected[2])


def test_closing_stops_the_threads(numbered: Callable, processor: Any) -> None:
    def ours() -> int:
        return sum("grain" in thread.name for thread in threading.enumerate())

    before = ours()
    with TrainingStream(numbered(30), processor, batch_size=4, threads=3) as stream:
        next(stream)
        assert ours() > before
        state = stream.state()
    assert stream.state() == state
    deadline = time.monotonic() + 5
    while ours() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ours() <= before


# Evaluation


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_is_one_ordered_pass(
    threads: int, numbered: Callable, processor: Any, number_of: Callable
) -> None:
    with evaluation_batches(numbered(11, (0, 4, 5)), processor, 4, threads) as batches:
        assert len(batches) == 3
        found = list(batches)
        assert batches.skipped.count == 3 and batches.skipped.read == 11
    assert [indices.tolist() for indices, _ in found] == [[1, 2, 3], [6, 7], [8, 9, 10]]
    for indices, images in found:
        assert images.shape == (4, 8, 8, 3) and images.dtype == np.uint8
        assert [number_of(image) for image in images[: len(indices)]] == indices.tolist()
        assert not images[len(indices) :].any()


@given(n=st.integers(1, 20), batch=st.integers(1, 6), processes=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_processes_evaluate_every_picture_once_in_as_many_batches(
    n: int, batch: int, processes: int, numbered: Callable, processor: Any
) -> None:
    source = numbered(n)
    passes = [
        list(
            evaluation_batches(
                source, processor, batch, 0, process_index=index, process_count=processes
            )
        )
        for index in range(processes)
    ]
    assert len({len(one) for one in passes}) == 1
    seen = [i for one in passes for indices, _ in one for i in indices.tolist()]
    assert sorted(seen) == list(range(n))


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="no copy of CIFAR-10 beside the checkout")
def test_cifar10_streams(processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    source = open_source(SourceConfig(str(CIFAR10), split="test", limit=64))
    assert source.class_names[8] == "ship" and "a photo of a {}" in source.templates
    augment = AugmentConfig((1.0, 1.0), flip=True, shift=4)
    with TrainingStream(source, processor, batch_size=64, augment=augment) as stream:
        batch = next(stream)
    np.testing.assert_array_equal(np.sort(batch.labels), np.sort(source.labels))
    assert batch.images.std() > 30 and stream.skipped.count == 0
