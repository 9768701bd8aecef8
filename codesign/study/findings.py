"""The findings of CATransformers (arXiv 2505.01386), in order; here those on its networks.

What becomes of these under other limits and in other places is in limits.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from codesign.study import limits
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
    mean_of,
    row_of,
    saving_percent_of,
    slowdown_of,
    text_of,
    variants_of,
)
from codesign.study.published import Claim, as_printed, claims, designs

# How near a published figure counts as the same.
_SAME = 0.05


def findings(priced: Everything, config: PaperConfig) -> list[Finding]:
    """All findings, in the order of the paper.

    Args:
      priced: by costing.
      config: limits, regions and models.
    """
    return [
        _printed(priced),
        _modes(priced, config),
        _fixed(priced, config),
        _patch(priced, config),
        _family(priced, config, "family", "CarbonCLIP against TinyCLIP and CLIP-B/16"),
        _family(priced, config, "family-32", "CarbonCLIP-B/32 against TinyCLIP of patch 32"),
        limits.compute_finding(priced, config),
        limits.latency_finding(priced, config),
        limits.regions_finding(priced, config),
        limits.shares_finding(priced, config),
    ]


def _printed(priced: Everything) -> Finding:
    """Every published design priced as it is."""
    rows = []
    for design in designs():
        for network in variants_of(design.network):
            at = {c: each.published(network, design.accelerator) for c, each in priced.items()}
            subject = f"{network}, least {design.optimised}"
            numbers = (
                ("carbon_kgco2e", design.carbon_kgco2e),
                ("latency_ms", design.latency_ms),
            )
            rows += [row_of(subject, name, at, value, design.source) for name, value in numbers]
    return Finding(
        "designs",
        "Published designs on their published accelerators",
        f"The costs that are printed; here: to {100 * _SAME:.0f} %.",
        tuple(rows),
        {costing: _printed_verdict(rows, costing) for costing in priced},
    )


def _printed_verdict(rows: Sequence[Row], costing: str) -> Verdict:
    near = [row for row in rows if abs(_ratio(row, costing) - 1) <= _SAME]
    share = len(near) / len(rows)
    holds = YES if share == 1 else IN_PART if share >= 0.5 else NO
    by = {
        quantity: [_ratio(row, costing) for row in rows if row.quantity == quantity]
        for quantity in ("carbon_kgco2e", "latency_ms")
    }
    carbon, latency = (f"{min(x):.2f} to {max(x):.2f}" for x in by.values())
    return Verdict(
        holds,
        f"{len(near)} of {len(rows)} figures come out to {100 * _SAME:.0f} %; ours are {carbon} of "
        f"the printed carbon and {latency} of the printed latency.",
    )


def _ratio(row: Row, costing: str) -> float:
    found = row.found[costing]
    assert found is not None and row.published is not None
    return found / row.published


# ---- carbon- against latency-optimised ---------------------------------------------------


def _modes(priced: Everything, config: PaperConfig) -> Finding:
    by_name = {design.network: design for design in designs()}
    levels = [n.removesuffix("-carbon") for n in by_name if n.startswith("b16-") and "carbon" in n]
    rows: list[Row] = []
    own: list[tuple[dict[str, float | None], dict[str, float | None]]] = []
    for level in levels:
        carbon, latency = by_name[f"{level}-carbon"], by_name[f"{level}-latency"]
        pairs = (
            [(each.published(carbon.network, carbon.accelerator)) for each in priced.values()],
            [each.published(latency.network, latency.accelerator) for each in priced.values()],
        )
        there = dict(zip(priced, zip(*pairs, strict=True), strict=True))
        searched = {
            c: (
                each.best(carbon.network, "carbon", limits_of(config)),
                each.best(latency.network, "latency", config.limits),
            )
            for c, each in priced.items()
        }
        subject = f"{level.replace('b16-', 'ViT-B/16 at ')} %"
        saved = 100 * (1 - carbon.carbon_kgco2e / latency.carbon_kgco2e)
        slower = carbon.latency_ms / latency.latency_ms
        for where, at in (("published accelerators", there), ("best accelerators", searched)):
            savings = {c: saving_percent_of(*pair) for c, pair in at.items()}
            slowdowns = {c: slowdown_of(*pair) for c, pair in at.items()}
            rows += [
                Row(f"{subject}, {where}", "saving_percent", savings, {}, saved, carbon.source),
                Row(f"{subject}, {where}", "slowdown", slowdowns, {}, slower, carbon.source),
            ]
            if at is searched:
                own.append((savings, slowdowns))
    means = [{c: mean_of([pair[i][c] for pair in own]) for c in priced} for i in range(2)]
    for claim, mean in zip(claims("modes"), means, strict=True):
        rows.append(
            Row(
                f"mean, best accelerators; published: {claim.subject}",
                claim.quantity,
                mean,
                {},
                claim.published,
                claim.source,
            )
        )

    def verdict(costing: str) -> Verdict:
        grades = [
            grade_of(mean[costing], claim.published)
            for claim, mean in zip(claims("modes"), means, strict=True)
        ]
        saving, slowdown = (mean[costing] for mean in means)
        return Verdict(
            grade_of_all(grades),
            f"Networks chosen for carbon save {text_of(saving)} % on the average of three "
            f"accuracies, at {text_of(slowdown, '.1f')} times the latency of those chosen for "
            "latency, each on its best accelerator.",
        )

    return Finding(
        "modes",
        "Designs optimised for carbon against designs optimised for latency",
        "At one accuracy, optimising carbon saves 30 % of it and takes 7.7 times as long as "
        "optimising latency.",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )


# ---- accelerators of fixed networks ------------------------------------------------------


def _fixed(priced: Everything, config: PaperConfig) -> Finding:
    rows = []
    smaller: dict[str, list[bool]] = {c: [] for c in priced}
    saved: dict[str, list[float]] = {c: [] for c in priced}
    slower: dict[str, list[float]] = {c: [] for c in priced}
    for design in designs():
        if design.source != "table 2":
            continue
        for network in variants_of(design.network):
            at = best_on(priced, network, design.optimised, config.limits)
            subject = f"{network}, least {design.optimised}"
            rows += [
                row_of(subject, "carbon_kgco2e", at, design.carbon_kgco2e, design.source),
                row_of(subject, "latency_ms", at, design.latency_ms, design.source),
            ]
            if design.optimised != "carbon":
                continue
            fastest = best_on(priced, network, "latency", config.limits)
            for costing, least in at.items():
                fast = fastest[costing]
                if least is None or fast is None:
                    continue
                is_smaller = least.costs.area_mm2 < fast.costs.area_mm2
                is_slower = least.costs.latency_s > fast.costs.latency_s
                smaller[costing].append(is_smaller and is_slower)
                saved[costing].append(saving_percent_of(least, fast) or 0.0)
                slower[costing].append(slowdown_of(least, fast) or 0.0)

    def verdict(costing: str) -> Verdict:
        there = smaller[costing]
        if not there:
            return Verdict(NO, "No accelerator meets the limits.")
        holds = YES if all(there) else IN_PART if any(there) else NO
        return Verdict(
            holds,
            f"For {sum(there)} of {len(there)} networks the accelerator of least carbon is smaller "
            f"and slower than the fastest; it saves {min(saved[costing]):.0f} to "
            f"{max(saved[costing]):.0f} % of its carbon and takes {min(slower[costing]):.1f} to "
            f"{max(slower[costing]):.1f} times as long.",
        )

    return Finding(
        "fixed",
        "Accelerators of fixed CLIP and TinyCLIP",
        "The accelerator of least carbon has less compute and memory than the fastest, and takes "
        "longer.",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )


def _patch(priced: Everything, config: PaperConfig) -> Finding:
    """TinyCLIP-61M/32 against TinyCLIP-39M/16."""
    large, small = "tinyclip-61m-32", "tinyclip-39m-16"
    printed = {(d.network, d.optimised): d for d in designs()}
    rows = []
    found: dict[str, dict[str, float | None]] = {}
    for name, variant in (("as released", str), ("12 layers in both towers", as_printed)):
        for mode in ("carbon", "latency"):
            ours = best_on(priced, variant(large), mode, config.limits)
            theirs = best_on(priced, variant(small), mode, config.limits)
            a, b = printed[large, mode], printed[small, mode]
            if mode == "carbon":
                value = {c: saving_percent_of(ours[c], theirs[c]) for c in priced}
                published = 100 * (1 - a.carbon_kgco2e / b.carbon_kgco2e)
                quantity = "saving_percent"
            else:
                value = {c: slowdown_of(theirs[c], ours[c]) for c in priced}
                published, quantity = b.latency_ms / a.latency_ms, "speedup"
            found.setdefault(mode, value)
            subject = f"{large} of {small}, each of least {mode}, {name}"
            rows.append(Row(subject, quantity, value, {}, published, a.source))

    def verdict(costing: str) -> Verdict:
        saving, speedup = found["carbon"][costing], found["latency"][costing]
        better = [(saving or 0) > 0, (speedup or 0) > 1]
        return Verdict(
            YES if all(better) else IN_PART if any(better) else NO,
            f"As released it saves {text_of(saving, '.1f')} % of the carbon, and its fastest "
            f"accelerator is {text_of(speedup, '.2f')} times as fast.",
        )

    return Finding(
        "patch",
        "A larger patch against fewer parameters",
        "TinyCLIP-61M/32, with more parameters, takes less carbon and less time than "
        "TinyCLIP-39M/16 on an accelerator that suits its patch.",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )


# ---- the CarbonCLIP family ---------------------------------------------------------------


def _family(priced: Everything, config: PaperConfig, name: str, title: str) -> Finding:
    """CarbonCLIPs against the baselines that the paper holds them against."""
    stated = claims(name)
    printed = {d.network: d for d in designs() if d.optimised == "carbon"}
    pairs = {claim: claim.subject.split(" of ") for claim in stated}
    members = list(dict.fromkeys(network for pair in pairs.values() for network in pair))
    rows = []
    limits = limits_of(config)
    for network in members:
        for variant in variants_of(network):
            at = best_on(priced, variant, "carbon", limits)
            design = printed[network]
            subject = f"{variant}, best accelerator"
            rows += [
                row_of(subject, "carbon_kgco2e", at, design.carbon_kgco2e, design.source),
                row_of(subject, "latency_ms", at, design.latency_ms, design.source),
            ]
    released: dict[Claim, dict[str, float | None]] = {}
    printed_layers: dict[Claim, dict[str, float | None]] = {}
    for claim, (ours, baseline) in pairs.items():
        for variant in variants_of(baseline):
            subject = f"{ours} of {variant}"
            there = {
                c: saving_percent_of(
                    each.published(ours, printed[ours].accelerator),
                    each.published(variant, printed[baseline].accelerator),
                )
                for c, each in priced.items()
            }
            best = {
                c: saving_percent_of(
                    each.best(ours, "carbon", limits), each.best(variant, "carbon", limits)
                )
                for c, each in priced.items()
            }
            released.setdefault(claim, best)
            printed_layers[claim] = best
            for where, found in (("published accelerators", there), ("best accelerators", best)):
                rows.append(
                    Row(
                        f"{subject}, {where}",
                        claim.quantity,
                        found,
                        {},
                        claim.published,
                        claim.source,
                    )
                )

    def verdict(costing: str) -> Verdict:
        grades = [grade_of(released[claim][costing], claim.published) for claim in stated]
        words = "; ".join(
            f"{claim.subject} {text_of(released[claim][costing], '.1f')} / "
            f"{text_of(printed_layers[claim][costing], '.1f')} / {claim.published:g} %"
            for claim in stated
        )
        return Verdict(
            grade_of_all(grades),
            "Saved, each network on its best accelerator, the baseline as released / with the "
            f"layers of its published costs / as published: {words}.",
        )

    sizes = ", ".join(f"{claim.subject} {claim.published:g} %" for claim in stated)
    return Finding(
        name,
        title,
        f"At no less accuracy, or nearly, CarbonCLIP saves carbon: {sizes}.",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )
