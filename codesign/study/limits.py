"""The findings on limits of compute and latency, on regions, and on the share of use by size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from codesign.cost.carbon import g_per_kwh
from codesign.study.config import PaperConfig
from codesign.study.finding import (
    IN_PART,
    NO,
    YES,
    Everything,
    Finding,
    Row,
    Verdict,
    best_on,
    grade_of,
    grade_of_all,
    limits_of,
    list_of,
    mean_of,
    row_of,
    saving_percent_of,
    text_of,
)
from codesign.study.published import claims, designs, networks


def compute_finding(priced: Everything, config: PaperConfig) -> Finding:
    """What the limits of compute do to the accelerators of least carbon and least energy."""
    rows = []
    more: dict[str, dict[str, list[float | None]]] = {c: {} for c in priced}
    for model in config.models:
        for tops in config.tops:
            limits = dataclasses.replace(config.limits, tops=tops)
            least = best_on(priced, model, "carbon", limits)
            frugal = best_on(priced, model, "energy", limits)
            subject = f"{model}, {tops:g} TOPS"
            excess = {}
            for costing in priced:
                saving = saving_percent_of(least[costing], frugal[costing])
                excess[costing] = None if saving is None else 100 * saving / (100 - saving)
                more[costing].setdefault(model, []).append(excess[costing])
            rows += [
                row_of(subject, "carbon_kgco2e", least),
                row_of(subject, "operational_percent", least),
                Row(f"{subject}, least energy", "more_carbon_percent", excess),
            ]

    def verdict(costing: str) -> Verdict:
        ends = [
            (values[0], values[-1])
            for values in more[costing].values()
            if values[0] is not None and values[-1] is not None
        ]
        nearer = [tight < loose or tight == loose == 0 for tight, loose in ends]
        holds = NO if not any(nearer) else YES if all(nearer) else IN_PART
        words = "; ".join(f"{m} {list_of(v, '.1f')} %" for m, v in more[costing].items())
        limits = ", ".join(f"{tops:g}" for tops in config.tops)
        return Verdict(
            holds,
            f"More carbon of the accelerator of least energy than of the one of least carbon, at "
            f"{limits} TOPS: {words}.",
        )

    return Finding(
        "compute",
        "Limits of compute",
        "The tighter the compute, the nearer is the accelerator of least energy to the one of "
        "least carbon (section 4.5; figure 5 has no numbers).",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )


def latency_finding(priced: Everything, config: PaperConfig) -> Finding:
    """What the limits of latency cost."""
    rows = []
    saved: dict[str, dict[str, list[float | None]]] = {c: {} for c in priced}
    for model in config.models:
        fastest = best_on(priced, model, "latency", config.limits)
        rows.append(row_of(f"{model}, fastest", "carbon_kgco2e", fastest))
        for latency_s in config.latency_s:
            limits = dataclasses.replace(config.limits, latency_s=latency_s)
            least = best_on(priced, model, "carbon", limits)
            savings = {c: saving_percent_of(least[c], fastest[c]) for c in priced}
            for costing, saving in savings.items():
                saved[costing].setdefault(model, []).append(saving)
            subject = f"{model}, within {1e3 * latency_s:g} ms"
            rows += [
                row_of(subject, "carbon_kgco2e", least),
                Row(f"{subject}, of the fastest", "saving_percent", savings),
            ]
    for claim in claims("latency"):
        wanted = float(claim.subject.split()[1]) * 1e-3
        for i, latency_s in enumerate(config.latency_s):
            if np.isclose(latency_s, wanted):
                mean = {c: mean_of([x[i] for x in saved[c].values()]) for c in priced}
                rows.append(
                    Row(
                        f"mean, {claim.subject}; published: of searched networks",
                        claim.quantity,
                        mean,
                        {},
                        claim.published,
                        claim.source,
                    )
                )

    def verdict(costing: str) -> Verdict:
        tight, flat = [], []
        for savings in saved[costing].values():
            first, *_, before, last = [
                x if x is not None else -np.inf for x in (savings[0], *savings)
            ]
            tight.append(first < last - 1)
            flat.append(last - before <= 1)
        both = all(tight), all(flat)
        words = "; ".join(f"{m} {list_of(v)} %" for m, v in saved[costing].items())
        limits = ", ".join(f"{1e3 * x:g}" for x in config.latency_s)
        return Verdict(
            YES if all(both) else IN_PART if any(both) else NO,
            f"Saved of the fastest accelerator's carbon within {limits} ms: {words}.",
        )

    return Finding(
        "latency",
        "Limits of latency",
        "A tight limit costs carbon; the loosest saves hardly more than the one before, here: "
        "within a hundredth of the fastest accelerator's carbon.",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )


def regions_finding(priced: Everything, config: PaperConfig) -> Finding:
    """What the grid of use does to accelerators, and to what carbon is made of."""
    limits = limits_of(config)
    rows = []
    means: dict[str, dict[str, float | None]] = {}
    stated = {claim.subject: claim for claim in claims("regions")}
    for region in _dirtiest_first(config.regions):
        savings: dict[str, list[float | None]] = {c: [] for c in priced}
        for model in config.models:
            least = best_on(priced, model, "carbon", limits, region)
            frugal = best_on(priced, model, "energy", limits, region)
            saved = {c: saving_percent_of(least[c], frugal[c]) for c in priced}
            for costing, saving in saved.items():
                savings[costing].append(saving)
            rows += [
                row_of(f"{model}, {region}", "carbon_kgco2e", least),
                row_of(f"{model}, {region}", "operational_percent", least),
                Row(f"{model}, {region}, of least energy", "saving_percent", saved),
            ]
        means[region] = {c: mean_of(values) for c, values in savings.items()}
        claim = stated.get(region)
        if claim is not None:
            rows.append(
                Row(
                    f"mean, {region}; published: of searched networks",
                    claim.quantity,
                    means[region],
                    {},
                    claim.published,
                    claim.source,
                )
            )

    def verdict(costing: str) -> Verdict:
        values = [mean[costing] for mean in means.values()]
        first, last = values[0], values[-1]
        words = ", ".join(f"{region} {text_of(x[costing], '.1f')} %" for region, x in means.items())
        holds = first is not None and last is not None and last > first
        return Verdict(
            YES if holds else NO,
            f"Saved by the accelerator of least carbon of the one of least energy: {words}.",
        )

    return Finding(
        "regions",
        "Regions of high, middle and low carbon intensity",
        "The cleaner the grid, the more does it save to optimise carbon instead of energy.",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )


def _dirtiest_first(regions: Sequence[str]) -> list[str]:
    return sorted(regions, key=lambda region: -g_per_kwh("use_grid", region))


def shares_finding(priced: Everything, config: PaperConfig) -> Finding:
    """How much of the carbon is operational, by size of the network."""
    sizes = [n for n in networks() if n.startswith("carbonclip-") and "-32-" not in n]
    printed = {d.network: d for d in designs()}
    stated = {claim.subject: claim for claim in claims("shares")}
    rows = []
    found: dict[str, list[float | None]] = {c: [] for c in priced}
    for network in sizes:
        there = {
            c: each.published(network, printed[network].accelerator) for c, each in priced.items()
        }
        best = best_on(priced, network, "carbon", limits_of(config))
        for where, at in (("published accelerator", there), ("best accelerator", best)):
            claim = stated.get(network)
            row = row_of(f"{network}, {where}", "operational_percent", at)
            if claim is not None:
                row = dataclasses.replace(row, published=claim.published, source=claim.source)
            rows.append(row)
        for costing in priced:
            found[costing].append(rows[-2].found[costing])

    def verdict(costing: str) -> Verdict:
        values = [x for x in found[costing] if x is not None]
        ends = [
            grade_of(values[0], stated[sizes[0]].published),
            grade_of(values[-1], stated[sizes[-1]].published),
        ]
        rising = values[-1] > values[0]
        return Verdict(
            grade_of_all(ends) if rising else NO,
            f"From XS to XL, on the published accelerators: {list_of(found[costing])} %.",
        )

    return Finding(
        "shares",
        "Share of operational carbon by size",
        "The share of operational carbon grows with the network, from 20 % to over 40 %.",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )
