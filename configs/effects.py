"""Which modelling details decide: each effect of the cost model left out, one at a time.

    codesign ablate effects

chooses an accelerator for four models at three limits of latency in every world that lacks one
effect, and prices it in the full one. `--models "['bert-base', 'FILE.json']"`, `--effects
"['bandwidth']"` and `--objective latency` ask for others.
"""

from codesign.search.effects import EffectsConfig

config = EffectsConfig()
