"""The space of a search that tests of its parts share, so that what prices it is compiled once."""

from codesign.space import AcceleratorChoices, TowerChoices
from codesign.train.config import SpaceConfig

TOWER = TowerChoices(layers=(1, 2), width=(8, 16), heads=(1, 2), ffn=(16, 32))
CHIP = AcceleratorChoices(
    cores=(1,),
    pe_x=(4, 8),
    pe_y=(2, 4),
    l2_kib=(4, 8),
    l2_bytes_per_cycle=(8,),
    glb_mib=(1 / 64, 1 / 32),
)
SPACE = SpaceConfig(vision=TOWER, text=TOWER, accelerator=CHIP)
