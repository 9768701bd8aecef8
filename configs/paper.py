"""The findings of CATransformers (arXiv 2505.01386) computed anew, beside the published figures.

    codesign study paper

prices the published networks on every accelerator of two grids, the paper's under its costing and a
wider one under ours, and says of each finding whether it holds. Nothing is trained; it takes a few
minutes. `--models "['clip-vit-b-32']"` and `--tops '[2,8]'` ask for others.
"""

from codesign.study.config import PaperConfig

config = PaperConfig()
