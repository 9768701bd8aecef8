"""The supernet that benchmarks of the elastic search share: after warm-up and elastic phase."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.console import Console

from codesign.kinds import SEARCH
from codesign.overrides import config_to_json
from codesign.runs import RunFolder
from codesign.train.config import SearchConfig
from codesign.train.loggers import Loggers
from codesign.train.search.run import PHASES, Searched, leaves_of, loop_of, phases
from codesign.train.search.setup import Setup, prepare
from codesign.train.stages import run_stages, session


def elastic_supernet(
    config: SearchConfig, seed: int, elastic_steps: int, out: Path
) -> tuple[Setup, Searched]:
    """Trains the supernet of a search that has no joint phase, or the rest of it.

    Args:
      config: of the search.
      seed: of all of it.
      elastic_steps: by the sandwich rule, after the config's own warm-up.
      out: folder of its checkpoints.
    """
    schedule = dataclasses.replace(config.schedule, elastic_steps=elastic_steps, joint_steps=0)
    config = dataclasses.replace(config, seed=seed, schedule=schedule)
    folder = RunFolder.create(out, config_to_json(config), resume=True, kind=SEARCH.name)
    with session(folder, Console(), PHASES, None) as opened:
        setup = prepare(config, opened.display)
        loop = loop_of(setup, folder, opened, Loggers({}, opened.display.says), None)
        stages = phases(setup, opened.display, folder)[:2]
        state: Searched = run_stages(
            loop, stages, opened.saved, setup.trainer.mesh, leaves_of=leaves_of
        )
    return setup, state
