"""Published models by name: dimensions as printed, each with its source.

TinyCLIP's automatically pruned models (22M, 45M, 63M) are not here: heads and hidden units
differ from layer to layer and stand in the checkpoints alone.
"""

from __future__ import annotations

import dataclasses

from codesign.architecture import Architecture, Tower
from codesign.workload.bert import Bert
from codesign.workload.blocks import Block
from codesign.workload.clip import ClipNetwork
from codesign.workload.llama import Llama, llama_block
from codesign.workload.vit import Vit

Network = ClipNetwork | Vit | Bert | Llama


@dataclasses.dataclass(frozen=True)
class Preset:
    """A published model.

    Attributes:
      network: its dimensions.
      source: where they are published.
    """

    network: Network
    source: str


def _stock(vision: Tower, text: Tower, activation: str = "gelu", **more: int) -> ClipNetwork:
    """A CLIP whose heads share out its towers' widths; text towers have 64 wide ones."""
    head_dim = vision.width // vision.heads
    architecture = Architecture(vision, text, head_dim=head_dim, activation=activation, **more)
    return ClipNetwork(architecture, text_head_dim=text.width // text.heads)


_OPENAI = "Radford et al., ICML 2021, table 20; openai/{} on the HuggingFace hub"
_BASE, _BASE_TEXT = Tower(12, 768, 12, 3072), Tower(12, 512, 8, 2048)
_LARGE, _LARGE_TEXT = Tower(24, 1024, 16, 4096), Tower(12, 768, 12, 3072)
_SMALL_TEXT = Tower(6, 512, 8, 2048)


def _openai(vision: Tower, text: Tower, hub: str, **more: int) -> Preset:
    return Preset(_stock(vision, text, "quick_gelu", **more), _OPENAI.format(hub))


def _tinyclip(vision: Tower, text: Tower, patch: int, config: str) -> Preset:
    return Preset(
        _stock(vision, text, patch=patch),
        f"Wu et al., ICCV 2023; {config}.json of microsoft/Cream/TinyCLIP, ffn four widths",
    )


_CLIP = {
    "clip-vit-b-32": _openai(_BASE, _BASE_TEXT, "clip-vit-base-patch32", patch=32),
    "clip-vit-b-16": _openai(_BASE, _BASE_TEXT, "clip-vit-base-patch16", patch=16),
    "clip-vit-l-14": _openai(
        _LARGE, _LARGE_TEXT, "clip-vit-large-patch14", patch=14, projection=768
    ),
    "clip-vit-l-14-336": _openai(
        _LARGE, _LARGE_TEXT, "clip-vit-large-patch14-336", patch=14, image=336, projection=768
    ),
    "clip-vit-h-14": Preset(
        _stock(Tower(32, 1280, 16, 5120), Tower(24, 1024, 16, 4096), patch=14, projection=1024),
        "OpenCLIP, model_configs/ViT-H-14.json; laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    ),
    "tinyclip-8m-16": _tinyclip(
        Tower(10, 256, 4, 1024), Tower(3, 256, 4, 1024), 16, "TinyCLIP-ViT-8M-16-Text-3M"
    ),
    "tinyclip-39m-16": _tinyclip(
        Tower(12, 512, 8, 2048), _SMALL_TEXT, 16, "TinyCLIP-ViT-39M-16-Text-19M"
    ),
    "tinyclip-40m-32": _tinyclip(
        Tower(12, 512, 8, 2048), _SMALL_TEXT, 32, "TinyCLIP-ViT-40M-32-Text-19M"
    ),
    "tinyclip-61m-32": _tinyclip(
        Tower(12, 640, 10, 2560), Tower(9, 512, 8, 2048), 32, "TinyCLIP-ViT-61M-32-Text-29M"
    ),
}


def _carbonclip(vision: Tower, text: Tower, patch: int = 16, note: str = "") -> Preset:
    """Pruned from OpenCLIP's ViT-B: heads stay 64 wide whatever became of the width."""
    table = {16: 3, 32: 9}[patch]
    return Preset(
        ClipNetwork(Architecture(vision, text, patch=patch)),
        f"CATransformers (arXiv 2505.01386), table {table}{note}",
    )


_CARBONCLIP = {
    "carbonclip-xs": _carbonclip(
        Tower(6, 576, 6, 1536),
        Tower(6, 384, 4, 1024),
        note="; its text width 284, no multiple of 64, is read as 384",
    ),
    "carbonclip-s": _carbonclip(Tower(8, 672, 6, 1920), Tower(6, 512, 6, 1024)),
    "carbonclip-m": _carbonclip(Tower(9, 672, 6, 2304), Tower(8, 512, 6, 1536)),
    "carbonclip-l": _carbonclip(Tower(10, 768, 7, 2688), Tower(6, 384, 5, 1280)),
    "carbonclip-xl": _carbonclip(Tower(12, 768, 5, 3072), Tower(12, 512, 4, 2048)),
    "carbonclip-32-s": _carbonclip(Tower(10, 672, 12, 3072), Tower(6, 384, 5, 1536), 32),
    "carbonclip-32-m": _carbonclip(Tower(11, 768, 8, 2688), Tower(8, 448, 7, 1280), 32),
    "carbonclip-32-l": _carbonclip(Tower(11, 768, 10, 3072), Tower(7, 512, 6, 2048), 32),
}


def _vit(layers: int, width: int, heads: int, patch: int, source: str) -> Preset:
    block = Block(width, heads, width // heads, 4 * width)
    return Preset(Vit(block, layers, patch), f"{source}; with its classifier of 1000 classes")


_VIT_PAPER = "Dosovitskiy et al., ICLR 2021, table 1"
_DEIT_PAPER = "Touvron et al., ICML 2021, table 1"
_VIT = {
    "vit-b-16": _vit(12, 768, 12, 16, _VIT_PAPER),
    "vit-b-32": _vit(12, 768, 12, 32, _VIT_PAPER),
    "vit-l-16": _vit(24, 1024, 16, 16, _VIT_PAPER),
    "vit-l-32": _vit(24, 1024, 16, 32, _VIT_PAPER),
    "vit-h-14": _vit(32, 1280, 16, 14, _VIT_PAPER),
    "deit-ti-16": _vit(12, 192, 3, 16, _DEIT_PAPER),
    "deit-s-16": _vit(12, 384, 6, 16, _DEIT_PAPER),
    "deit-b-16": _vit(12, 768, 12, 16, _DEIT_PAPER),
}


def _bert(layers: int, width: int, source: str) -> Preset:
    block = Block(width, width // 64, 64, 4 * width)
    return Preset(Bert(block, layers), f"{source}; uncased, with its pooler")


_BERT_PAPER = "Devlin et al., NAACL 2019, section 3"
_SMALL_BERT_PAPER = "Turc et al., arXiv 1908.08962, table 1"
_BERT = {
    "bert-tiny": _bert(2, 128, _SMALL_BERT_PAPER),
    "bert-mini": _bert(4, 256, _SMALL_BERT_PAPER),
    "bert-small": _bert(4, 512, _SMALL_BERT_PAPER),
    "bert-medium": _bert(8, 512, _SMALL_BERT_PAPER),
    "bert-base": _bert(12, 768, _BERT_PAPER),
    "bert-large": _bert(24, 1024, _BERT_PAPER),
}


_LLAMA_2_PAPER = "Touvron et al., arXiv 2307.09288; config.json of meta-llama/Llama-2-{}-hf"
_LLAMA_3_PAPER = "Grattafiori et al., arXiv 2407.21783, table 3; config.json of meta-llama/{}"


def _llama_2(layers: int, block: Block, size: str) -> Preset:
    return Preset(Llama(block, layers, 32000, 4096), _LLAMA_2_PAPER.format(size))


def _llama_3(layers: int, block: Block, positions: int, tied: bool, hub: str) -> Preset:
    return Preset(Llama(block, layers, 128256, positions, tied), _LLAMA_3_PAPER.format(hub))


_LLAMA = {
    "llama-2-7b": _llama_2(32, llama_block(4096, 32, 11008), "7b"),
    "llama-2-13b": _llama_2(40, llama_block(5120, 40, 13824), "13b"),
    "llama-2-70b": _llama_2(80, llama_block(8192, 64, 28672, 8), "70b"),
    "llama-3-8b": _llama_3(32, llama_block(4096, 32, 14336, 8), 8192, False, "Meta-Llama-3-8B"),
    "llama-3-70b": _llama_3(80, llama_block(8192, 64, 28672, 8), 8192, False, "Meta-Llama-3-70B"),
    "llama-3.1-8b": _llama_3(32, llama_block(4096, 32, 14336, 8), 131072, False, "Llama-3.1-8B"),
    "llama-3.2-1b": _llama_3(16, llama_block(2048, 32, 8192, 8), 131072, True, "Llama-3.2-1B"),
    "llama-3.2-3b": _llama_3(28, llama_block(3072, 24, 8192, 8), 131072, True, "Llama-3.2-3B"),
}

PRESETS: dict[str, Preset] = _CLIP | _CARBONCLIP | _VIT | _BERT | _LLAMA
