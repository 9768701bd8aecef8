"""Operators and parameters of a Llama (Touvron et al., arXiv 2302.13971, 2307.09288)."""

from __future__ import annotations

import dataclasses

from codesign.workload.blocks import (
    Block,
    Operators,
    block_operators,
    block_parameters,
    join,
    norm_parameters,
    prefixed,
)
from codesign.workload.memory import Memory, activation_words, cache_words
from codesign.workload.operators import Gemm, VectorOp


def llama_block(
    width: int, heads: int, ffn: int, kv_heads: int | None = None, head_dim: int | None = None
) -> Block:
    """A Llama's block: RMSNorm, rotated queries and keys, gated SiLU, no biases."""
    return Block(
        width,
        heads,
        head_dim or width // heads,
        ffn,
        kv_heads or heads,
        gated=True,
        rope=True,
        norm="rmsnorm",
        activation="silu",
        qkv_bias=False,
        out_bias=False,
        ffn_bias=False,
    )


@dataclasses.dataclass(frozen=True)
class Llama:
    """A causal language model with a cache of keys and values.

    Attributes:
      block: dimensions of a block.
      layers: number of blocks.
      vocab: size of the token table.
      positions: longest text, tokens.
      tied: whether the language head's matrix is the token table.
      lm_head: whether there is a language head.
    """

    block: Block
    layers: int
    vocab: int
    positions: int
    tied: bool = False
    lm_head: bool = True

    def prefill(self, tokens: int) -> Operators:
        """A prompt of `tokens` tokens at once, up to the logits of the token after it."""
        layers = block_operators(
            self.block, tokens=tokens, masked=True, layers=self.layers, cached=True
        )
        return self._around(tokens, layers)

    def decode(self, context: int) -> Operators:
        """One token, the last of `context`.

        Its own key and value have joined the cache; all `context` keys and values of every
        layer are read from DRAM as second operands of the attention's products. Nothing
        lies behind the token, so there is no mask.
        """
        layers = block_operators(
            self.block, tokens=1, keys=context, layers=self.layers, cached=True
        )
        return self._around(1, layers)

    def memory(self, tokens: int, keys: int) -> Memory:
        """Contents of the DRAM while `tokens` tokens attend to the cache's `keys`, theirs too."""
        block = self.block
        alive = activation_words(block, tokens=tokens, keys=keys, cached=True)
        logits = block.width + self.vocab if self.lm_head else 0
        cache = cache_words(block, keys, self.layers)
        return Memory(self.parameters(), cache, max(alive, logits))

    def _around(self, tokens: int, layers: Operators) -> Operators:
        d, norm = self.block.width, self.block.norm
        embed = Operators((), (VectorOp("embedding", "embedding", tokens * d),))
        final = Operators((), (VectorOp("norm_final", norm, tokens * d),))
        # Only the last token's logits choose the next token.
        head = Operators((Gemm("lm_head", 1, d, self.vocab),) if self.lm_head else (), ())
        return prefixed("text", join(embed, layers, final, head))

    def parameters(self) -> int:
        """Every trained number; a tied head is counted once."""
        d = self.block.width
        tables = 2 if self.lm_head and not self.tied else 1
        return (
            tables * self.vocab * d
            + self.layers * block_parameters(self.block)
            + norm_parameters(self.block.norm, d)
        )
