"""Search of what can be cut out of CLIP ViT-B/32, in the space of CATransformers.

    codesign search clip_b32_published --checkpoint openai/clip-vit-base-patch32 \
        --train.path 'shards/{00000..00099}.tar' --validation.path flickr30k/test.jsonl

Source: arXiv 2505.01386. Layers 6 to 12, widths and FFNs of 4 to 8 eighths, heads 6 to 12
in the image tower and 4 to 8 in the text tower: 1,071,875 architectures.
On its 3,240 accelerators under its costing, within its 50 ms, 31.99 mm2 and 20.48 TOPS.

`--dry-run` tells shapes and memory and takes one step on made-up data.
"""

from codesign.architecture import Tower
from codesign.configs._catransformers import around

search = config = around(
    Tower(12, 768, 12, 3072), Tower(12, 512, 8, 2048), patch=32, published=True
)
