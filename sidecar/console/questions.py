"""What one may ask of the API. The same fields make the query string, the gRPC request and the OpenAPI document."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sidecar.timeline.statistics import STATISTICS

Name = Annotated[str, Field(max_length=200)]
Moment = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False, description="Seconds since the epoch.")]
StepNumber = Annotated[int, Field(ge=0, le=2**53, description="Training step, in place of a range of time.")]
Source = Annotated[
    str,
    Field(
        pattern=r"^(|reference|(baseline|replica):.{1,128})$",
        description="In place of a range: `reference`, what the version is compared with, or one of the sources that "
        "`taps` lists.",
    ),
]


def _divides(cells: int) -> int:
    if 8 % cells:
        raise ValueError("per_octave must be 1, 2, 4 or 8")
    return cells


def _listed(given: Any) -> Any:
    """As a query string has them, and as a protobuf message has."""
    return given.split(",") if isinstance(given, str) else given if isinstance(given, int) else list(given)


def _different(channels: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(channels)) < len(channels):
        raise ValueError("channels must differ")
    return channels


ChannelList = Annotated[
    tuple[Annotated[int, Field(ge=0, le=10_000_000)], ...],
    Field(min_length=1, max_length=16, description="Indices of channels, with commas between them."),
    BeforeValidator(_listed),
    AfterValidator(_different),
]
PerOctave = Annotated[
    int,
    Field(ge=1, le=8, description="Cells from one power of two to the next: 1, 2, 4 or 8."),
    AfterValidator(_divides),
]
StatisticName = StrEnum("StatisticName", {name: name for name in STATISTICS})  # type: ignore[misc]


class Axis(StrEnum):
    TIME = "time"
    STEP = "step"


class Filter(StrEnum):
    """Which neurons are listed."""

    ALL = "all"
    DEAD = "dead"
    ALWAYS_ON = "always_on"
    SATURATED = "saturated"
    MASSIVE = "massive"


class Order(StrEnum):
    """By what neurons are ordered, largest magnitude first."""

    CHANNEL = "channel"
    MEAN = "mean"
    RMS = "rms"
    ABSMAX = "absmax"
    FIRE_RATE = "fire_rate"
    OUTLIERS = "outliers"
    SHIFT = "shift"


class Question(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def ranges(self) -> tuple[Range, ...]:
        """What sketches are asked for."""
        return ()


class TapsQuestion(Question):
    """What can be asked about."""


class OfModel(Question):
    model: Annotated[Name, Field(description="Name of the model; the first one if empty.")] = ""
    version: Annotated[Name, Field(description="Its version; the first one if empty.")] = ""


class Range(OfModel):
    """Without any of begin, end and step, the last ten minutes."""

    begin: Moment | None = None
    end: Moment | None = None
    step: StepNumber | None = None
    source: Source = ""

    @property
    def ranges(self) -> tuple[Range, ...]:
        return (self,)

    @model_validator(mode="after")
    def _one_axis(self) -> Range:
        if self.source and (self.step, self.begin, self.end) != (None, None, None):
            raise ValueError("give either source, or begin and end, or step")
        if self.step is not None and (self.begin is not None or self.end is not None):
            raise ValueError("give either step, or begin and end")
        if self.begin is not None and self.end is not None and self.begin >= self.end:
            raise ValueError("begin must lie before end")
        return self


class LayerQuestion(Range):
    """A layer's channels over a range."""

    layer: Annotated[int, Field(ge=0, le=100_000, description="Depth of the tap.")]
    site: Annotated[Name, Field(description="Where in the layer; the first site there if empty.")] = ""
    spikes: Annotated[int, Field(ge=0, le=200, description="Most spikes that are listed.")] = 20


class HistogramQuestion(Range):
    """The values of a layer over a range."""

    layer: Annotated[int, Field(ge=0, le=100_000, description="Depth of the tap.")]
    site: Annotated[Name, Field(description="Where in the layer; the first site there if empty.")] = ""
    per_octave: PerOctave = 8


class NeuronsQuestion(Range):
    """Channels of a layer, filtered, ordered and paged."""

    layer: Annotated[int, Field(ge=0, le=100_000, description="Depth of the tap.")]
    site: Annotated[Name, Field(description="Where in the layer; the first site there if empty.")] = ""
    filter: Filter = Filter.ALL
    order: Order = Order.RMS
    bound: Annotated[
        float | None,
        Field(gt=0, description="Bound of the activation, such as 1 for tanh; `saturated` needs it."),
    ] = None
    offset: Annotated[int, Field(ge=0, le=10_000_000, description="How many to pass over.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="Most that are listed.")] = 100

    @model_validator(mode="after")
    def _bounded(self) -> NeuronsQuestion:
        if self.filter is Filter.SATURATED and self.bound is None:
            raise ValueError(
                "filter saturated needs bound, the largest magnitude that the activation can have"
            )
        return self


class Course(OfModel):
    """Without begin, everything that is kept. Of steps, all."""

    begin: Moment | None = None
    end: Moment | None = None
    axis: Axis = Axis.TIME

    @model_validator(mode="after")
    def _in_order(self) -> Course:
        if self.begin is not None and self.end is not None and self.begin >= self.end:
            raise ValueError("begin must lie before end")
        return self


class NeuronQuestion(Course):
    """One channel over time or training steps."""

    layer: Annotated[int, Field(ge=0, le=100_000, description="Depth of the tap.")]
    site: Annotated[Name, Field(description="Where in the layer; the first site there if empty.")] = ""
    channel: Annotated[int, Field(ge=0, le=10_000_000, description="Index of the channel.")]
    points: Annotated[int, Field(ge=1, le=1000, description="Most points of the course.")] = 300


class CofiringQuestion(OfModel):
    """How several channels of a layer rise and fall together; without begin, in the newest panes that are kept."""

    begin: Moment | None = None
    end: Moment | None = None
    layer: Annotated[int, Field(ge=0, le=100_000, description="Depth of the tap.")]
    site: Annotated[Name, Field(description="Where in the layer; the first site there if empty.")] = ""
    channels: ChannelList

    @model_validator(mode="after")
    def _in_order(self) -> CofiringQuestion:
        if self.begin is not None and self.end is not None and self.begin >= self.end:
            raise ValueError("begin must lie before end")
        return self


class DriversQuestion(OfModel):
    """The requests that drove one channel most since the start, and the channels that share them."""

    layer: Annotated[int, Field(ge=0, le=100_000, description="Depth of the tap.")]
    site: Annotated[Name, Field(description="Where in the layer; the first site there if empty.")] = ""
    channel: Annotated[int, Field(ge=0, le=10_000_000, description="Index of the channel.")]


class InputsQuestion(DriversQuestion):
    """What the inputs that were kept do to one channel, when they are run again."""

    per_octave: PerOctave = 4


class MatrixQuestion(Course):
    """A statistic of every layer over time or training steps."""

    statistic: StatisticName
    site: Annotated[Name, Field(description="Only this site; all if empty.")] = ""
    columns: Annotated[int, Field(ge=1, le=1000, description="Most columns.")] = 300


class DriftQuestion(OfModel):
    """What drift has to say now."""


class BaselinesQuestion(Question):
    """What each model is compared with."""


class CompareQuestion(Question):
    """Two model versions, ranges, steps, baselines or replicas beside each other, layer by layer."""

    model: Annotated[Name, Field(description="Name of the model; the first one if empty.")] = ""
    version: Annotated[Name, Field(description="Its version; the first one if empty.")] = ""
    begin: Moment | None = None
    end: Moment | None = None
    step: StepNumber | None = None
    source: Source = ""
    other_model: Annotated[Name, Field(description="The other side's model; the same if empty.")] = ""
    other_version: Annotated[Name, Field(description="The other side's version; the same if empty.")] = ""
    other_begin: Moment | None = None
    other_end: Moment | None = None
    other_step: StepNumber | None = None
    other_source: Source = ""

    @property
    def ranges(self) -> tuple[Range, ...]:
        return self.left, self.right

    @property
    def left(self) -> Range:
        return Range(
            model=self.model,
            version=self.version,
            begin=self.begin,
            end=self.end,
            step=self.step,
            source=self.source,
        )

    @property
    def right(self) -> Range:
        return Range(
            model=self.other_model or self.model,
            version=self.other_version or self.version,
            begin=self.other_begin,
            end=self.other_end,
            step=self.other_step,
            source=self.other_source,
        )

    @model_validator(mode="after")
    def _sides(self) -> CompareQuestion:
        if self.left == self.right:
            raise ValueError(
                "the two sides are the same: give other_version, other_begin and other_end, other_step, "
                "or other_source"
            )
        return self
