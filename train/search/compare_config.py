"""Configuration of a comparison of searches: that of a search, and what it is held against."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from codesign.bounds import MaxLen, MinLen
from codesign.constraints import Count, Few, Seed
from codesign.errors import UserError
from codesign.train.config import SearchConfig

# The product's own searches.
JOINT, ELASTIC = "joint", "elastic"
# Of an elastic contestant, where the search itself has none.
ELASTIC_STEPS = 330
MethodName = Literal["random", "nsga2", "tpe", "gp", "joint", "elastic"]


@dataclasses.dataclass(frozen=True)
class CompareConfig(SearchConfig):
    """A search and its rivals on the same problem, from the same warm-up of each seed.

    Attributes:
      methods: who takes part.
      seeds: of the warm-up, the data and the methods; `seed` itself is passed over.
      trials: architectures that every rival tunes and measures.
      startup: of these, how many at random, the same for all rivals, before a model or a
        generation has something to go by; NSGA-II's generations are of this size.
      hardware: "exact": every architecture gets its best accelerator; "searched": rivals search
        the accelerator's dimensions too, as in the paper.
      side_by_side: trials proposed together that are tuned in one program.
    """

    methods: Annotated[tuple[MethodName, ...], MinLen(1), MaxLen(6)] = (
        "random",
        "nsga2",
        "tpe",
        "gp",
        "joint",
        "elastic",
    )
    seeds: Annotated[tuple[Seed, ...], MinLen(1), MaxLen(100)] = (0, 1, 2)
    trials: Count = 32
    startup: Few = 8
    hardware: Literal["exact", "searched"] = "exact"
    side_by_side: Few = 1

    def check(self) -> None:
        """Refuses values that do not go together.

        Raises:
          UserError: the first such values, and the mend.
        """
        super().check()
        for name, values in (("methods", self.methods), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise UserError(f"--{name} names one twice: {' '.join(map(str, values))}")
        if self.startup > self.trials:
            raise UserError(
                f"--startup {self.startup} is more than all --trials {self.trials}; lower it"
            )
        if self.space.sparsity:
            raise UserError("--space.sparsity: rivals search dense networks alone; leave it out")
        if JOINT in self.methods and not self.schedule.joint_steps:
            raise UserError("--methods joint needs --schedule.joint_steps above 0; or leave it out")

    def search(self, seed: int, **schedule: Any) -> SearchConfig:
        """The search of one seed, with these fields of its schedule."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(SearchConfig)}
        plain = SearchConfig(**own)
        return dataclasses.replace(
            plain, seed=seed, schedule=dataclasses.replace(self.schedule, **schedule)
        )


def comparison_of(config: Any) -> Any:
    """The comparison that `codesign compare` makes of a search's config; others as they are."""
    if type(config) is not SearchConfig:
        return config
    own = {f.name: getattr(config, f.name) for f in dataclasses.fields(SearchConfig)}
    return CompareConfig(**own)
