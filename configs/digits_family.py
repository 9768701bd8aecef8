"""Joint search of families of subnets for a device that is in low-power mode most of the time.

A sorting machine as in configs/quickstart.py, on larger patches and 16-bit
numbers (accuracies are of networks that were not quantised). Nine of ten digits come at night,
when it runs on little power: a chip carries two nested row-sparse subnets of one network
(DRESS) and switches between them. Sparsities are searched along with network and chip, by the
subnets' loss under targets of total carbon. Beside the families the same search looks for the
best fixed dense networks; both are measured and compared.

Layers, heads and hidden units are searched; the towers' widths are given, as they are where a
trained network is pruned that others build on. Narrower networks, where one may have them, are
a strong rival at this size:

    codesign search digits_family
    codesign search digits_family --space.vision.width '[16, 32, 48, 64]' \
        --space.text.width '[16, 32]' --targets.low 0.2 --out runs/free_widths

docs/results.md has the table of the first.
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
            layers=(1, 2, 3), width=(64,), heads=(1, 2, 3, 4), ffn=(16, 32, 64, 96, 128)
        ),
        text=TowerChoices(layers=(1,), width=(32,), heads=(1, 2), ffn=(16, 32, 64)),
        sparsity=((0.5, 0.7), (0.8, 0.9)),
    ),
    scenario=dataclasses.replace(
        quickstart.scenario,
        precision_bits=16,
        subnet_shares=(0.1, 0.9),
    ),
    limits=Limits(latency_s=2e-3, area_mm2=0.6, tops=0.05),
    targets=dataclasses.replace(quickstart.targets, designs=4, dense_designs=4, low=0.3, high=0.6),
    schedule=dataclasses.replace(quickstart.schedule, warmup_steps=1500, tune_steps=1000),
)
