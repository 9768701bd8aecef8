"""Joint search of a handwritten-digit CLIP and a microcontroller-class accelerator.

Data: 1,797 scans of handwritten digits (UCI) with template captions. The chip sorts forms
around the clock: 300 digits a second for three years, each within 1 ms. A die of HyperRAM is
stacked in the chip's package; a queue of descriptors on the chip starts one operator after the
other. Control, pads and memory interface are most of so small a chip, whatever the network, so
that energy of use decides, and a bigger network needs more of it.

    codesign search quickstart

takes a few minutes on two CPU cores; docs/results.md has the table it ends with.
"""

from codesign.scenario import Scenario
from codesign.search.objectives import Limits
from codesign.space import AcceleratorChoices, TowerChoices
from codesign.train.config import (
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    SearchConfig,
    SpaceConfig,
    TargetConfig,
)
from codesign.train.data import DataConfig

config = SearchConfig(
    data=DataConfig(name="digits", context=10),
    model=ModelConfig(patch=2, projection=32, head_dim=8),
    space=SpaceConfig(
        vision=TowerChoices(
            layers=(1, 2, 3, 4),
            width=(8, 16, 24, 32, 40, 48),
            heads=(1, 2, 3, 4),
            ffn=(16, 32, 48, 64, 80, 96, 112, 128),
        ),
        text=TowerChoices(
            layers=(1, 2, 3),
            width=(8, 16, 24, 32),
            heads=(1, 2, 3),
            ffn=(16, 32, 48, 64, 80, 96),
        ),
        accelerator=AcceleratorChoices(
            cores=(1, 2),
            pe_x=(4, 8, 16, 32),
            pe_y=(1, 2, 4, 8),
            l2_kib=(4, 8, 16),
            l2_bytes_per_cycle=(16, 32, 64),
            glb_mib=(1 / 64, 1 / 32, 1 / 16, 1 / 8),
            channels=(1,),
        ),
    ),
    scenario=Scenario(
        clock_mhz=100.0,
        dram_technology="hyperram",
        dram_system_gb=0.0,
        dram_package_g=0.0,
        glb_bytes_per_cycle=32.0,
        operator_start_cycles=200.0,
        inferences_per_s=300.0,
        hours_per_day=24.0,
    ),
    limits=Limits(latency_s=1e-3, area_mm2=0.5, tops=0.05),
    targets=TargetConfig(designs=6, low=0.25, high=0.75),
    schedule=ScheduleConfig(warmup_steps=700, joint_steps=260, tune_steps=380),
    optim=OptimConfig(batch_size=64, lr=4e-3),
)
