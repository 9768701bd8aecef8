"""Operators and parameters of a BERT (Devlin et al., NAACL 2019)."""

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
from codesign.workload.memory import Memory, activation_words
from codesign.workload.operators import Gemm, VectorOp


@dataclasses.dataclass(frozen=True)
class Bert:
    """A BERT: a text of full length, without padding, through all blocks and a head.

    Attributes:
      block: dimensions of a block.
      layers: number of blocks.
      vocab: size of the token table.
      positions: longest text, tokens.
      types: kinds of segment.
      head: "pooler" on the first token; "classes", a classifier behind the pooler; or
        "tokens", the masked-language head on every token, its matrix the token table.
      classes: outputs of the classifier.
    """

    block: Block
    layers: int
    vocab: int = 30522
    positions: int = 512
    types: int = 2
    head: str = "pooler"
    classes: int = 2

    def operators(self, tokens: int) -> Operators:
        """Operators of one text of `tokens` tokens."""
        size = tokens * self.block.width
        embed = Operators(
            (),
            (
                VectorOp("embedding", "embedding", size),
                VectorOp("positions", "add", size, operands=2),
                VectorOp("types", "add", size, operands=2),
                VectorOp("ln_embedding", "layernorm", size),
            ),
        )
        layers = block_operators(self.block, tokens=tokens, layers=self.layers)
        return prefixed("text", join(embed, layers, self._head(tokens)))

    def _head(self, tokens: int) -> Operators:
        d = self.block.width
        if self.head == "tokens":
            gemms = (Gemm("transform", tokens, d, d), Gemm("lm_head", tokens, d, self.vocab))
            vector_ops = (
                VectorOp("transform", self.block.activation, tokens * d),
                VectorOp("ln_head", "layernorm", tokens * d),
            )
            return Operators(gemms, vector_ops)
        pooler = Operators((Gemm("pooler", 1, d, d),), (VectorOp("pooler", "tanh", d),))
        if self.head == "pooler":
            return pooler
        return join(pooler, Operators((Gemm("classifier", 1, d, self.classes),), ()))

    def memory(self, tokens: int) -> Memory:
        """Contents of the DRAM while one text of `tokens` tokens runs."""
        d = self.block.width
        logits = tokens * (d + self.vocab) if self.head == "tokens" else 0
        alive = max(activation_words(self.block, tokens=tokens), logits)
        return Memory(self.parameters(), activations=alive)

    def parameters(self) -> int:
        """Every trained number; the token table is counted once."""
        d = self.block.width
        norm, dense = norm_parameters("layernorm", d), d * (d + 1)
        head = {
            "pooler": dense,
            "classes": dense + (d + 1) * self.classes,
            "tokens": dense + norm + self.vocab,
        }
        return (
            d * (self.vocab + self.positions + self.types)
            + norm
            + self.layers * block_parameters(self.block)
            + head[self.head]
        )
