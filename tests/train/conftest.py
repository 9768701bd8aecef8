"""What tests of whole runs share: programs compiled once, and runs cut off in the middle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from codesign.train.data import TrainingStream


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every run compiles its steps anew, though most are the same programs."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def cut_off() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """(n) -> a context in which Ctrl-C is pressed as the n-th batch is read, and must be felt."""

    @contextlib.contextmanager
    def cut(batches: int) -> Iterator[None]:
        read, left = TrainingStream.__next__, batches

        def interrupted(stream: TrainingStream) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return read(stream)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainingStream, "__next__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                yield

    return cut
