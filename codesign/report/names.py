"""What runs are called beside each other."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from codesign.runs import Run


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its config's, or its folder's where several runs have that one.

    Folders of one name in different places are told apart by their paths as they were given.
    """
    names = [run.name for run in runs]
    for other in (
        [run.path.resolve().name for run in runs],
        [str(run.path) for run in runs],
    ):
        count = collections.Counter(names)
        names = [
            own if count[own] == 1 else instead for own, instead in zip(names, other, strict=True)
        ]
    # One folder that is given twice is still two runs beside each other.
    before = [names[:i].count(name) for i, name in enumerate(names)]
    return [f"{n} ({k + 1})" if k else n for n, k in zip(names, before, strict=True)]
