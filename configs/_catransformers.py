"""The space of CATransformers (arXiv 2505.01386) around a checkpoint, for the searches in it."""

import dataclasses

from codesign.architecture import Tower
from codesign.configs import clip
from codesign.costing import default_scenario
from codesign.search.objectives import Limits
from codesign.space import JOINT_GRID, PUBLISHED_GRID, TowerChoices
from codesign.train.config import SearchConfig, SpaceConfig

# Of its release: no latency, chip or throughput above.
LIMITS = Limits(latency_s=0.05, area_mm2=31.99, tops=20.48)


def pruned(whole: Tower) -> TowerChoices:
    """The choices of a tower: half to all of its layers and heads, 4 to 8 eighths of its widths."""
    return TowerChoices(
        layers=tuple(range(whole.layers // 2, whole.layers + 1)),
        width=tuple(whole.width * i // 8 for i in range(4, 9)),
        heads=tuple(range(whole.heads // 2, whole.heads + 1)),
        ffn=tuple(whole.ffn * i // 8 for i in range(4, 9)),
    )


def around(
    vision: Tower, text: Tower, patch: int, projection: int = 512, *, published: bool = False
) -> SearchConfig:
    """A search of all that can be pruned of a checkpoint.

    Args:
      vision, text: the checkpoint's towers.
      patch: side of its patches, pixels.
      projection: width of its joint embedding.
      published: the paper's 3,240 accelerators under its costing, in place of 3,888 of little
        carbon under ours.
    """
    plain = clip.search
    return dataclasses.replace(
        plain,
        space=SpaceConfig(
            pruned(vision), pruned(text), PUBLISHED_GRID if published else JOINT_GRID
        ),
        model=dataclasses.replace(plain.model, patch=patch, projection=projection),
        scenario=default_scenario("catransformers" if published else "physical"),
        limits=LIMITS,
    )
