"""What the DRAM holds while a network runs: weights, a decoder's cache, live activations."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

if TYPE_CHECKING:
    from codesign.workload.blocks import Block


class Memory(NamedTuple):
    """Contents of the DRAM at their largest, words; Python integers stay exact at any size.

    Of a relaxed network, or of a batch of them, they are arrays [...].

    Attributes:
      weights: trained numbers.
      cache: keys and values of all layers.
      activations: tensors that are alive at once.
      prunable: those of the weights that a row-sparse subnet may leave out.
    """

    weights: Any
    cache: Any = 0
    activations: Any = 0
    prunable: Any = 0

    @property
    def words(self) -> Any:
        """Words in all."""
        return self.weights + self.cache + self.activations


def largest(*sizes: Any) -> Any:
    """The largest of sizes: of Python's numbers exact, of arrays element by element."""
    if all(isinstance(size, (int, float)) for size in sizes):
        return max(sizes)
    return functools.reduce(jnp.maximum, sizes)


def cache_words(block: Block, tokens: int, layers: int) -> int:
    """Keys and values of `tokens` tokens in every layer."""
    return 2 * layers * tokens * _kv_channels(block)


def activation_words(block: Block, *, tokens: Any, keys: Any = None, cached: bool = False) -> Any:
    """The most words of activations that are alive at once in one block: of its two halves.

    Args:
      block: dimensions of a block.
      tokens: tokens that run through the block.
      keys: tokens attended to; None: `tokens`.
      cached: whether keys and values lie in a cache, which `cache_words` counts.
    """
    attention = attention_words(block, tokens=tokens, keys=keys, cached=cached)
    return largest(attention, ffn_words(block, tokens=tokens))


def attention_words(block: Block, *, tokens: Any, keys: Any = None, cached: bool = False) -> Any:
    """The most words that are alive at once from a block's first norm to its first sum.

    Element-wise operators write where they read. Heads that share keys run one group after the
    other, so that the scores of one group are alive, and a head's result takes its queries'
    place. The residual stream waits throughout, and with it one of two: normed tokens with
    queries, keys and values; these with the scores.

    Args:
      block, tokens, keys, cached: as of `activation_words`.
    """
    b, t = block, tokens
    s = t if keys is None else keys
    queries, group = t * b.heads * b.head_dim, 1 if b.kv_heads is None else b.heads // b.kv_heads
    pairs = 0 if cached else 2 * s * _kv_channels(b)
    return t * b.width + queries + pairs + largest(t * b.width, group * t * s)


def ffn_words(block: Block, *, tokens: Any) -> Any:
    """The same from a block's second norm to its end: the residual stream, normed tokens and
    the hidden units, twice where they are gated."""
    b, t = block, tokens
    return 2 * t * b.width + (2 if b.gated else 1) * t * b.ffn


def _kv_channels(block: Block) -> Any:
    heads = block.heads if block.kv_heads is None else block.kv_heads
    return heads * block.head_dim
