"""What tests of a search's steps share: a prepared search, and one batch of its data."""

from __future__ import annotations

import io
from collections.abc import Callable

import jax.numpy as jnp
import pytest
from rich.console import Console

from codesign.train.config import SearchConfig
from codesign.train.data import ImageTextBatch
from codesign.train.feed import Draw, gathered
from codesign.train.progress import Display
from codesign.train.search.setup import Setup, prepare


@pytest.fixture(scope="session")
def prepared() -> Callable[[SearchConfig], Setup]:
    """Prepares a search and shows nothing of it."""

    def quietly(config: SearchConfig) -> Setup:
        with Display(Console(file=io.StringIO())) as display:
            return prepare(config, display)

    return quietly


@pytest.fixture(scope="module")
def batch(setup: Setup) -> ImageTextBatch:
    """The first sixteen pictures, under the first template, of the module's own `setup`."""
    return gathered(setup.constants.data, Draw(jnp.arange(16), jnp.zeros(16, int)))
