"""All settings: one TOML file plus `SIDECAR_SECTION__KEY` from the environment, checked once, frozen.

`models` is a list, so its keys carry the position: `SIDECAR_MODELS__0__WEIGHTS`.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from sidecar.errors import ConfigError
from sidecar.types import DATATYPES, Ragged, VersionPolicy

ENV_PREFIX = "SIDECAR_"
SECRETS = ("SIDECAR_SERVER__TOKEN",)
"""Variables whose text is taken as it stands, and told to nobody."""

Port = Annotated[int, Field(ge=0, le=65535)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
SharedMemoryKey = Annotated[str, Field(pattern=r"^/?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$")]
T = TypeVar("T", bound="Section")
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]


def _is_local(host: str) -> bool:
    """Reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.startswith("unix:")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class ServerSettings(Section):
    """Addresses and limits of the ports, and who may call.

    grpc_host: address of the inference service, or `unix:/path` for a socket of that path.
    grpc_port: its port; 0 takes any free one.
    http_host: address of metrics, health and status.
    http_port: its port; 0 takes any free one.
    admin_listen: `host:port` or `unix:/path` where admin calls are taken, which grpc_port then refuses; needs admin.
    insecure: allow addresses beyond loopback without TLS and a token, because something else guards them.
    tls_certificate: PEM file; with tls_key all ports speak TLS only. Read again when it changes, like every file here.
    tls_key: PEM file.
    tls_client_ca: PEM file; clients must then have a certificate that one of its authorities signed.
    token: the bearer token that every call must carry; best set as `SIDECAR_SERVER__TOKEN`.
    token_file: file of bearer tokens, one a line; each of them is good, so that two are while one replaces the other.
    admin_token_file: the same for admin calls, which the tokens above then do not admit to; it admits to all others.
    reflection: let clients ask the gRPC port what services it has.
    max_message_bytes: largest request and reply; larger ones are refused before they are read whole.
    max_connections: most connections to one gRPC port; more are closed at once.
    max_streams: most calls at a time over one connection. A client keeps further ones to itself, and at the limit may
        still see one refused as UNAVAILABLE: better to be above what queues hold.
    max_connection_seconds: how long a connection may last before its client is asked to make a new one, so that
        clients spread over new servers; 0: for ever.
    min_ping_seconds: how often a client may send keepalive pings; whoever does more is cut off.
    grace_seconds: how long requests in flight may take to finish when the server stops.
    shutdown_delay_seconds: how long after SIGTERM requests are still taken while readiness is false already: the time
        in which those who send them look at readiness.
    admin: let clients load and unload versions, register shared memory, and ask to change settings.
    shared_memory: keys of the system shared memory that clients may register; needs admin.
    """

    grpc_host: str = "127.0.0.1"
    grpc_port: Port = 8001
    http_host: str = "127.0.0.1"
    http_port: Port = 8002
    admin_listen: Annotated[str, Field(pattern=r"^(unix:.+|.+:\d{1,5})$")] | None = None
    insecure: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    admin_token_file: Path | None = None
    reflection: bool = False
    max_message_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 64 * 2**20
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    max_streams: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    max_connection_seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    min_ping_seconds: Annotated[float, Field(ge=0.1, le=86_400)] = 10.0
    grace_seconds: Seconds = 10.0
    shutdown_delay_seconds: Annotated[float, Field(ge=0, le=3_600)] = 1.0
    admin: bool = False
    shared_memory: tuple[SharedMemoryKey, ...] = ()

    @property
    def admin_host(self) -> str | None:
        """The address of `admin_listen` without its port."""
        listen = self.admin_listen
        if listen is None or listen.startswith("unix:"):
            return listen
        return listen.rpartition(":")[0].strip("[]")

    @field_validator("token")
    @classmethod
    def _says_something(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not token.get_secret_value().strip():
            raise ValueError("must not be empty")
        return token

    @model_validator(mode="after")
    def _closed_to_strangers(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key must be given together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError(
                "tls_client_ca needs tls_certificate and tls_key: without TLS nobody shows a certificate"
            )
        if self.token and self.token_file:
            raise ValueError("give token or token_file, not both")
        if self.shared_memory and not self.admin:
            raise ValueError("shared_memory can only be registered by admin calls: set admin = true")
        if self.admin_listen and not self.admin:
            raise ValueError("admin_listen is where admin calls are taken: set admin = true")
        exposed = [
            host
            for host in (self.grpc_host, self.http_host, self.admin_host)
            if host is not None and not _is_local(host)
        ]
        guarded = self.tls_certificate is not None and (self.token or self.token_file)
        if exposed and not guarded and not self.insecure:
            raise ValueError(
                f"{exposed[0]} is reachable from other machines: set tls_certificate, tls_key and "
                "token_file or token, or insecure = true if something else guards the port"
            )
        return self


class TensorSettings(Section):
    """One input or output.

    name: as clients send it.
    datatype: name of the Open Inference Protocol.
    shape: batch dimension first where there is one; -1 is any size.
    pad_value: integer that an input is filled up with where `batching.ragged_buckets` pads it, such as a padding token.
    labels: of an output, text file with one label a line, for clients that ask for classes instead of values.
    """

    name: Label
    datatype: str
    shape: tuple[Annotated[int, Field(ge=-1)], ...]
    pad_value: int = 0
    labels: Path | None = None

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DATATYPES:
            raise ValueError(f"must be one of {', '.join(DATATYPES)}")
        return value

    @model_validator(mode="after")
    def _can_be_padded(self) -> TensorSettings:
        if self.pad_value:
            dtype = DATATYPES[self.datatype]
            if not self.datatype.startswith(("INT", "UINT")):
                raise ValueError(
                    f"pad_value is for integers, and {self.name} is {self.datatype}: leave it out"
                )
            if not np.iinfo(dtype).min <= self.pad_value <= np.iinfo(dtype).max:
                raise ValueError(f"pad_value {self.pad_value} is no {self.datatype}")
        return self

    @property
    def ragged_dimensions(self) -> list[int]:
        """Of any size, the batch dimension left out."""
        return [dimension for dimension, size in enumerate(self.shape) if dimension and size < 0]


class BatchingSettings(Section):
    """How requests are put together.

    max_rows: most rows in a batch; 0: the model has no batch dimension and each request runs alone.
    max_delay_ms: how long a request may wait for company; 0: only as long as the model is busy anyway.
    preferred_rows: sizes of a batch that the model runs best. The wait for company ends at the smallest, and a batch
        is cut to the largest that what waits can fill; fewer rows than the smallest run as they are.
    ragged_buckets: lengths to which inputs with a size of -1 are padded, so that requests of different lengths share a
        batch. Empty: only requests of one shape do.
    queue_requests: most requests that wait; more are refused.
    queue_bytes: most bytes of inputs that wait; more are refused, but for a request that waits alone.
    priority_levels: how many priorities a request may name, 1 the most urgent; without one it has the last.
        0: all are equal, whatever they name.
    """

    max_rows: Annotated[int, Field(ge=0, le=65_536)] = 32
    max_delay_ms: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    preferred_rows: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = ()
    ragged_buckets: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] = ()
    queue_requests: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    queue_bytes: Annotated[int, Field(ge=1)] = 2**30
    priority_levels: Annotated[int, Field(ge=0, le=1_000)] = 0


class VersionPolicySettings(Section):
    """Which versions of a model are served from the start, and by a load call that names none. One of:

    all: true serves every version.
    latest: serves so many of the highest, and every canary beside them.
    specific: serves these.
    """

    all: bool = False
    latest: Annotated[int, Field(ge=1, le=1_000)] | None = None
    specific: tuple[Label, ...] = ()

    @model_validator(mode="after")
    def _one_of_them(self) -> VersionPolicySettings:
        if len(self.model_fields_set) != 1 or not (self.all or self.latest or self.specific):
            raise ValueError('give one of all = true, latest = N, or specific = ["1", "3"]')
        return self

    @property
    def policy(self) -> VersionPolicy:
        return VersionPolicy(self.latest or 0, self.specific)


class ModelSettings(Section):
    """One model version.

    name: as clients name it.
    version: as clients name it.
    runtime: what runs it.
    source: `package.module:factory`, called without arguments, returns the model.
    weights: safetensors file, loaded strictly into what the factory made.
    path: what holds a whole model, instead of a factory: a `.pt2` package or a Hugging Face folder for torch,
        an ONNX file for onnx.
    trust: load a model whose file can run code as it is loaded.
    compile: serve both variants as compiled graphs, made for every size of a batch before the first request.
    inputs: what the model takes, in the order of its arguments.
    outputs: what it returns, in order, or by name where it returns a mapping.
    device: where it runs, as torch names devices.
    load: false: known, and loaded only when an admin call asks for it.
    instances: threads that run batches of it at the same time, over the same weights; each takes `threads` threads,
        and on a GPU a stream of its own.
    canary: version -> share of the requests that name no version, chosen by a hash of the request's id; all others
        go to the highest version that is no canary. Holds for all versions of the model, so it is given once.
    canary_key: request parameter whose value is hashed instead of the id where a request has it. Given once, too.
    version_policy: a table of its own, below; given once. Without it all versions are served, of a repository
        folder the highest.
    threads: threads of one run; 0 leaves the choice to the runtime.
    taps: globs over the names that `sidecar taps` lists; empty means the residual blocks or stages that are found.
    baseline: reference to compare with; without one it is recorded from the first live requests.
    logits: output that holds class logits [rows, classes], from which energy, margin and predicted class are taken;
        by default one that is called "logits", "" for none.
    tolerance: largest |difference| between the outputs of both variants; 0 means bitwise equal.
    refuse_nonfinite: refuse requests whose inputs hold NaN or an infinity, which are otherwise only counted.
    batching: a table of its own, below.
    """

    name: Label
    version: Label = "1"
    runtime: str = "torch"
    source: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    weights: Path | None = None
    path: Path | None = None
    trust: bool = False
    compile: bool = False
    inputs: Annotated[tuple[TensorSettings, ...], Field(min_length=1)]
    outputs: Annotated[tuple[TensorSettings, ...], Field(min_length=1)]
    device: str = "cpu"
    load: bool = True
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    canary: Mapping[Label, Share] = {}
    canary_key: str = ""
    version_policy: VersionPolicySettings | None = None
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    taps: tuple[str, ...] = ()
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    refuse_nonfinite: bool = False
    baseline: Path | None = None
    logits: str | None = None
    batching: BatchingSettings = BatchingSettings()

    @model_validator(mode="after")
    def _from_one_place(self) -> ModelSettings:
        if (self.source is None) == (self.path is None):
            raise ValueError("give either source, a factory, or path, a file or folder that holds the model")
        if self.path is not None and self.weights is not None:
            raise ValueError("weights go with source; what path names has its own")
        if labelled := [tensor.name for tensor in self.inputs if tensor.labels]:
            raise ValueError(f"input {labelled[0]} has labels, which only outputs may have")
        if self.instances > 1 and self.compile:
            raise ValueError("instances above 1 do not go with compile: a compiled graph runs on one thread")
        return self

    @model_validator(mode="after")
    def _tells_what_is_padded(self) -> ModelSettings:
        ragged = self.ragged
        for tensor in (*self.inputs, *self.outputs):
            if tensor.pad_value and (ragged is None or tensor.name not in ragged.inputs):
                raise ValueError(
                    f"{tensor.name} has a pad_value, and batching.ragged_buckets does not pad it"
                )
        return self

    @property
    def ragged(self) -> Ragged | None:
        """What `batching.ragged_buckets` pads; None for nothing. Raises ValueError where that cannot be told."""
        buckets = self.batching.ragged_buckets
        if not buckets:
            return None
        if not self.batching.max_rows:
            raise ValueError(
                "batching.ragged_buckets needs batching.max_rows above 0: nothing shares a batch"
            )
        if several := [one.name for one in (*self.inputs, *self.outputs) if len(one.ragged_dimensions) > 1]:
            raise ValueError(
                f"{several[0]} has more than one size of -1 beside the batch, so nobody can tell which of them "
                "batching.ragged_buckets pads: give all others"
            )
        inputs, outputs = (
            {one.name: one.ragged_dimensions[0] for one in tensors if one.ragged_dimensions}
            for tensors in (self.inputs, self.outputs)
        )
        if not inputs:
            raise ValueError(
                "batching.ragged_buckets pads nothing: no input has a size of -1 beside the batch"
            )
        pad_values = {one.name: one.pad_value for one in self.inputs if one.name in inputs}
        return Ragged(tuple(sorted(set(buckets))), inputs, outputs, pad_values)

    @field_validator("canary")
    @classmethod
    def _at_most_everything(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        if (total := sum(value.values())) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}, must be at most 1")
        return value

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.version


class RepositorySettings(Section):
    """A folder of models beside those of `[[models]]`.

    path: of the folder; docs/serving.md has its layout.
    trust: let its `model.toml` files set `source` and `trust`, which run code.
    """

    path: Path | None = None
    trust: bool = False


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
        512 on a GPU, where 64 taps of 4,096 channels then take 30 MiB.
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
        return self.slots or (2048 if device == "cpu" else 512)


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
        64 MiB at most; the page shows them and runs them again to tell what drives a neuron. 0 keeps none. Whoever may
        ask the API sees them as they are. On a CPU only.
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


class Settings(Section):
    server: ServerSettings = ServerSettings()
    models: tuple[ModelSettings, ...] = ()
    repository: RepositorySettings = RepositorySettings()
    capture: CaptureSettings = CaptureSettings()
    timeline: TimelineSettings = TimelineSettings()
    store: StoreSettings = StoreSettings()
    drift: DriftSettings = DriftSettings()
    export: ExportSettings = ExportSettings()
    otel: OtelSettings = OtelSettings()
    console: ConsoleSettings = ConsoleSettings()
    log: LogSettings = LogSettings()

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        seen = [(model.name, model.version) for model in models]
        if twice := sorted({key for key in seen if seen.count(key) > 1}):
            raise ValueError(f"model {twice[0][0]} version {twice[0][1]} is configured twice")
        return tuple(
            model for name in dict.fromkeys(name for name, _ in seen) for model in _of_one_mind(name, models)
        )

    @model_validator(mode="after")
    def _something(self) -> Settings:
        if not self.models and self.repository.path is None:
            raise ValueError("there is no model: give [[models]], or repository.path, a folder of them")
        return self


_MODEL_WIDE = ("canary", "canary_key", "version_policy")


def _of_one_mind(name: str, models: Sequence[ModelSettings]) -> Sequence[ModelSettings]:
    """The versions of model `name`, each with what any of them says of them all. Raises ValueError."""
    versions = [model for model in models if model.name == name]
    said: dict[str, Any] = {}
    for key in _MODEL_WIDE:
        values = [getattr(version, key) for version in versions if key in version.model_fields_set]
        if any(value != values[0] for value in values):
            raise ValueError(
                f"model {name} has more than one {key}, which holds for all its versions: give it once"
            )
        if values:
            said[key] = values[0]
    check_lineup(name, [version.version for version in versions], said)
    return [version.model_copy(update=said) for version in versions]


def check_lineup(name: str, versions: Sequence[str], said: Mapping[str, Any]) -> None:
    """Raises ValueError where canaries or policy name a version that is not among `versions`."""
    policy: VersionPolicySettings | None = said.get("version_policy")
    for key, named in (
        ("canary", said.get("canary", {})),
        ("version_policy", policy.specific if policy else ()),
    ):
        if missing := sorted(set(named) - set(versions)):
            raise ValueError(
                f"model {name}: {key} names version {missing[0]}, there are {', '.join(versions)}"
            )


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read `path`, lay the environment over it, check everything.

    Relative paths in the file are relative to the file's folder.
    Raises ConfigError naming the key, its value and what is allowed.
    """
    return resolve(read(path), environ, base=path.parent)


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def resolve(tree: Mapping[str, Any], environ: Mapping[str, str], *, base: Path) -> Settings:
    """Check a tree of settings with the environment laid over it. Raises ConfigError."""
    merged = _thaw(tree)
    for name, text in sorted(environ.items()):
        if name.startswith(ENV_PREFIX):
            _place(merged, name, text)
    return _anchor(checked(Settings, merged), base)


S = TypeVar("S", bound=Section)


def checked(section: type[S], tree: Mapping[str, Any]) -> S:
    """`tree` as a `section`. Raises ConfigError with a sentence for each thing that is wrong."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(section, detail) for detail in error.errors())) from error


def _thaw(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _thaw(value) for key, value in node.items()}
    return [_thaw(value) for value in node] if isinstance(node, list | tuple) else node


def _place(tree: dict[str, Any], name: str, text: str) -> None:
    *parents, key = name.removeprefix(ENV_PREFIX).lower().split("__")
    node: Any = tree
    try:
        for parent in parents:
            node = node[int(parent)] if isinstance(node, list) else node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise TypeError
    except (ValueError, IndexError, TypeError):
        raise ConfigError(f"{name} names no setting; the form is SIDECAR_SECTION__KEY") from None
    node[key] = text if name in SECRETS else _value(text)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_RANGES = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def _sentence(section: type[Section], detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "settings"
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key} is not a setting; there are {', '.join(_siblings(section, detail['loc']))}"
    if kind == "missing":
        return f"{key} is missing and must be given"
    if kind in _RANGES:
        bound, words = _RANGES[kind]
        return f"{key} is {detail['input']!r}, must be {words} {context[bound]}"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    secret = f"{ENV_PREFIX}{'__'.join(map(str, detail['loc']))}".upper() in SECRETS
    if isinstance(detail["input"], str | int | float | bool) and not secret:
        return f"{key} is {detail['input']!r}: {reason}"
    return f"{key}: {reason}"


def _siblings(root: type[Section], place: Sequence[str | int]) -> list[str]:
    """Names of the settings that may stand at `place`."""
    section: Any = root
    for part in place[:-1]:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            section = next(iter(get_args(annotation)), annotation)
    return list(section.model_fields)


def _anchor(settings: Settings, base: Path) -> Settings:
    """Relative paths made relative to the folder of the file they stand in."""

    def anchored(section: T) -> T:
        changes = {
            name: base / value
            for name in type(section).model_fields
            if isinstance(value := getattr(section, name), Path)
        }
        return section.model_copy(update=changes)

    def anchored_model(model: ModelSettings) -> ModelSettings:
        outputs = tuple(anchored(output) for output in model.outputs)
        return anchored(model.model_copy(update={"outputs": outputs}))

    return settings.model_copy(
        update={
            "server": anchored(settings.server),
            "models": tuple(anchored_model(model) for model in settings.models),
            "store": settings.store.anchored(base),
            "repository": anchored(settings.repository),
            "drift": anchored(settings.drift),
            "console": anchored(settings.console).model_copy(
                update={"baselines": {name: base / path for name, path in settings.console.baselines.items()}}
            ),
        }
    )
