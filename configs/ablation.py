"""Ablation of the surrogates against both oracles, on the samples that come with the package.

ZigZag and the exact mapper have priced the same points: GEMMs of CLIPs of CATransformers'
ranges (arXiv 2505.01386) on accelerators of its grid, whole designs, CarbonCLIP-S on a pool
of accelerators, and CLIP ViT-B/16 on neighbouring ones.

    codesign ablate ablation

takes a few minutes on two CPU cores. `--purchases 200` asks the oracles for points that are
not stored (ZigZag needs `pip install codesign[oracle]`), `--points drawn` for points of a
space of your own, `--oracles "['FILE.py:NAME']"` another oracle.
"""

from codesign.surrogate.config import AblationConfig

config = AblationConfig()
