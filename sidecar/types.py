"""Words shared by every part: tensors, requests, taps, and the protocols by which parts meet.

Nothing here imports another part, so any part may import this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Clock = Callable[[], float]
"""Seconds since the epoch (`time.time`); tests pass their own."""

Parameter = bool | int | float | str

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),  # numpy has no bfloat16: the 16 bits as they are
    "BYTES": np.dtype(np.object_),
}
"""Open Inference Protocol datatype -> how its values lie in numpy."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A model's input or output. `shape` includes the batch dimension; -1 means any size.

    labels: of the values of a row, for those who ask for classes; may be fewer.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ragged:
    """How a model takes requests of different lengths: padded to one of `buckets`, so that they share a batch.

    buckets: lengths, the smallest first. inputs, outputs: name -> the dimension that is as long as the request.
    pad_values: what those inputs are filled up with.
    """

    buckets: tuple[int, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    pad_values: Mapping[str, int]

    def bucket(self, length: int) -> int:
        """The smallest that holds it; beyond the largest the length itself, to which nothing has to be padded."""
        return next((bucket for bucket in self.buckets if bucket >= length), length)


@dataclass(frozen=True, slots=True)
class Tensor:
    """Values with their protocol datatype, because BF16 and UINT16 look the same to numpy."""

    datatype: str
    array: npt.NDArray[Any]


@dataclass(slots=True, eq=False)
class Trace:
    """The trace that a client's request belongs to, and when the request passed where.

    trace_id, span_id: of the client's span, 32 and 16 hexadecimal digits. sampled: the client records it.
    queued, began: `time.monotonic()` seconds at which the request was queued and its batch began; 0 before.
    cost: of its batch.
    """

    trace_id: str
    span_id: str
    sampled: bool
    queued: float = 0.0
    began: float = 0.0
    cost: Cost | None = None


class TracedOutlier(NamedTuple):
    """The largest |x| of a request with a trace. at: seconds since the epoch."""

    trace_id: str
    value: float
    at: float


Traced = Callable[[str, str, str, float, Trace], None]
"""Told of each request with a trace that is over: model, version, gRPC status name, seconds that it took, trace.

Called on any thread; must be quick and never raise.
"""


@dataclass(slots=True, eq=False)
class InferRequest:
    """One client's request, decoded and checked. Equal only to itself.

    inputs: by name, in the model's order; all share the size of dimension 0 where the model batches.
    rows: size of that dimension, 1 where the model does not batch.
    deadline: `time.monotonic()` seconds after which nobody waits for the reply; None without one.
    priority: 1 is the most urgent; the same for all where the model has no priorities.
    trace: None where the client sent none, or nobody wants it.
    length, bucket: of its ragged dimensions, and to what they are padded; both 0 where the model pads nothing.
    message_bytes: of the message that it came in, all of which it may hold.
    """

    id: str
    inputs: Mapping[str, Tensor]
    rows: int
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    deadline: float | None = None
    priority: int = 1
    trace: Trace | None = None
    length: int = 0
    bucket: int = 0
    message_bytes: int = 0


class Cost(NamedTuple):
    """What a batch took: seconds to put it together, in the model, and to take it apart; bytes of its tensors.

    telemetry: seconds of compute that the observers reported. Those of a compiled graph report none.
    """

    assembly: float = 0.0
    compute: float = 0.0
    response: float = 0.0
    input_bytes: int = 0
    output_bytes: int = 0
    telemetry: float = 0.0


NO_COST = Cost()


@dataclass(slots=True)
class InferReply:
    """Outputs by name, in the model's order. cost: of the whole batch."""

    outputs: Mapping[str, Tensor]
    cost: Cost = NO_COST


class Batch(Protocol):
    """Requests that run together, in the order of their rows. Whoever took it answers or fails it, once."""

    @property
    def requests(self) -> Sequence[InferRequest]: ...

    def answer(self, replies: Sequence[InferReply | Exception]) -> None:
        """One reply for each request, in their order, or why it has none."""

    def fail(self, error: BaseException) -> None:
        """The model raised."""

    def abort(self) -> None:
        """Whatever should have answered it went wrong: nobody shall wait for that."""


class Batches(Protocol):
    """What waits to be run by a model."""

    def serve(self, run: Callable[[Batch], bool], first: Batch | None = None) -> None:
        """Give `run` one batch after the other on this thread, until no more will come or `run` returns False: then
        another thread has taken its place. May be called on several threads, which divide the batches among them.

        first: one that a thread took and could not answer.
        """


@dataclass(slots=True)
class Servable:
    """A loaded model version as the server sees it.

    start: begins to run batches on a thread of its own, until there are no more. Called once.
    max_rows: most rows that a batch may have; 0 where the model has no batch dimension, and then
        every request runs alone.
    canary: its share of the requests that name no version; None where it is no canary.
    canary_key: request parameter that is hashed in place of the request's id; "" for none.
    refuse_nonfinite: requests whose inputs hold NaN or an infinity are not run.
    ragged: None where requests share a batch only with those of their own shape.
    instances: threads that run batches of it at the same time.
    """

    name: str
    version: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int
    start: Callable[[Batches], None]
    ready: bool = False
    canary: float | None = None
    canary_key: str = ""
    refuse_nonfinite: bool = False
    ragged: Ragged | None = None
    instances: int = 1


def age(version: str) -> tuple[int, str]:
    """Sorts numbers by size and after every word."""
    return (int(version), "") if version.isdecimal() else (-1, version)


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are served: `specific` ones, or so many of the `latest`, or where both are empty all."""

    latest: int = 0
    specific: tuple[str, ...] = ()

    def choose(self, known: Collection[str], canaries: Collection[str] = ()) -> list[str]:
        """Of `known`, from the lowest to the highest.

        A canary does not count among the latest, and is served beside them: it has no meaning alone.
        """
        ordered = sorted(known, key=age)
        if self.specific:
            return [version for version in ordered if version in self.specific]
        steady = [version for version in ordered if version not in canaries]
        left_out = steady[: -self.latest] if self.latest else []
        return [version for version in ordered if version not in left_out]


@dataclass(frozen=True, slots=True)
class Lineup:
    """The versions of one model as its settings are now, which of them are canaries, and which are to be served."""

    versions: tuple[str, ...]
    canaries: frozenset[str] = frozenset()
    policy: VersionPolicy = VersionPolicy()


class Repository(Protocol):
    """Where versions come from that are loaded while the server runs."""

    @property
    def refused(self) -> Mapping[tuple[str, str], str]:
        """Name and version -> why it is not served, though it was to be from the start."""

    async def versions(self) -> Mapping[str, Sequence[str]]:
        """The versions of each model that could be loaded."""

    async def read(self, model: str) -> Lineup:
        """Look at the settings of `model` anew; `load` then goes by them. Raises LoadError."""

    async def load(self, model: str, version: str) -> Servable:
        """Build, warm up and check one version beside whatever runs, without waiting on the event loop.

        Raises LoadError where it must not take traffic.
        """

    def serve(self, servable: Servable) -> None:
        """It takes requests from now on, in place of any other of its name and version."""

    async def release(self, servable: Servable) -> None:
        """Its last request is answered: stop what `load` started."""


MODEL_STATES = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")
"""Of a version, in the words of the protocol's RepositoryIndex."""


class ServingObserver(Protocol):
    """Where the server reports what it did. Called on any thread; must be quick and never raise."""

    def call_ended(self, method: str, code: str) -> None:
        """Any call: the path of its method and the name of its gRPC status."""

    def request_started(self, model: str, version: str) -> None: ...

    def request_finished(self, model: str, version: str, code: str, seconds: float, reason: str) -> None:
        """`code` is the gRPC status name, for example "OK" or "INVALID_ARGUMENT", `reason` that of its error."""

    def batch_finished(
        self, model: str, version: str, rows: int, queued: Sequence[float], cost: Cost | None
    ) -> None:
        """`queued`: seconds that each of its requests waited. `cost`: None where the model failed."""

    def queue_length(self, model: str, version: str, requests: int) -> None: ...

    def model_state(self, model: str, version: str, state: str) -> None:
        """`state` is one of MODEL_STATES; also called for versions that were not known before."""

    def input_nonfinite(self, model: str, version: str, values: int) -> None:
        """One input of a request held `values` that are NaN or infinite."""


Site = str
"""`resid`, `attn_out`, `mlp_out`, `logits`, `stage`, or the module's own name."""


@dataclass(frozen=True, slots=True)
class TapPoint:
    """A place in a model's graph where an activation can be seen, as the runtime knows it before the model ran.

    name: of the module or graph value.
    block: number of the residual block or stage that it lies in, None outside of all.
    channel_dim: dimension of the activation that holds its channels, None where only its shape can tell.
    default: tapped when the settings name no taps.
    node: a second name by which the settings may choose it, that of the graph node which gives the value.
    """

    name: str
    site: Site
    block: int | None = None
    channel_dim: int | None = None
    default: bool = False
    node: str = ""


Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tap point -> shape of its activation, in the order in which a run gave them."""


@dataclass(frozen=True, slots=True)
class Observer:
    """What stands at a tap point of the instrumented variant. Neither way returns anything or changes x.

    fold: called with the activation by runtimes that come through Python there. Never raises, keeps nothing of x.
    op, arguments: `op(x, *arguments)` is the same as one node of a compiled or exported graph; among the
        arguments are the tensors that it reads and mutates.
    """

    fold: Callable[[torch.Tensor], None]
    op: Callable[..., None]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True, order=True)
class Tap:
    """A place in the model that is watched: the activation of `module`, with `channels` channels.

    module: name of the module or graph value.
    """

    layer: int
    site: Site
    module: str
    channels: int

    @property
    def key(self) -> str:
        """Short stable name, `3/resid`."""
        return f"{self.layer}/{self.site}"


class Recorder(Protocol):
    """What capture offers the thread that runs a model. No method raises, and none waits.

    nanoseconds: that the observers reported so far.
    """

    nanoseconds: int

    def open(self, requests: Sequence[InferRequest]) -> bool:
        """True: run the instrumented variant for this batch, then call `close`. False: run the plain one."""

    def answered(self, outputs: Mapping[str, Tensor]) -> None:
        """What the batch that `open` announced gave."""

    def close(self) -> None:
        """The batch that `open` announced has run."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class KeptInput:
    """A copy of what one observed request brought. Equal only to itself.

    at: seconds since the epoch. inputs, rows: as in `InferRequest`.
    """

    id: str
    at: float
    inputs: Mapping[str, Tensor]
    rows: int


class Replay(Protocol):
    """Inputs of a model version that were kept, and a way to run them again beside its requests.

    batched: dimension 0 of the inputs is the batch. near_zero: |x| at or below it does not fire.
    words: token id -> text, of an input `input_ids`; empty where they are not known.
    passed_over: requests so far whose inputs were too large to be kept.
    """

    batched: bool
    near_zero: float
    words: Mapping[int, str]

    @property
    def passed_over(self) -> int: ...

    def kept(self) -> Sequence[KeptInput]: ...

    def activation(self, tap: Tap, kept: KeptInput) -> npt.NDArray[np.float32]:
        """What the tap gives for it, float32[rows, positions, C]; one row where the model does not batch.

        Called on one thread at a time. Raises ModelError where that is not possible.
        """


@dataclass(frozen=True, slots=True)
class TelemetryStatus:
    """How the observation of one model fares: what exporters and readiness show of it.

    instrumented: the instrumented variant passed its self-check. detail: why not, or what it misses, or "".
    wanted: telemetry was asked for, so a model without it is a fault.
    sample_rate: share of requests that is chosen now. sampled: requests observed. refused: requests chosen
        and not observed, because the budget was spent. dropped, failures: counts by reason and by part.
    silent: taps that saw nothing of the requests that were sampled last.
    telemetry_seconds, inference_seconds: time so far; inference excludes telemetry.
    last_drain: seconds since the epoch, 0 before the first.
    budget: share of inference time that telemetry may take, 1 for no limit; NaN where nothing is observed.
    """

    instrumented: bool
    detail: str = ""
    sample_rate: float = 0.0
    sampled: int = 0
    refused: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    silent: tuple[Tap, ...] = ()
    telemetry_seconds: float = 0.0
    inference_seconds: float = 0.0
    last_drain: float = 0.0
    wanted: bool = True
    budget: float = math.nan
