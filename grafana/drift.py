"""The dashboard of drift: is there evidence, how large is it, where does it begin, and how do versions compare."""

from __future__ import annotations

from panels import Panel, Query, Row, dashboard
from queries import (
    ANNOTATIONS,
    BY_MODEL,
    MODEL,
    OF_A_TAP,
    OF_LAYERS,
    TAP,
    layers,
    model,
    tap,
    tap_at_instance,
)


def _classes(expr: str, instance: str) -> Query:
    """One line for each predicted class."""
    return Query(expr.format(MODEL), f"{BY_MODEL} {{{{class}}}}{instance}")


def _effect(series: str) -> Query:
    return tap(series, "max", within=TAP)


EVIDENCE = Row("Evidence against its alarm level", (
    Panel(
        "Evidence of the model",
        "Evidence of all layers together, of small shifts in their common direction, of the output and of the mix of "
        "classes, each as a share of its alarm level; empty until the reference is ready. Good: below 80%. At 100% "
        "without drift once in drift.requests_between_false_alarms requests.",
        "percentunit",
        (
            model("model:sidecar_drift_evidence:level_ratio", "max", f"{BY_MODEL} all"),
            model("model:sidecar_drift_direction_evidence:level_ratio", "max", f"{BY_MODEL} direction"),
            model("model:sidecar_drift_output_evidence:level_ratio", "max", f"{BY_MODEL} output"),
            model("model:sidecar_drift_class_evidence:level_ratio", "max", f"{BY_MODEL} classes"),
        ),
        12, low=0, steps=((1, "red"),),
    ),
    Panel(
        "Evidence, layer by time",
        "Evidence as a share of its alarm level, one row of cells for each layer, the strongest site of it. Good: pale "
        "all over. One dark row is a fault in that layer; everything dark from one row upwards began there.",
        "percentunit", (layers("tap:sidecar_drift_evidence:level_ratio", "max"),), 12, "heatmap", low=0, high=1,
    ),
    Panel(
        "Evidence of a layer",
        "The layer's e-detector as a share of its alarm level, both as logarithms; empty until the reference "
        "is ready. Good: wandering below 80%. From 100% on the layer alarms.",
        "percentunit", (_effect("tap:sidecar_drift_evidence:level_ratio"),), 12, low=0, steps=((1, "red"),),
        links=OF_A_TAP,
    ),
    Panel(
        "Share of time in drift",
        "Share of the last 5 minutes, 30 minutes, hour and 6 hours with material drift. Good: 0. SidecarDriftBurnFast "
        "fires at 14.4% of the hour and of 5 minutes, SidecarDriftBurnSlow at 6% of six hours and of 30 minutes.",
        "percentunit",
        tuple(
            model(f"model:sidecar_drift_material:ratio_{window}", "max", f"{BY_MODEL} {window}")
            for window in ("5m", "30m", "1h", "6h")
        ),
        12, low=0, steps=((0.06, "orange"), (0.144, "red")),
    ),
))  # fmt: skip

EFFECTS = Row("Effect sizes", (
    Panel(
        "Effect over its level without drift",
        "The largest of all effect sizes of the layer over the level that it passes in one window of a thousand "
        "without drift. Good: below 1.",
        "short", (_effect("sidecar_drift_times_level_ratio"),), 8, low=0, steps=((1, "orange"),), links=OF_A_TAP,
    ),
    Panel(
        "Population stability index",
        "How far the distribution of values lies from the reference, the value expected without drift "
        "subtracted; empty until the reference is ready. Good: around 0. From 0.1 on it matters.",
        "short", (_effect("sidecar_drift_psi"),), 8, steps=((0.1, "red"),), links=OF_A_TAP,
    ),
    Panel(
        "Mean shift",
        "Shift of the request statistic that moved most, in standard deviations of the reference's requests; empty "
        "until the reference is ready. Good: within half a standard deviation of 0.",
        "short", (tap_at_instance("sidecar_drift_mean_shift_sigmas"),), 8, links=OF_A_TAP,
    ),
    Panel(
        "Jensen-Shannon divergence",
        "Distance of the distributions from 0 (equal) to 1 (disjoint), the value expected without drift "
        "subtracted. Good: around 0.",
        "short", (_effect("sidecar_drift_jensen_shannon"),), 6, links=OF_A_TAP,
    ),
    Panel(
        "Kolmogorov-Smirnov distance",
        "Largest distance of the cumulative distributions, 0 to 1, the value expected without drift subtracted. "
        "Good: around 0. A shift of a Gaussian by one standard deviation has 0.38.",
        "short", (_effect("sidecar_drift_kolmogorov_smirnov"),), 6, links=OF_A_TAP,
    ),
    Panel(
        "Wasserstein distance",
        "How far values must move to become the reference, in its standard deviations, the value expected without "
        "drift subtracted. Good: around 0. A shift by one standard deviation has 1.",
        "short", (_effect("sidecar_drift_wasserstein_sigmas"),), 6, links=OF_A_TAP,
    ),
    Panel(
        "Fréchet distance",
        "Squared, of 32 projections of channel means, each in its standard deviations, the "
        "value expected without drift subtracted. Good: around 0.",
        "short", (_effect("sidecar_drift_frechet"),), 6, links=OF_A_TAP,
    ),
))  # fmt: skip

CAUSES = Row("Causes and classes", (
    Panel(
        "Where drift begins, layer by time",
        "Dark where the drift that is active begins: the first layer in depth order whose evidence passed. Good: "
        "empty. Layer 0 speaks of the inputs, a later one of that layer.",
        "short", (layers("sidecar_drift_cause", "max"),), 8, "heatmap", low=0, high=1,
    ),
    Panel(
        "What explains it",
        "1 while drift is active and of that kind: numeric (NaN, infinities), mix (other shares of classes or routes) "
        "or covariate (neither). Good: all 0.",
        "short", (model("sidecar_drift_cause_kind", "max", f"{BY_MODEL} {{{{kind}}}}", also="kind"),), 8, low=0, high=1,
    ),
    Panel(
        "Evidence of another class mix",
        "Evidence that the shares of the predicted classes changed, as a share of the level at which it alarms alone "
        "(ln 4 above the model's); 0 of what is no classifier or is judged class by class. Good: below 80%.",
        "percentunit", (model("model:sidecar_drift_class_evidence:level_ratio", "max"),), 8, low=0, steps=((1, "red"),),
    ),
    Panel(
        "Class mix",
        "Share of each predicted class over drift.window_seconds: the reference's ten most frequent, and all others. "
        "Good: steady, or swinging as the day does. Empty without a classifier or a complete reference.",
        "percentunit",
        (_classes('avg by (model, version, class) (sidecar_drift_class_ratio{{{}, side="window"}})', ""),), 12, low=0,
    ),
    Panel(
        "Classes whose share changed",
        "Share of each predicted class less its share in the reference. Good: around 0; with 1,000 requests in the "
        "window chance alone moves a class of 10% by up to 3 points.",
        "percentunit",
        (_classes(
            'max by (model, version, class, instance) (sidecar_drift_class_ratio{{{0}, side="window"}} '
            '- ignoring (side) sidecar_drift_class_ratio{{{0}, side="reference"}})', " {{instance}}",
        ),),
        12,
    ),
))  # fmt: skip

BETWEEN = Row("Between requests", (
    Panel(
        "Requests that look different",
        "Distinct firing patterns (signs of 32 projections of channel means) as a share of "
        "the newest 512 requests, at the tap where it is least. Good: steady; fewer where requests repeat or resemble "
        "each other. SidecarRepetition fires when it falls to half.",
        "percentunit", (model("sidecar_instability_distinct_ratio", "min"),), 8, low=0, high=1,
    ),
    Panel(
        "Directions in which requests differ",
        "Participation ratio and effective rank of 32 projections of channel means, 1 to 32, at the tap where each "
        "is least. Good: steady. 1 says that all requests differ in one way only.",
        "short",
        (
            model("sidecar_instability_participation_ratio", "min", f"{BY_MODEL} participation ratio"),
            model("sidecar_instability_effective_rank", "min", f"{BY_MODEL} effective rank"),
        ),
        8, low=0,
    ),
    Panel(
        "One request and the next",
        "Mean cosine between neighbours, largest of all taps, and autocorrelation of their means, least of all taps. "
        "Good: both around 0, as of independent requests.",
        "short",
        (
            model("sidecar_instability_self_similarity", "max", f"{BY_MODEL} self-similarity"),
            model("sidecar_instability_autocorrelation", "min", f"{BY_MODEL} autocorrelation"),
        ),
        8, low=-1, high=1,
    ),
    Panel(
        "Variance between requests",
        "Variance between the means of requests as a share of that of all values, largest of all taps. Good: steady. "
        "Near 0 all requests look alike in the mean.",
        "percentunit", (model("sidecar_instability_between_request_variance_ratio", "max"),), 12, low=0,
    ),
    Panel(
        "Sign changes",
        "Share of steps from one request to the next that cross the median, largest of all taps. Good: about 50%, as "
        "by chance (blue line). Near 100% the model alternates.",
        "percentunit", (model("sidecar_instability_sign_changes_ratio", "max"),), 12, low=0, high=1,
        steps=((0.5, "blue"),),
    ),
))  # fmt: skip

REFERENCE = Row("Reference", (
    Panel(
        "Reference requests",
        "Requests in the reference so far. Good: rises to drift.reference_requests, then stays; 5,000 and more.",
        "short", (model("sidecar_reference_requests", "min"),), 8, low=0,
    ),
    Panel(
        "Age of the reference",
        "Time since the newest request of the reference; empty until it is complete. Good: below 30 days; beyond, "
        "SidecarReferenceStale fires.",
        "s", (model("model:sidecar_reference:age_seconds", "max"),), 8, low=0, steps=((30 * 86_400, "orange"),),
    ),
    Panel(
        "What a small reference costs",
        "What a bet on a shift of one sigma is divided by, because the reference is finite. Good: 1.04 and less, as of "
        "5,000 requests (blue line); larger, and small drift takes longer to find.",
        "short", (model("sidecar_reference_widening_ratio", "max"),), 8, steps=((1.04, "blue"),),
    ),
))  # fmt: skip

VERSIONS = Row("Versions, each against the model's first", (
    Panel(
        "Effect against the first version",
        "The largest of all effect sizes over its level without a difference; empty where one version is served. Good: "
        "below 1, or as far as the new weights are meant to differ.",
        "short", (_effect("sidecar_version_times_level_ratio"),), 8, low=0, steps=((1, "orange"),), links=OF_A_TAP,
    ),
    Panel(
        "Stability index against the first version",
        "Population stability index of the values, both versions in the same window; empty where one version is "
        "served. Good: around 0, below 0.1.",
        "short", (_effect("sidecar_version_psi"),), 8, steps=((0.1, "red"),), links=OF_A_TAP,
    ),
    Panel(
        "Mean shift against the first version",
        "Shift of the request statistic that differs most, in standard deviations of the first version's requests; "
        "empty where one version is served. Good: within half a standard deviation of 0.",
        "short", (tap_at_instance("sidecar_version_mean_shift_sigmas"),), 8, links=OF_A_TAP,
    ),
))  # fmt: skip

DRIFT = dashboard(
    "activation-sidecar-drift",
    "Activation sidecar / Drift",
    "Evidence and effect sizes of drift, its causes, the reference, and versions beside each other.",
    OF_LAYERS,
    ANNOTATIONS,
    (EVIDENCE, EFFECTS, CAUSES, BETWEEN, REFERENCE, VERSIONS),
)
