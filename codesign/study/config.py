"""What a study of a paper's findings computes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Annotated

from codesign.bounds import MinLen
from codesign.constraints import PositiveChoices
from codesign.costing import NAMES
from codesign.errors import UserError, did_you_mean
from codesign.search.objectives import Limits
from codesign.space import PUBLISHED_GRID, AcceleratorChoices

# Chips of little carbon, as of a joint search, and further such that are fast.
STUDY_GRID = AcceleratorChoices(
    cores=(1, 2, 4),
    pe_x=(16, 32, 64, 128, 256),
    pe_y=(8, 16, 32),
    l2_kib=(4, 8, 16),
    l2_bytes_per_cycle=(32, 64),
    glb_mib=(1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2),
    channels=(1, 2, 4, 8, 16),
)
_Names = Annotated[tuple[str, ...], MinLen(1)]


@dataclasses.dataclass(frozen=True)
class PaperConfig:
    """The findings of CATransformers (arXiv 2505.01386) anew, without training.

    Attributes:
      costings: conventions of the cost model to compute them under.
      models: networks of the paper whose accelerators are searched under other limits and in
        other regions, where the paper searches networks with them.
      limits: of all accelerators, the paper's; of latency there are its own.
      tops: limits of the peak throughput, 1e12 operations/s.
      latency_s: limits of latency, s; the middle one holds where carbon or energy is made small.
      regions: grids of use, rows of cost/data/use_grid.csv.
      space: accelerators under the physical costing.
      published_space: accelerators under the paper's.
    """

    costings: _Names = ("catransformers", "physical")
    models: _Names = ("clip-vit-b-16", "tinyclip-39m-16", "carbonclip-s")
    limits: Limits = Limits(area_mm2=31.99, tops=20.48)
    tops: PositiveChoices = (1.0, 4.0, 20.48)
    latency_s: PositiveChoices = (0.01, 0.05, 0.1)
    regions: _Names = ("taiwan", "california", "british_columbia")
    space: AcceleratorChoices = STUDY_GRID
    published_space: AcceleratorChoices = PUBLISHED_GRID

    def check(self) -> None:
        """Refuses values that do not go together.

        Raises:
          UserError: the first such values, and the mend.
        """
        from codesign.cost import tables
        from codesign.study.published import networks

        regions = tuple(tables.table("use_grid", "location"))
        known = {"costings": NAMES, "models": tuple(networks()), "regions": regions}
        for field, names in known.items():
            given = getattr(self, field)
            for name in given:
                if name not in names:
                    raise UserError(f"--{field}: there is no '{name}'; {did_you_mean(name, names)}")
            twice = next((name for name in given if given.count(name) > 1), None)
            if twice is not None:
                raise UserError(f"--{field}: '{twice}' is there twice; give it once")
        for field in ("tops", "latency_s"):
            given = getattr(self, field)
            if any(b <= a for a, b in itertools.pairwise(given)):
                raise UserError(f"--{field} is {given}: limits must increase")
        if self.limits.latency_s is not None:
            raise UserError("--limits.latency_s: latencies have limits of their own; set latency_s")
        if self.limits.functions is not None:
            raise UserError("--limits.functions: a study has none; drop it")
