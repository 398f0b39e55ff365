"""`[[models]]` and `[repository]`: what is served, and how its requests are put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from sidecar.settings.section import Label, Section, Share
from sidecar.types import DATATYPES, Ragged, VersionPolicy

_MODEL_WIDE = ("canary", "canary_key", "version_policy")


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
    queue_bytes: most bytes of requests that wait; more are refused, but for one that waits alone.
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
    decoupled: each request gets any number of replies, as the model makes them, over ModelStreamInfer. Its forward is a
        generator of outputs, or returns an iterator. Needs source and `batching.max_rows = 0`.
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
    decoupled: bool = False
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
    def _can_be_decoupled(self) -> ModelSettings:
        if not self.decoupled:
            return self
        if self.runtime != "torch" or self.source is None:
            raise ValueError(
                "decoupled goes with a model of runtime torch that source makes: others give one reply"
            )
        if self.compile:
            raise ValueError("decoupled does not go with compile: a compiled graph gives one reply")
        if self.batching.max_rows:
            raise ValueError("decoupled needs batching.max_rows = 0: each request runs alone")
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


def of_one_mind(name: str, models: Sequence[ModelSettings]) -> Sequence[ModelSettings]:
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
