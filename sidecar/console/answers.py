"""What the API answers. JSON has no NaN, so a number that is not known is null there."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from sidecar.drift.state import DriftState
from sidecar.timeline import StoreStatus

Number = Annotated[float, WithJsonSchema({"type": ["number", "null"]})]


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TapAnswer(Answer):
    layer: int
    site: str
    module: str
    channels: int


class StatisticAnswer(Answer):
    name: str
    help: str
    gaussian: Annotated[
        Number | None, Field(description="What a Gaussian has, where its scale does not matter.")
    ]


class ModelAnswer(Answer):
    model: str
    version: str
    served: Annotated[bool, Field(description="False for one of which only the store knows.")]
    taps: list[TapAnswer]
    first: Annotated[Number | None, Field(description="Start of the oldest pane, seconds since the epoch.")]
    last: Annotated[Number | None, Field(description="End of the newest pane.")]
    steps: Annotated[
        list[int], Field(description="Training steps that are kept; of more than 1,000 the last.")
    ]


class TapsAnswer(Answer):
    models: list[ModelAnswer]
    statistics: list[StatisticAnswer]
    min_requests: int
    sources: Annotated[
        list[str], Field(description="Baselines and replicas that may be asked for in place of a range.")
    ]
    store: StoreStatus | None


class Covered(Answer):
    """The panes behind an answer, which may reach a little further than was asked for; none of another source."""

    model: str
    version: str
    begin: Annotated[Number | None, Field(description="Start of the first pane; null for none.")]
    end: Annotated[Number | None, Field(description="End of the last pane, or when a source was recorded.")]
    step: int | None
    panes: int
    requests: int
    source: Annotated[str, Field(description="As it was asked for; empty for panes.")]


class ChannelsAnswer(Answer):
    """One value a channel, in the channels' order."""

    mean: list[Number]
    rms: list[Number]
    absmax: list[Number]
    fire_rate: list[Number]
    outliers: Annotated[list[int], Field(description="Positions at which the channel was at least 6.")]


class SpikeAnswer(Answer):
    """A channel whose mean stands out.

    sigmas: from the median of the channels' means, in 1.4826 times their median distance from it.
    """

    channel: int
    mean: Number
    rms: Number
    absmax: Number
    sigmas: Number


class BandAnswer(Answer):
    """What the reference saw, one value a channel."""

    requests: int
    mean: list[Number]
    stddev: list[Number]


class LayerAnswer(Answer):
    tap: TapAnswer
    covered: Covered
    positions: int
    statistics: dict[str, Number]
    channels: ChannelsAnswer
    spikes: Annotated[list[SpikeAnswer], Field(description="Six sigmas or more, the largest first.")]
    reference: BandAnswer | None


class HistogramAnswer(Answer):
    """Cells that are not empty here or in the reference, from the most negative up.

    A cell includes its edge of larger magnitude; one with both edges 0 holds the zeros.
    """

    tap: TapAnswer
    covered: Covered
    lower: list[Number]
    upper: list[Number]
    count: list[int]
    total: int
    reference_count: list[int] | None
    reference_total: int
    quantiles: Annotated[dict[str, Number], Field(description="p01, p05, p25, p50, p75, p95 and p99.")]


class NeuronAnswer(Answer):
    """One channel's course; null where a pane has fewer requests than may be shown."""

    tap: TapAnswer
    channel: int
    start: Annotated[list[Number], Field(description="Seconds since the epoch, or training steps.")]
    seconds: Annotated[list[Number], Field(description="Span of each pane; 0 for a step.")]
    requests: list[int]
    mean: list[Number]
    rms: list[Number]
    absmax: list[Number]
    fire_rate: list[Number]
    magnitudes: Annotated[
        dict[str, int],
        Field(
            description="Positions in all these panes at which |x| was at most capture.near_zero (`near_zero`), at "
            "least 6 (`at_least_6`), or `between`. Exact; finer than that no values of a single channel are kept."
        ),
    ]
    distribution: Annotated[
        dict[str, list[Number]],
        Field(
            description="Of mean, rms and absmax: 0, 25, 50, 75 and 100% of the panes lie below. Over panes, not over "
            "values: of a single channel no histogram is kept."
        ),
    ]
    reference_mean: Number | None
    reference_stddev: Number | None


class DriverAnswer(Answer):
    id: Annotated[
        str | None,
        Field(description="As drift.keep_request_ids has it; null for none, or a request without."),
    ]
    value: Annotated[
        Number, Field(description="The channel's largest magnitude in the request, with its sign.")
    ]
    at: Annotated[Number, Field(description="Seconds since the epoch at which the request was drained.")]


class AlikeAnswer(Answer):
    channel: int
    shared: Annotated[
        int, Field(description="How many of the requests listed are among the strongest of this channel.")
    ]


class DriversAnswer(Answer):
    """Of each drain the request that drove the channel most; of these the strongest eight since the start."""

    tap: TapAnswer
    channel: int
    detail: Annotated[str, Field(description="Why nothing is told; empty where something is.")]
    observed: Annotated[int, Field(description="Requests that were observed since the start.")]
    requests: list[DriverAnswer]
    alike: list[AlikeAnswer]


class CofiringPair(Answer):
    channel: int
    other: int
    correlation: Annotated[Number, Field(description="Of their means, from one pane to the next.")]
    firing: Annotated[
        Number, Field(description="The same of their fire rates; null where one does not vary.")
    ]
    shared: Annotated[
        int | None,
        Field(
            description="How many of their eight strongest requests since the start they share; null if unknown."
        ),
    ]


class CofiringOther(Answer):
    """correlation, firing: the least of those with the channels asked for."""

    channel: int
    correlation: Number
    firing: Number


class CofiringAnswer(Answer):
    """Of requests that do not depend on each other the correlation over panes is that over requests.

    A mean, or fire rate, is that of all positions of a request. What changes for many requests at once is in it too.
    """

    tap: TapAnswer
    channels: list[int]
    detail: Annotated[str, Field(description="Why nothing is told; empty where something is.")]
    panes: Annotated[int, Field(description="Panes that were compared, each with the one before.")]
    requests: int
    error: Annotated[Number, Field(description="Standard error of a correlation that is 0.")]
    level: Annotated[
        Number,
        Field(
            description="What the largest correlation with any other channel passes by chance once in 100 times."
        ),
    ]
    pairs: Annotated[list[CofiringPair], Field(description="Each two of the channels asked for.")]
    others: Annotated[
        list[CofiringOther],
        Field(description="At most ten others whose correlation with each of them is above the level."),
    ]


class CellsAnswer(Answer):
    """Cells that are not empty, from the most negative up, and the exact quantiles."""

    lower: list[Number]
    upper: list[Number]
    count: list[int]
    total: int
    quantiles: Annotated[dict[str, Number], Field(description="p01, p05, p25, p50, p75, p95 and p99.")]


class TogetherAnswer(Answer):
    """fires, both: share of the inputs in which the channel fires, and in which both do."""

    channel: int
    correlation: Annotated[Number, Field(description="Over positions.")]
    fires: Number
    both: Number
    lift: Annotated[
        Number, Field(description="How many times as often as if neither channel knew of the other.")
    ]


class ShownTensor(Answer):
    """One input of a row. Integers and strings come as `pieces`, everything else as `numbers`."""

    name: str
    datatype: str
    shape: Annotated[list[int], Field(description="Without the batch dimension.")]
    numbers: Annotated[list[Number], Field(description="At most the first 4,096.")]
    pieces: Annotated[list[str], Field(description="At most the first 4,096.")]


class ShownInput(Answer):
    """A row of a kept input: the one in which the channel is largest."""

    id: str | None
    at: Number
    peak: Annotated[Number, Field(description="The largest magnitude, with its sign.")]
    positions: Annotated[
        list[Number], Field(description="The channel at each position, at most the first 4,096.")
    ]
    tensors: list[ShownTensor]


class InputsAnswer(Answer):
    tap: TapAnswer
    channel: int
    detail: Annotated[str, Field(description="Why nothing is told; empty where something is.")]
    kept: Annotated[int, Field(description="Inputs that are kept now.")]
    rerun: Annotated[int, Field(description="How many of them were run again so far.")]
    passed_over: Annotated[int, Field(description="Requests whose inputs were too large to be kept.")]
    histogram: CellsAnswer | None
    together: Annotated[list[TogetherAnswer], Field(description="Other channels, the most correlated first.")]
    inputs: Annotated[list[ShownInput], Field(description="The largest magnitude first.")]


class NeuronRow(Answer):
    channel: int
    mean: Number
    rms: Number
    absmax: Number
    fire_rate: Number
    outliers: int
    shift: Annotated[Number | None, Field(description="Of the mean, in the reference's standard deviations.")]


class NeuronsAnswer(Answer):
    tap: TapAnswer
    covered: Covered
    total: Annotated[int, Field(description="Channels that pass the filter.")]
    next_offset: Annotated[int | None, Field(description="Where the next page begins; null after the last.")]
    rate_bound: Annotated[
        Number,
        Field(description="Upper 95% bound of the rate at which a channel that never fired may still fire."),
    ]
    neurons: list[NeuronRow]


class CellAnswer(Answer):
    row: int
    column: int
    value: Number


class MatrixAnswer(Answer):
    model: str
    version: str
    statistic: str
    rows: list[TapAnswer]
    start: Annotated[list[Number], Field(description="Seconds since the epoch, or training steps.")]
    seconds: Annotated[list[Number], Field(description="Span of each column; 0 for a step.")]
    requests: list[int]
    values: Annotated[
        list[list[Number]],
        Field(description="A list a row; null where a column has too few requests to be shown."),
    ]
    peak: Annotated[CellAnswer | None, Field(description="The largest value of all.")]
    row_peaks: Annotated[list[int | None], Field(description="Column of each row's largest value.")]


class DriftAnswer(Answer):
    model: str
    version: str
    state: Annotated[DriftState | None, Field(description="Null where nothing is observed.")]


class BaselineAnswer(Answer):
    """complete: false while the reference is still recorded from live requests."""

    model: str
    version: str
    complete: bool
    requests: int
    recorded_from: Annotated[str | None, Field(description="Version that the reference was recorded from.")]
    created_at: Annotated[Number | None, Field(description="Seconds since the epoch.")]


class BaselinesAnswer(Answer):
    baselines: list[BaselineAnswer]


class SideAnswer(Answer):
    mean: Number
    rms: Number
    absmax: Number
    kurtosis: Number
    near_zero_share: Number
    requests: int


class ComparedLayer(Answer):
    """Effect sizes between the histograms, each less what `no_drift` has of it.

    psi in nats and jensen_shannon (0..1) over 20 cells of equal mass on the left; kolmogorov_smirnov (0..1);
    wasserstein and shift, the one of the mean, in the left side's standard deviations. A shift has a sign, and
    without drift averages 0.
    """

    tap: TapAnswer
    psi: Number
    jensen_shannon: Number
    kolmogorov_smirnov: Number
    wasserstein: Number
    shift: Number
    no_drift: Annotated[
        dict[str, Number],
        Field(
            description="Effect -> its mean without drift between samples of so many requests, which is subtracted; "
            "nothing is from one that is not there."
        ),
    ]
    no_drift_from: Annotated[
        str,
        Field(
            description="What that was measured on by resampling: the `reference`, or the panes of the `left` or the "
            "`right` side. Empty where it is not known."
        ),
    ]
    levels: Annotated[
        dict[str, Number],
        Field(description="Effect -> what 99.9% of samples without drift stay under; of a reference only."),
    ]
    times_level: Annotated[
        Number, Field(description="The largest effect over its level, before anything is subtracted.")
    ]
    left: SideAnswer
    right: SideAnswer


class CompareAnswer(Answer):
    """Layers that both sides have. Of a long range some panes, evenly spread, are compared: `panes` says how many."""

    left: Covered
    right: Covered
    layers: list[ComparedLayer]
