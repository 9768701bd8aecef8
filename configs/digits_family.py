"""Joint search of families of subnets for a device that is in low-power mode most of the time.

A sorting machine as in configs/quickstart.py, five times as busy, with larger patches and wider
networks, so that weights are most of what moves. Nine of ten digits come at night, when it
runs on little power: a chip carries two nested row-sparse subnets of one network (DRESS) and
switches between them. Sparsities are searched along with network and chip, by the subnets'
loss under targets of total carbon. Beside the families the same search looks for the best
fixed dense networks; both are measured and compared.

    codesign search digits_family

README.md has the table it ends with.
"""

import dataclasses

from codesign.configs.quickstart import config as quickstart
from codesign.search.objectives import Limits
from codesign.space import TowerChoices

config = dataclasses.replace(
    quickstart,
    model=dataclasses.replace(quickstart.model, patch=4, head_dim=16),
    space=dataclasses.replace(
        quickstart.space,
        vision=TowerChoices(
            layers=(1, 2, 3),
            width=(16, 32, 64, 96, 128),
            heads=(1, 2, 3, 4),
            ffn=(32, 64, 128, 192, 256, 384),
        ),
        text=TowerChoices(
            layers=(1, 2), width=(16, 32, 48, 64), heads=(1, 2, 3), ffn=(32, 64, 96, 128)
        ),
        sparsity=((0.5, 0.7), (0.9, 0.95)),
    ),
    scenario=dataclasses.replace(
        quickstart.scenario, dram_gb=0.002, inferences_per_s=100.0, subnet_shares=(0.1, 0.9)
    ),
    limits=Limits(latency_s=2e-3, area_mm2=0.25, tops=0.05),
    targets=dataclasses.replace(
        quickstart.targets, designs=4, dense_designs=4, low=0.05, high=0.12
    ),
    schedule=dataclasses.replace(quickstart.schedule, tune_steps=600),
)
