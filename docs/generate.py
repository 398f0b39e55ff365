"""Write the pages that repeat what the code says: `python docs/generate.py`.

docs/metrics.md comes from the metric catalogue, docs/configuration.md from the settings. With `--check` nothing is
written; the exit status is 1 where a file on disk differs.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidecar.export import triton
from sidecar.export.catalogue import CATALOGUE, MODEL, OF_FURTHER_VERSIONS, TAP, Metric
from sidecar.export.detail import ESSENTIAL, STEPS, most_taps
from sidecar.settings import (
    BatchingSettings,
    CaptureSettings,
    ConsoleSettings,
    DriftSettings,
    ExportSettings,
    LogSettings,
    ModelSettings,
    OtelSettings,
    RepositorySettings,
    Section,
    ServerSettings,
    StoreSettings,
    TensorSettings,
    TimelineSettings,
    VersionPolicySettings,
)

FOLDER = Path(__file__).parent

METRICS = """\
# Metrics

Written by `docs/generate.py` from `sidecar/export/catalogue.py`; change it there.

`/metrics` on the HTTP port (8002) has all of them, in [the format that is asked for](exposition.md). Counters
start at 0 with every label set that is known in advance, so that the first event is already an increase.
A gauge that cannot be known yet, such as a distance before the reference is ready, is NaN.

| label | meaning |
|---|---|
| `model`, `version` | as configured; `-` stands for requests to a model that is not served |
| `layer` | depth of the tap in the model, an integer from 0 |
| `site` | where in the layer: `resid`, `attn_out`, `mlp_out`, `logits`, `stage`, or the module's name |
| `method` | `ModelInfer`, `ModelStreamInfer`, `Check` or `Watch` of the health service, or `other` |
| `code` | gRPC status name, for example `OK` or `INVALID_ARGUMENT` |
| `device` | number of a GPU |
| `kind` | `nan`, `+inf`, `-inf`; of memory `allocated`, `reserved`, `total`; of a cause `numeric`, `mix`, `covariate` |
| `format` | a number format: `float16`, `bfloat16`, `e4m3` or `e5m2` |
| `result` | `sent`, `failed` or `dropped` |
| `setting` | settings of `[server]` that name the files |
| `class`, `side` | number of a predicted class, or `others`; `reference` or `window` |
| `rank` | 1 for the channel that moved most |
| `reason`, `part` | see the metric |

`layer` and `site` together name a tap. [The alerts](alerts.md) are made from these metrics.
"""

METRICS_HEAD = "| name | kind | unit | labels | meaning |\n|---|---|---|---|---|\n"


def metric_rows(metrics: Sequence[Metric]) -> str:
    return "".join(
        f"| `{metric.name}` | {metric.kind}{', native' if metric.native else ''} | {metric.unit} | "
        f"{', '.join(f'`{label}`' for label in metric.labels)} | {metric.help.replace('|', chr(92) + '|')} |\n"
        for metric in metrics
    )


def metrics_page(catalogue: Sequence[Metric]) -> str:
    """The page: one table for each thing that a metric can be about."""
    taps = [metric for metric in catalogue if metric.labels[: len(TAP)] == TAP]
    models = [metric for metric in catalogue if metric not in taps and metric.labels[: len(MODEL)] == MODEL]
    others = [metric for metric in catalogue if metric not in taps and metric not in models]
    sections = (("Of each model", models), ("Of each tap", taps), ("Of the process", others))
    tables = [f"\n## {title}\n\n{METRICS_HEAD}{metric_rows(found)}" for title, found in sections]
    return METRICS + "".join(tables) + detail_section() + triton_section()


DETAIL = """
## What leaves when there are many taps

All taps together make at most `export.max_series` series. Where everything would be more, what stands last here leaves
first, for all taps alike; the JSON API keeps it. The first {essential}, of which alerts are made, never leave: taps
beyond their room are left out whole, and everything left out is counted in `sidecar_series_dropped`. "Taps" is how
many there may be, at the default of {cap:,} series.

| name | series of a tap | taps |
|---|---|---|
"""


def detail_section() -> str:
    cap = ExportSettings().max_series
    rows = ""
    for place, step in enumerate(STEPS):
        if step.metric not in OF_FURTHER_VERSIONS:
            what = f", {len(step.buckets)} buckets" if step.buckets else ""
            rows += f"| `{step.metric.name}`{what} | {step.series} | {most_taps(place, cap)} |\n"
    return DETAIL.format(essential=len(ESSENTIAL), cap=cap) + rows


def triton_section() -> str:
    reasons = "".join(
        f"| `{theirs}` | {', '.join(f'`{reason}`' for reason in ours)} |\n"
        for theirs, ours in triton.REASONS.items()
    )
    return f"{TRITON}\n{METRICS_HEAD}{metric_rows(triton.NAMES)}\n{TRITON_REASONS}{reasons}"


TRITON = """
## Under Triton's names

With `export.triton_names = true` the metrics of serving are exported under the names that Triton Inference Server
has for them too, with its labels and its microseconds, so dashboards made for it go on working. Their kind is
unknown, because a counter of Prometheus' formats ends in `_total` and these do not; queries make no difference.
Triton counts no request whose input it refuses; here that is a failure for reason `OTHER`.
"""

TRITON_REASONS = "| `reason` of Triton | `reason` of `sidecar_rejected_requests_total` |\n|---|---|\n"


CONFIGURATION = """\
# Configuration

Written by `docs/generate.py` from `sidecar/settings/`; change it there.

One TOML file configures everything: `sidecar serve --config sidecar.toml`. Each key may also come from the
environment, which wins: `SIDECAR_CAPTURE__SAMPLE_RATE=0.5` sets `sample_rate` in `[capture]`, and
`SIDECAR_MODELS__0__WEIGHTS=new.safetensors` sets a key of the first model. Relative paths in the file are relative
to its folder. A key that does not exist, or a value that is not allowed, ends the start with a message that names it
and what is allowed; `sidecar check --config sidecar.toml` tells without serving.

Whatever a client can reach beyond this machine must be guarded: a host other than loopback is refused unless
`tls_certificate`, `tls_key` and `token_file` or `token` are set, or `insecure = true` says that something else guards
the port. [Security](security.md) says what guards against what.
"""

CONFIGURATION_HEAD = "| key | default | allowed | meaning |\n|---|---|---|---|\n"

SECTIONS: tuple[tuple[str, type[Section]], ...] = (
    ("[server]", ServerSettings),
    ("[[models]]", ModelSettings),
    ("[[models.inputs]], [[models.outputs]]", TensorSettings),
    ("[models.batching]", BatchingSettings),
    ("[models.version_policy]", VersionPolicySettings),
    ("[repository]", RepositorySettings),
    ("[capture]", CaptureSettings),
    ("[timeline]", TimelineSettings),
    ("[store]", StoreSettings),
    ("[drift]", DriftSettings),
    ("[export]", ExportSettings),
    ("[otel]", OtelSettings),
    ("[console]", ConsoleSettings),
    ("[log]", LogSettings),
)

BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def meanings(section: type[Section]) -> tuple[str, dict[str, str]]:
    """A section's docstring: its first paragraph, and what stands behind each `key:`."""
    summary, _, rest = (inspect.getdoc(section) or "").partition("\n\n")
    entries = re.split(r"^(\w+): ", re.sub(r"\n +", " ", rest), flags=re.MULTILINE)[1:]
    return summary, {key: text.strip() for key, text in zip(entries[::2], entries[1::2], strict=True)}


def allowed(schema: dict[str, Any]) -> str:
    """What a JSON schema admits, in a few words."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if choices := [choice for choice in schema.get("anyOf", []) if choice.get("type") != "null"]:
        return allowed(choices[0])
    if "$ref" in schema:
        return "table"
    if schema.get("type") == "array":
        return f"list of: {allowed(schema['items'])}"
    if schema.get("type") == "object":
        return f"table of: {allowed(next(iter(schema['patternProperties'].values())))}"
    kind = schema.get("format", schema["type"])
    bounds = " ".join(f"{sign} {schema[name]:,}" for name, sign in BOUNDS.items() if name in schema)
    pattern = f"`{schema['pattern']}`".replace("|", "\\|") if "pattern" in schema else ""
    return " ".join(part for part in (kind, bounds, pattern) if part)


def configuration_page() -> str:
    """The page: one table for each section. Raises LookupError for a key whose meaning is not written down."""
    page = CONFIGURATION
    for title, section in SECTIONS:
        summary, texts = meanings(section)
        described = section.model_json_schema()
        page += f"\n## `{title}`\n\n{summary}\n\n{CONFIGURATION_HEAD}"
        for key, schema in described["properties"].items():
            default = "required" if key in described.get("required", ()) else _default(schema)
            page += (
                f"| `{key}` | {default} | {allowed(schema)} | {texts[key].replace('|', chr(92) + '|')} |\n"
            )
    return page


def _default(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    return "" if value is None or isinstance(value, dict) else f"`{json.dumps(value)}`"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    pages = {"metrics.md": metrics_page(CATALOGUE), "configuration.md": configuration_page()}
    stale = 0
    for name, text in pages.items():
        target = FOLDER / name
        if not arguments:
            target.write_text(text, encoding="utf-8")
        elif not target.is_file() or target.read_text(encoding="utf-8") != text:
            print(f"{target} is not what docs/generate.py writes")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
