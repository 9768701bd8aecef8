"""The findings of CATransformers (arXiv 2505.01386), each computed from priced networks.

A finding has a claim, which is the paper's, rows, which are numbers beside the published ones, and
a verdict under each costing: "yes", the claim holds; "in part"; "no". Where the paper gives a size,
"yes" takes the same sign and at least half of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from codesign.cost.carbon import g_per_kwh
from codesign.search.objectives import Limits
from codesign.study.config import PaperConfig
from codesign.study.priced import At, Priced
from codesign.study.published import Claim, as_printed, claims, designs, networks

# Under each costing, by its name.
Of: TypeAlias = Mapping[str, Any]
YES, IN_PART, NO = "yes", "in part", "no"
# How near a published figure counts as the same.
_SAME = 0.05


class Verdict(NamedTuple):
    """Whether a claim holds under a costing, and the numbers that say so, in a sentence."""

    holds: str
    why: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a finding.

    Attributes:
      subject: what it is of.
      quantity: what it is, with its unit: "carbon_kgco2e", "latency_ms", "saving_percent", ...
      found: the number under each costing; None: no accelerator meets the limits.
      accelerators: what it was found on, where it is of one accelerator.
      published: the paper's number; None: there is none.
      source: table or section of the paper.
    """

    subject: str
    quantity: str
    found: Mapping[str, float | None]
    accelerators: Mapping[str, dict[str, Any] | None] = dataclasses.field(default_factory=dict)
    published: float | None = None
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """A claim of the paper, and what becomes of it.

    Attributes:
      name: of it.
      title: in words.
      claim: what the paper concludes.
      rows: the numbers.
      verdicts: by costing.
    """

    name: str
    title: str
    claim: str
    rows: tuple[Row, ...]
    verdicts: Mapping[str, Verdict]


Everything: TypeAlias = Mapping[str, Priced]


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
        _compute(priced, config),
        _latency(priced, config),
        _regions(priced, config),
        _shares(priced, config),
    ]


# What of a network on an accelerator, by quantity.
_QUANTITIES: dict[str, Callable[[At], float]] = {
    "carbon_kgco2e": lambda at: at.costs.carbon_kgco2e,
    "latency_ms": lambda at: 1e3 * at.costs.latency_s,
    "operational_percent": lambda at: 100 * at.costs.operational_kgco2e / at.costs.carbon_kgco2e,
}


def _row(
    subject: str,
    quantity: str,
    where: Mapping[str, At | None],
    published: float | None = None,
    source: str | None = None,
) -> Row:
    """A number of a network on an accelerator under each costing."""
    of = _QUANTITIES[quantity]
    return Row(
        subject,
        quantity,
        {costing: None if at is None else of(at) for costing, at in where.items()},
        {c: None if at is None else dataclasses.asdict(at.accelerator) for c, at in where.items()},
        published,
        source,
    )


def _saving_percent(better: At | None, worse: At | None) -> float | None:
    if better is None or worse is None:
        return None
    return 100 * (1 - better.costs.carbon_kgco2e / worse.costs.carbon_kgco2e)


def _slowdown(slower: At | None, faster: At | None) -> float | None:
    if slower is None or faster is None:
        return None
    return slower.costs.latency_s / faster.costs.latency_s


def _best(
    priced: Everything, network: str, mode: str, limits: Limits, region: str = ""
) -> dict[str, At | None]:
    return {c: each.best(network, mode, limits, region) for c, each in priced.items()}


def _within(config: PaperConfig) -> Limits:
    """The limits where latency is none of the objectives."""
    latencies = config.latency_s
    return dataclasses.replace(config.limits, latency_s=latencies[len(latencies) // 2])


def _variants(network: str) -> list[str]:
    """As released and, of TinyCLIP, as published costs have it."""
    return list(dict.fromkeys([network, as_printed(network)]))


def _grade(found: float | None, published: float) -> str:
    """The verdict on one number that the paper gives a size of."""
    if found is None or found / published <= 0:
        return NO
    return YES if found / published >= 0.5 else IN_PART


def _all(grades: Sequence[str]) -> str:
    """The verdict on several."""
    if all(grade == YES for grade in grades):
        return YES
    return NO if all(grade == NO for grade in grades) else IN_PART


def _text(value: float | None, form: str = ".0f") -> str:
    return "none" if value is None else format(value, form)


def _list(values: Sequence[float | None], form: str = ".0f") -> str:
    return ", ".join(_text(value, form) for value in values)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


# ---- the published designs ---------------------------------------------------------------


def _printed(priced: Everything) -> Finding:
    """Every published design priced as it is."""
    rows = []
    for design in designs():
        for network in _variants(design.network):
            at = {c: each.published(network, design.accelerator) for c, each in priced.items()}
            subject = f"{network}, least {design.optimised}"
            numbers = (
                ("carbon_kgco2e", design.carbon_kgco2e),
                ("latency_ms", design.latency_ms),
            )
            rows += [_row(subject, name, at, value, design.source) for name, value in numbers]
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
                each.best(carbon.network, "carbon", _within(config)),
                each.best(latency.network, "latency", config.limits),
            )
            for c, each in priced.items()
        }
        subject = f"{level.replace('b16-', 'ViT-B/16 at ')} %"
        saved = 100 * (1 - carbon.carbon_kgco2e / latency.carbon_kgco2e)
        slower = carbon.latency_ms / latency.latency_ms
        for where, at in (("published accelerators", there), ("best accelerators", searched)):
            savings = {c: _saving_percent(*pair) for c, pair in at.items()}
            slowdowns = {c: _slowdown(*pair) for c, pair in at.items()}
            rows += [
                Row(f"{subject}, {where}", "saving_percent", savings, {}, saved, carbon.source),
                Row(f"{subject}, {where}", "slowdown", slowdowns, {}, slower, carbon.source),
            ]
            if at is searched:
                own.append((savings, slowdowns))
    means = [{c: _mean([pair[i][c] for pair in own]) for c in priced} for i in range(2)]
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
            _grade(mean[costing], claim.published)
            for claim, mean in zip(claims("modes"), means, strict=True)
        ]
        saving, slowdown = (mean[costing] for mean in means)
        return Verdict(
            _all(grades),
            f"Networks chosen for carbon save {_text(saving)} % on the average of three "
            f"accuracies, at {_text(slowdown, '.1f')} times the latency of those chosen for "
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
        for network in _variants(design.network):
            at = _best(priced, network, design.optimised, config.limits)
            subject = f"{network}, least {design.optimised}"
            rows += [
                _row(subject, "carbon_kgco2e", at, design.carbon_kgco2e, design.source),
                _row(subject, "latency_ms", at, design.latency_ms, design.source),
            ]
            if design.optimised != "carbon":
                continue
            fastest = _best(priced, network, "latency", config.limits)
            for costing, least in at.items():
                fast = fastest[costing]
                if least is None or fast is None:
                    continue
                is_smaller = least.costs.area_mm2 < fast.costs.area_mm2
                is_slower = least.costs.latency_s > fast.costs.latency_s
                smaller[costing].append(is_smaller and is_slower)
                saved[costing].append(_saving_percent(least, fast) or 0.0)
                slower[costing].append(_slowdown(least, fast) or 0.0)

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
            ours = _best(priced, variant(large), mode, config.limits)
            theirs = _best(priced, variant(small), mode, config.limits)
            a, b = printed[large, mode], printed[small, mode]
            if mode == "carbon":
                value = {c: _saving_percent(ours[c], theirs[c]) for c in priced}
                published = 100 * (1 - a.carbon_kgco2e / b.carbon_kgco2e)
                quantity = "saving_percent"
            else:
                value = {c: _slowdown(theirs[c], ours[c]) for c in priced}
                published, quantity = b.latency_ms / a.latency_ms, "speedup"
            found.setdefault(mode, value)
            subject = f"{large} of {small}, each of least {mode}, {name}"
            rows.append(Row(subject, quantity, value, {}, published, a.source))

    def verdict(costing: str) -> Verdict:
        saving, speedup = found["carbon"][costing], found["latency"][costing]
        better = [(saving or 0) > 0, (speedup or 0) > 1]
        return Verdict(
            YES if all(better) else IN_PART if any(better) else NO,
            f"As released it saves {_text(saving, '.1f')} % of the carbon, and its fastest "
            f"accelerator is {_text(speedup, '.2f')} times as fast.",
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
    limits = _within(config)
    for network in members:
        for variant in _variants(network):
            at = _best(priced, variant, "carbon", limits)
            design = printed[network]
            subject = f"{variant}, best accelerator"
            rows += [
                _row(subject, "carbon_kgco2e", at, design.carbon_kgco2e, design.source),
                _row(subject, "latency_ms", at, design.latency_ms, design.source),
            ]
    released: dict[Claim, dict[str, float | None]] = {}
    printed_layers: dict[Claim, dict[str, float | None]] = {}
    for claim, (ours, baseline) in pairs.items():
        for variant in _variants(baseline):
            subject = f"{ours} of {variant}"
            there = {
                c: _saving_percent(
                    each.published(ours, printed[ours].accelerator),
                    each.published(variant, printed[baseline].accelerator),
                )
                for c, each in priced.items()
            }
            best = {
                c: _saving_percent(
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
        grades = [_grade(released[claim][costing], claim.published) for claim in stated]
        words = "; ".join(
            f"{claim.subject} {_text(released[claim][costing], '.1f')} / "
            f"{_text(printed_layers[claim][costing], '.1f')} / {claim.published:g} %"
            for claim in stated
        )
        return Verdict(
            _all(grades),
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


# ---- limits, regions, shares -------------------------------------------------------------


def _compute(priced: Everything, config: PaperConfig) -> Finding:
    rows = []
    more: dict[str, dict[str, list[float | None]]] = {c: {} for c in priced}
    for model in config.models:
        for tops in config.tops:
            limits = dataclasses.replace(config.limits, tops=tops)
            least = _best(priced, model, "carbon", limits)
            frugal = _best(priced, model, "energy", limits)
            subject = f"{model}, {tops:g} TOPS"
            excess = {}
            for costing in priced:
                saving = _saving_percent(least[costing], frugal[costing])
                excess[costing] = None if saving is None else 100 * saving / (100 - saving)
                more[costing].setdefault(model, []).append(excess[costing])
            rows += [
                _row(subject, "carbon_kgco2e", least),
                _row(subject, "operational_percent", least),
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
        words = "; ".join(f"{m} {_list(v, '.1f')} %" for m, v in more[costing].items())
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


def _latency(priced: Everything, config: PaperConfig) -> Finding:
    rows = []
    saved: dict[str, dict[str, list[float | None]]] = {c: {} for c in priced}
    for model in config.models:
        fastest = _best(priced, model, "latency", config.limits)
        rows.append(_row(f"{model}, fastest", "carbon_kgco2e", fastest))
        for latency_s in config.latency_s:
            limits = dataclasses.replace(config.limits, latency_s=latency_s)
            least = _best(priced, model, "carbon", limits)
            savings = {c: _saving_percent(least[c], fastest[c]) for c in priced}
            for costing, saving in savings.items():
                saved[costing].setdefault(model, []).append(saving)
            subject = f"{model}, within {1e3 * latency_s:g} ms"
            rows += [
                _row(subject, "carbon_kgco2e", least),
                Row(f"{subject}, of the fastest", "saving_percent", savings),
            ]
    for claim in claims("latency"):
        wanted = float(claim.subject.split()[1]) * 1e-3
        for i, latency_s in enumerate(config.latency_s):
            if np.isclose(latency_s, wanted):
                mean = {c: _mean([x[i] for x in saved[c].values()]) for c in priced}
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
        words = "; ".join(f"{m} {_list(v)} %" for m, v in saved[costing].items())
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


def _regions(priced: Everything, config: PaperConfig) -> Finding:
    limits = _within(config)
    rows = []
    means: dict[str, dict[str, float | None]] = {}
    stated = {claim.subject: claim for claim in claims("regions")}
    for region in _dirtiest_first(config.regions):
        savings: dict[str, list[float | None]] = {c: [] for c in priced}
        for model in config.models:
            least = _best(priced, model, "carbon", limits, region)
            frugal = _best(priced, model, "energy", limits, region)
            saved = {c: _saving_percent(least[c], frugal[c]) for c in priced}
            for costing, saving in saved.items():
                savings[costing].append(saving)
            rows += [
                _row(f"{model}, {region}", "carbon_kgco2e", least),
                _row(f"{model}, {region}", "operational_percent", least),
                Row(f"{model}, {region}, of least energy", "saving_percent", saved),
            ]
        means[region] = {c: _mean(values) for c, values in savings.items()}
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
        words = ", ".join(f"{region} {_text(x[costing], '.1f')} %" for region, x in means.items())
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


def _shares(priced: Everything, config: PaperConfig) -> Finding:
    sizes = [n for n in networks() if n.startswith("carbonclip-") and "-32-" not in n]
    printed = {d.network: d for d in designs()}
    stated = {claim.subject: claim for claim in claims("shares")}
    rows = []
    found: dict[str, list[float | None]] = {c: [] for c in priced}
    for network in sizes:
        there = {
            c: each.published(network, printed[network].accelerator) for c, each in priced.items()
        }
        best = _best(priced, network, "carbon", _within(config))
        for where, at in (("published accelerator", there), ("best accelerator", best)):
            claim = stated.get(network)
            row = _row(f"{network}, {where}", "operational_percent", at)
            if claim is not None:
                row = dataclasses.replace(row, published=claim.published, source=claim.source)
            rows.append(row)
        for costing in priced:
            found[costing].append(rows[-2].found[costing])

    def verdict(costing: str) -> Verdict:
        values = [x for x in found[costing] if x is not None]
        ends = [
            _grade(values[0], stated[sizes[0]].published),
            _grade(values[-1], stated[sizes[-1]].published),
        ]
        rising = values[-1] > values[0]
        return Verdict(
            _all(ends) if rising else NO,
            f"From XS to XL, on the published accelerators: {_list(found[costing])} %.",
        )

    return Finding(
        "shares",
        "Share of operational carbon by size",
        "The share of operational carbon grows with the network, from 20 % to over 40 %.",
        tuple(rows),
        {costing: verdict(costing) for costing in priced},
    )
