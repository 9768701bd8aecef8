"""What the DRAM holds while a network runs: weights, a decoder's cache, live activations."""

from __future__ import annotations

from typing import NamedTuple

from codesign.workload.blocks import Block


class Memory(NamedTuple):
    """Contents of the DRAM at their largest, words; Python integers stay exact at any size.

    Attributes:
      weights: trained numbers.
      cache: keys and values of all layers.
      activations: tensors that are alive at once.
    """

    weights: int
    cache: int = 0
    activations: int = 0

    @property
    def words(self) -> int:
        """Words in all."""
        return self.weights + self.cache + self.activations


def cache_words(block: Block, tokens: int, layers: int) -> int:
    """Keys and values of `tokens` tokens in every layer."""
    return 2 * layers * tokens * _kv_channels(block)


def activation_words(
    block: Block, *, tokens: int, keys: int | None = None, cached: bool = False
) -> int:
    """The most words of activations that are alive at once in one block.

    Every operator reads its operands from DRAM and writes its result there, element-wise ones
    where they read. Heads that share keys run one group after the other, so that the scores
    of one group are alive. The residual stream waits throughout, and with it one of three:
    normed tokens with queries, keys and values; these with the scores; normed tokens with the
    hidden units, twice where they are gated.

    Args:
      block: dimensions of a block.
      tokens: tokens that run through the block.
      keys: tokens attended to; None: `tokens`.
      cached: whether keys and values lie in a cache, which `cache_words` counts.
    """
    b, t = block, tokens
    s = t if keys is None else keys
    queries, group = t * b.heads * b.head_dim, 1 if b.kv_heads is None else b.heads // b.kv_heads
    pairs = 0 if cached else 2 * s * _kv_channels(b)
    normed, hidden = t * b.width, (2 if b.gated else 1) * t * b.ffn
    attention = max(normed + queries + pairs, queries + pairs + group * t * s)
    return t * b.width + max(attention, normed + hidden)


def _kv_channels(block: Block) -> int:
    heads = block.heads if block.kv_heads is None else block.kv_heads
    return heads * block.head_dim
