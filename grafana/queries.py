"""How the dashboards ask: always by job and instance, over the instances that serve a model, by its labels."""

from __future__ import annotations

from panels import Annotation, Link, Query, Variable

PROCESS = 'job=~"$job", instance=~"$instance"'
MODEL = f'{PROCESS}, model=~"$model", version=~"$version"'
SITE = f'{MODEL}, site=~"$site"'
TAP = f'{SITE}, layer=~"$layer"'

BY_MODEL = "{{model}} {{version}}"
BY_TAP = "{{model}} {{version}} {{layer}}/{{site}}"

OF_MODELS = tuple(Variable(label, "sidecar_model_ready") for label in ("job", "instance", "model", "version"))
OF_TAPS = (*OF_MODELS, Variable("site", "sidecar_activation_channels"))
OF_LAYERS = (*OF_TAPS, Variable("layer", "sidecar_activation_channels"))

_LABELS = "model=${__field.labels.model}&version=${__field.labels.version}"
_WHERE = f"{_LABELS}&layer=${{__field.labels.layer}}&site=${{__field.labels.site}}"

TO_LAYERS = Link(
    "This layer on the dashboard of layers",
    "/d/activation-sidecar-layers?${__url_time_range}&${__all_variables}&var-layer=${__field.labels.layer}",
)
TO_PAGE = Link("This layer on the sidecar's page", f"${{page}}/#/layer?{_WHERE}")
TO_NEURON = Link(
    "This channel on the sidecar's page",
    "${page}/#/neuron?model=${__data.fields.model}&version=${__data.fields.version}"
    "&layer=${__data.fields.layer}&site=${__data.fields.site}&channel=${__data.fields.channel}",
)
OF_A_TAP = (TO_LAYERS, TO_PAGE)

ANNOTATIONS = (
    Annotation(
        "Alerts", "red", f'ALERTS{{alertname=~"Sidecar.+", alertstate="firing", {PROCESS}}}',
        "{{alertname}}", "{{model}} {{version}} {{layer}} {{site}}",
    ),
    Annotation(
        "Versions", "blue", f"sidecar_model_ready{{{MODEL}}} == 1 unless sidecar_model_ready{{{MODEL}}} offset 1m == 1",
        "A version began to serve", BY_MODEL,
    ),
    Annotation(
        "Baselines", "purple", f"changes(sidecar_reference_created_timestamp_seconds{{{MODEL}}}[1m]) > 0",
        "Another baseline", BY_MODEL,
    ),
)  # fmt: skip


def model(series: str, over_instances: str, legend: str = BY_MODEL, *, also: str = "") -> Query:
    """One line for each model version, and each value of the label `also`."""
    labels = f"model, version, {also}" if also else "model, version"
    return Query(f"{over_instances} by ({labels}) ({series}{{{MODEL}}})", legend)


def rate(series: str, legend: str = BY_MODEL, *, also: str = "") -> Query:
    """How fast a counter of the model rises a second, over all instances."""
    labels = f"model, version, {also}" if also else "model, version"
    return Query(f"sum by ({labels}) (rate({series}{{{MODEL}}}[$__rate_interval]))", legend)


def tap(series: str, over_instances: str, *, within: str = SITE, legend: str = BY_TAP) -> Query:
    """One line for each layer and site; `within` TAP keeps to the chosen layers."""
    return Query(f"{over_instances} by (model, version, layer, site) ({series}{{{within}}})", legend)


def tap_at_instance(series: str, legend: str = f"{BY_TAP} {{{{instance}}}}") -> Query:
    """One line for each chosen layer, site and instance: of what has a sign, or goes with another series' channel."""
    return Query(f"max by (model, version, layer, site, instance) ({series}{{{TAP}}})", legend)


def layers(series: str, over_the_rest: str) -> Query:
    """One line for each layer, named by its number alone, as the heatmap's rows need it."""
    return Query(f"{over_the_rest} by (layer) ({series}{{{SITE}}})", "{{layer}}")


def process(series: str, legend: str = "{{instance}}") -> Query:
    return Query(f"{series}{{{PROCESS}}}", legend)
