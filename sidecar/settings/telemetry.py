"""What is observed, kept, judged, shown and told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sidecar.settings.section import Label, Seconds, Section, Share


class CaptureSettings(Section):
    """What is observed.

    enabled: false serves every model plain.
    sample_rate: share of requests that are asked for, chosen by a keyed hash of the request id.
    budget: share of inference time that telemetry may take; what it does not pay for is not observed, whatever
        sample_rate asks for. 1 sets no limit.
    route_floor: requests a second that are observed whatever the budget, as far as sample_rate asks for them:
        of the model, and of each value of the request parameter `sidecar_route`, up to 64 of them.
    sample_key: key of that hash; without one, a client can find out which ids are observed.
    client_choice: a request parameter `sidecar_sample` (bool) overrides the hash.
    near_zero: |x| at or below it counts as near zero and as not firing; a power of two keeps it exact.
    slots: sampled requests held between two drains; more are counted as dropped. By default 2048 on a CPU and
        320 on a GPU, where 64 taps of 4,096 channels then take 32 MiB.
    drain_seconds: how often sketches are taken off the device.
    patience_ms: how much longer than usual an observed batch may take before its requests are answered
        by the plain variant and observation stops until the stuck one returns.
    """

    enabled: bool = True
    sample_rate: Share = 0.1
    budget: Share = 0.02
    route_floor: Annotated[float, Field(ge=0, le=100)] = 0.1
    sample_key: str = ""
    client_choice: bool = True
    near_zero: Annotated[float, Field(gt=0, le=1)] = 2.0**-10
    slots: Annotated[int, Field(ge=16, le=65_536)] | None = None
    drain_seconds: Annotated[float, Field(ge=0.01, le=60)] = 1.0
    patience_ms: Annotated[float, Field(gt=0, le=60_000)] = 250.0

    def slots_on(self, device: str) -> int:
        return self.slots or (2048 if device == "cpu" else 320)


class TimelineSettings(Section):
    """What is remembered.

    pane_seconds: length of the panes that windows are merged from.
    keep_panes: how many are kept in memory.
    """

    pane_seconds: Seconds = 10.0
    keep_panes: Annotated[int, Field(ge=6, le=100_000)] = 60


class StoreSettings(Section):
    """What is kept on disk.

    path: SQLite file of panes, made where there is none; "" keeps nothing.
    keep_days: how long; older panes are coarser, up to 360 times `timeline.pane_seconds`.
    max_megabytes: how much (of 10**6 bytes), write-ahead log of a few MB excluded. Where that is too little for
        keep_days, the oldest panes of whichever span takes most go first.
    """

    path: str = "activations.db"
    keep_days: Annotated[float, Field(gt=0, le=3650)] = 7.0
    max_megabytes: Annotated[float, Field(ge=1, le=1_000_000)] = 2_000.0

    def anchored(self, base: Path) -> StoreSettings:
        return self.model_copy(update={"path": str(base / self.path)}) if self.path else self


class DriftSettings(Section):
    """When an alarm is raised.

    requests_between_false_alarms: average run length between false alarms, per model.
    reference_requests: live requests that make a reference where no baseline is configured.
    window_seconds: what effect sizes are computed over.
    stratify_by: judge each request by reference requests of its own kind alone: of the same value of the request
        parameter of this name, or of the same `predicted_class`; "" judges all by all.
    state: folder in which reference and evidence are kept, so that they survive a restart; none by default.
    keep_request_ids: how the state names the most extreme requests while drift is active: by their ids, by a hash
        (the first 8 bytes of BLAKE2b), or not at all. Who knows an id, or can guess it, finds it by its hash.
    seed: of the random tie-breaks in p-values.
    """

    requests_between_false_alarms: Annotated[int, Field(ge=100, le=10**12)] = 1_000_000
    reference_requests: Annotated[int, Field(ge=200, le=1_000_000)] = 5_000
    window_seconds: Seconds = 60.0
    stratify_by: str = ""
    state: Path | None = None
    keep_request_ids: Literal["none", "hashed", "plain"] = "hashed"
    seed: int = 0


class ExportSettings(Section):
    """What a scrape may cost.

    max_series: hard cap on time series of activations; with many taps less is said of each, and what is left out is
        counted.
    triton_names: export the metrics of serving under the names of Triton Inference Server as well.
    exemplars: latencies and counts of outliers carry the id of a trace that they were seen in, where the client sent a
        W3C `traceparent`.
    """

    max_series: Annotated[int, Field(ge=100, le=1_000_000)] = 2_000
    triton_names: bool = False
    exemplars: bool = False


class OtelSettings(Section):
    """Spans of requests and all metrics, pushed to an OpenTelemetry collector over OTLP; needs the extra `otel`.

    endpoint: gRPC address of the collector, `http://host:4317`, or `https://` with TLS; nothing is pushed without one.
    service_name: the resource's `service.name`.
    interval_seconds: how often metrics are pushed. Spans go every second.
    traces: make spans of requests whose clients record a trace and send its W3C `traceparent`.
    """

    endpoint: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    service_name: Annotated[str, Field(min_length=1)] = "activation-sidecar"
    interval_seconds: Annotated[float, Field(ge=1, le=3600)] = 15.0
    traces: bool = True


class ConsoleSettings(Section):
    """What the API and the page may show, and what answering may cost.

    min_requests: fewest observed requests that an answer may be about. Activations can be inverted to what caused
        them, so an aggregate of very few requests is as secret as the requests; 1 withholds nothing.
    budget: share of one core that answers may take on average; beyond it they are refused for a while.
    keep_inputs: of each model version the inputs of so many observed requests are kept in memory, chosen at random,
        64 MiB at most; the page shows them and runs them again to tell what drives a neuron. 0 keeps none. Whoever has
        a token of server.admin_token_file sees them as they are; where there is no such file, whoever may ask the API.
        On a CPU only.
    baselines: name -> file of a baseline that may be looked at and compared with.
    replicas: name -> HTTP address, `http://host:8002`, of another sidecar whose window may be.
    replica_token_file: file with the bearer token that the replicas ask for.
    """

    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    budget: Annotated[float, Field(gt=0, le=64)] = 0.25
    keep_inputs: Annotated[int, Field(ge=0, le=256)] = 0
    baselines: Mapping[Label, Path] = {}
    replicas: Mapping[Label, Annotated[str, Field(pattern=r"^https?://\S+$")]] = {}
    replica_token_file: Path | None = None


class LogSettings(Section):
    """What is written to standard error.

    level: least severe message that is written.
    format: `console` for people, `json` for programs: one object a line.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"
