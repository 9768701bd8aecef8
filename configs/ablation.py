"""Ablation of the surrogates against both oracles.

ZigZag's samples come with the package and need nothing installed; the exact mapper is asked
for the same points, some ten a second, the first time. These are GEMMs of CLIPs of
CATransformers' ranges (arXiv 2505.01386) on accelerators of its grid, whole designs,
CarbonCLIP-S on a pool of accelerators, and CLIP ViT-B/16 on neighbouring ones.

    codesign ablate ablation

takes a few minutes on two CPU cores. `--points drawn` asks for points of a space of your own
(ZigZag needs `pip install codesign[oracle]`, and about a second a point), `--oracles
"['FILE.py:NAME']"` asks another oracle.
"""

from codesign.surrogate.config import AblationConfig

config = AblationConfig(oracles=("zigzag", "exact"), purchases=2500)
