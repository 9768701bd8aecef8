"""`codesign ablate`: a whole ablation, from its config to the files of its run folder.

In the folder are

    config.json     what repeats it          errors.csv  gradients.csv  regrets.csv
    ablation.json   tables and oracles       points.csv  truth and predictions
    report.html     and its figures          surrogates/ORACLE-KIND.npz
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from codesign.constraints import check_config
from codesign.errors import RunError, UserError
from codesign.oracle.interface import refusal
from codesign.runs import RunFolder
from codesign.surrogate import files
from codesign.surrogate.ablation import Row, Tables, compare
from codesign.surrogate.config import RESULT, AblationConfig
from codesign.surrogate.evidence import gather
from codesign.surrogate.oracles import answer, find_oracle
from codesign.surrogate.plan import Plan, drawn_plan, stored_plan

SURROGATES = "surrogates"
# Failures of an oracle that are listed one by one.
_MOST_FAILURES = 10


def check_new(path: Path) -> None:
    """Raises UserError where `path` already holds an ablation."""
    if (path / RESULT).exists():
        raise UserError(f"{path} already holds an ablation; --out FOLDER for another")


def run_ablation(config: AblationConfig, folder: RunFolder, console: Console) -> dict[str, Any]:
    """Compares all surrogates with all oracles and writes everything into the folder.

    Results are written oracle by oracle, so that an interrupted run keeps what it has.

    Returns:
      What is in ablation.json: "oracles", "errors", "gradients", "regrets".

    Raises:
      UserError: an oracle that does not exist, does not price the scenario's precision, or
        is to be asked and is not installed.
      RunError: no oracle has any samples; the disk refuses.
    """
    check_config(config)
    say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    oracles = [find_oracle(name) for name in config.oracles]
    for oracle in oracles:
        if (reason := refusal(oracle, config.scenario.precision_bits)) is not None:
            raise UserError(f"scenario.precision_bits: {reason}")
    plan = _plan(config)
    described: list[dict[str, Any]] = []
    tables = Tables([], [], [], [])
    for oracle in oracles:
        answers = answer(oracle, plan, config.purchases, config.processes)
        evidence = gather(oracle.name, oracle.fingerprint(), plan, answers.samples)
        described.append(
            {
                "name": oracle.name,
                "fingerprint": oracle.fingerprint(),
                "shipped": answers.shipped,
                "bought": answers.bought,
                "unanswered": evidence.unanswered,
                "train": len(evidence.train),
                "gemms": len(evidence.gemms),
                "neighbours": len(evidence.neighbours),
                "designs": len(evidence.designs),
                "pool": len(evidence.pool),
                "failures": answers.failures,
            }
        )
        _say_answers(described[-1], say)
        if not evidence.samples.size:
            continue
        found, fitted = compare(evidence, config, _prefixed(oracle.name, say))
        for rows, more in zip(tables, found, strict=True):
            rows.extend(more)
        _write(folder, described, tables)
        (folder.path / SURROGATES).mkdir(exist_ok=True)
        for one in fitted:
            path = folder.path / SURROGATES / f"{one.oracle}-{one.surrogate.kind}.npz"
            files.save(path, one)
    if not tables.errors:
        raise RunError(
            f"no oracle has samples of these points at {config.scenario.precision_bits} bits: "
            "--purchases N asks for N of them"
        )
    return _write(folder, described, tables)


def _prefixed(name: str, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: say(f"{name}: {text}")


def _plan(config: AblationConfig) -> Plan:
    try:
        if config.points == "stored":
            return stored_plan(config.plan, config.scenario, config.seed)
        return drawn_plan(config.plan, config.space, config.scenario, config.seed)
    except ValueError as error:
        raise UserError(str(error)) from error


def _say_answers(oracle: dict[str, Any], say: Callable[[str], None]) -> None:
    say(
        f"{oracle['name']}: {oracle['shipped']} stored samples, {oracle['bought']} bought, "
        f"{oracle['unanswered']} points without an answer"
    )
    for line in oracle["failures"][:_MOST_FAILURES]:
        say(f"  {line}")
    if len(oracle["failures"]) > _MOST_FAILURES:
        say(f"  and {len(oracle['failures']) - _MOST_FAILURES} more; {RESULT} lists them")


def _write(folder: RunFolder, oracles: Sequence[dict[str, Any]], tables: Tables) -> dict[str, Any]:
    for name, rows in tables._asdict().items():
        folder.write_bytes(f"{name}.csv", _csv(rows))
    result = {"oracles": list(oracles), **tables._asdict()}
    del result["points"]
    folder.write_json(RESULT, result)
    return result


def _csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
    )
    return text.getvalue().encode()
