"""Search of what can be cut out of CLIP ViT-L/14, in the space of CATransformers.

    codesign search clip_l14 --checkpoint openai/clip-vit-large-patch14 \
        --train.path 'shards/{00000..00099}.tar' --validation.path flickr30k/test.jsonl

Source: arXiv 2505.01386. It has no L/14; here half to all layers and heads, and 4 to 8
eighths of the widths and FFNs of both towers: 3,583,125 architectures.
On 3,888 accelerators of little carbon under our costing, within 50 ms, 31.99 mm2 and 20.48
TOPS; `--space.accelerator.cores` and its like take others.

`--dry-run` tells shapes and memory and takes one step on made-up data.
"""

from codesign.architecture import Tower
from codesign.configs._catransformers import around

search = config = around(
    Tower(24, 1024, 16, 4096), Tower(12, 768, 12, 3072), patch=14, projection=768
)
