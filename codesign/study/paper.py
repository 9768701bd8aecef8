"""`codesign study paper`: the findings of CATransformers (arXiv 2505.01386) computed anew.

Nothing is trained: networks are those whose dimensions are published, and the accelerator of each
is the best of a grid, all of which is priced. What takes accuracies is left out, and said to be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codesign.errors import UserError
from codesign.runs import jsonable
from codesign.study.config import PaperConfig
from codesign.study.finding import Finding
from codesign.study.findings import findings
from codesign.study.priced import Priced, price
from codesign.study.published import PAPER

# What is found, in the run's folder.
RESULT = "paper.json"
LEFT_OUT = (
    "Networks searched jointly with their accelerators (figures 1, 4, 5, 9 and 11 to 13): which "
    "network has an accuracy is known by training it. Limits and regions are those of accelerators "
    "for published networks instead.",
    "BERT, Llama and ViT: the paper's tables 5 to 7 print the same costs for all three.",
    "Accuracies, which are quoted by the paper and not computed here.",
)


def study_paper(
    config: PaperConfig, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Computes every finding.

    Args:
      config: checked.
      say: is told of the progress.

    Returns:
      Plain values: "paper"; "costings", each with how many "accelerators" its grid has and where it
      is used; "findings", each with "name", "title", "claim", "rows" and "verdicts"; "left_out".

    Raises:
      UserError: limits that no accelerator meets.
    """
    try:
        priced = {costing: price(costing, config, say) for costing in config.costings}
        found = findings(priced, config)
    except ValueError as error:
        raise UserError(str(error)) from error
    result: dict[str, Any] = jsonable(
        {
            "paper": PAPER,
            "costings": [_costing_json(each) for each in priced.values()],
            "limits": config.limits.active(),
            "findings": [_finding_json(finding) for finding in found],
            "left_out": list(LEFT_OUT),
        }
    )
    return result


def _costing_json(priced: Priced) -> dict[str, Any]:
    return {
        "name": priced.costing,
        "accelerators": priced.accelerators,
        "use_grid": priced.scenario.use_grid,
        "fab_grid": priced.scenario.fab_grid,
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "title": finding.title,
        "claim": finding.claim,
        "rows": [
            {
                "subject": row.subject,
                "quantity": row.quantity,
                "published": row.published,
                "source": row.source,
                "found": dict(row.found),
                "ratio": {c: _ratio(x, row.published) for c, x in row.found.items()},
                "accelerators": dict(row.accelerators),
            }
            for row in finding.rows
        ],
        "verdicts": {c: verdict._asdict() for c, verdict in finding.verdicts.items()},
    }


def _ratio(found: float | None, published: float | None) -> float | None:
    return None if found is None or not published else found / published
