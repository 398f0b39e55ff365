"""What drives one neuron: the requests of largest magnitude, and inputs that were kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sidecar.console.answers import (
    AlikeAnswer,
    CellsAnswer,
    DriverAnswer,
    DriversAnswer,
    InputsAnswer,
    ShownInput,
    ShownTensor,
    TogetherAnswer,
)
from sidecar.console.layers import QUANTILES, cells
from sidecar.console.questions import DriversQuestion, InputsQuestion
from sidecar.console.reruns import Rerun
from sidecar.console.scope import Scope, brief, told
from sidecar.errors import InvalidInputError, ModelError, NotReadyError
from sidecar.export.activations import Watched
from sidecar.sketch import BINS, Histogram, Together, bin_index
from sidecar.types import Replay, Tap, Tensor

ALIKE = 10
SHOWN = 8
MOST_NUMBERS = 4096
TOKENS = "input_ids"
"""The input that holds token ids, as models of Hugging Face name it."""

_GONE = "this version is not observed now, and the requests that drove it are kept in memory only"
_NONE_KEPT = "no inputs are kept: console.keep_inputs is 0, or the model runs on a GPU"

_NONE_YET = (
    "no inputs are kept so far; those of an attached model, and larger ones than there is room for, never are"
)

Array = npt.NDArray[np.float32]


def drivers(scope: Scope, asked: DriversQuestion) -> DriversAnswer:
    tap, watched = _unit(scope, asked)
    if watched is None or watched.strongest is None or watched.timeline is None:
        return DriversAnswer(
            tap=told(tap), channel=asked.channel, detail=_GONE, observed=0, requests=[], alike=[]
        )
    observed = watched.timeline.total(tap).counts.requests
    scope.require(observed)
    found = watched.strongest.of(tap, asked.channel, ALIKE)
    return DriversAnswer(
        tap=told(tap),
        channel=asked.channel,
        detail="",
        observed=observed,
        requests=[DriverAnswer(id=one.id, value=one.value, at=one.at) for one in found.requests],
        alike=[AlikeAnswer(channel=one.channel, shared=one.shared) for one in found.alike],
    )


def inputs(scope: Scope, asked: InputsQuestion) -> InputsAnswer:
    tap, watched = _unit(scope, asked)
    if watched is None:
        return _nothing(tap, asked, _GONE)
    replay = watched.replay
    if replay is None or scope.reruns is None:
        return _nothing(tap, asked, _NONE_KEPT)
    kept = len(replay.kept())
    if not kept:
        return _nothing(tap, asked, _NONE_YET, replay.passed_over)
    scope.require(kept, "inputs are kept")
    try:
        found = scope.reruns.of(replay, tap, asked.channel)
    except ModelError as error:
        raise NotReadyError(str(error)) from error
    if len(found) < scope.min_requests:
        detail = f"{len(found)} of {kept} inputs were run again so far, and it takes {scope.min_requests}"
        return _nothing(tap, asked, detail, replay.passed_over, kept, len(found))
    together = Together.empty(tap.channels, asked.channel)
    for one in found:
        together.merge(one.together)
    # An input of no length has no position to show.
    shown = [one for one in found if one.values.size]
    peaks = [np.nan_to_num(np.abs(one.values), nan=0.0, posinf=math.inf).max() for one in shown]
    strongest = [shown[place] for place in np.argsort(-np.array(peaks), kind="stable")[:SHOWN]]
    return InputsAnswer(
        tap=told(tap),
        channel=asked.channel,
        detail="",
        kept=kept,
        rerun=len(found),
        passed_over=replay.passed_over,
        histogram=_histogram(np.concatenate([one.values.ravel() for one in found]), asked.per_octave),
        together=_together(together),
        inputs=[_shown(one, replay, watched) for one in strongest],
    )


def _nothing(
    tap: Tap, asked: InputsQuestion, detail: str, passed_over: int = 0, kept: int = 0, rerun: int = 0
) -> InputsAnswer:
    return InputsAnswer(
        tap=told(tap), channel=asked.channel, detail=detail, kept=kept, rerun=rerun, passed_over=passed_over,
        histogram=None, together=[], inputs=[],
    )  # fmt: skip


def _unit(scope: Scope, asked: DriversQuestion) -> tuple[Tap, Watched | None]:
    subject = scope.subject(asked)
    tap = scope.tap(subject, asked.layer, asked.site)
    if asked.channel >= tap.channels:
        raise InvalidInputError(f"channel {asked.channel} is none of tap {tap.key}, which has {tap.channels}")
    return tap, scope.of(subject)


def _histogram(values: Array, per_octave: int) -> CellsAnswer:
    finite = values[np.isfinite(values)]
    keys = np.where(finite == 0, BINS - 1, bin_index(np.where(finite == 0, np.float32(1), finite)))
    lower, upper, (count,) = cells([Histogram(np.bincount(keys, minlength=BINS)).signed()], per_octave)
    quantiles = np.quantile(finite, list(QUANTILES.values())) if finite.size else [math.nan] * len(QUANTILES)
    return CellsAnswer(
        lower=lower,
        upper=upper,
        count=count,
        total=finite.size,
        quantiles=dict(zip(QUANTILES, map(float, quantiles), strict=True)),
    )


def _together(seen: Together) -> list[TogetherAnswer]:
    correlation, lift = seen.correlation, seen.lift
    ranked = np.nan_to_num(correlation, nan=-math.inf)
    ranked[seen.unit] = -math.inf
    return [
        TogetherAnswer(
            channel=channel,
            correlation=float(correlation[channel]),
            fires=float(seen.fires[channel] / seen.inputs),
            both=float(seen.both[channel] / seen.inputs),
            lift=float(lift[channel]),
        )
        for channel in np.argsort(-ranked, kind="stable")[:ALIKE].tolist()
        if math.isfinite(ranked[channel])
    ]


def _shown(one: Rerun, replay: Replay, watched: Watched) -> ShownInput:
    size = np.nan_to_num(np.abs(one.values), nan=-1.0, posinf=math.inf)
    row, position = divmod(int(size.argmax()), one.values.shape[1])
    values = one.values[row]
    return ShownInput(
        id=watched.strongest.shown(one.kept.id) if watched.strongest else None,
        at=one.kept.at,
        peak=float(values[position]),
        positions=brief(values[:MOST_NUMBERS].astype(np.float64)),
        tensors=[
            _tensor(
                name,
                tensor,
                tensor.array[row] if replay.batched else tensor.array,
                values.size,
                replay.words if name == TOKENS else {},
            )
            for name, tensor in one.kept.inputs.items()
        ],
    )


def _tensor(
    name: str, tensor: Tensor, row: npt.NDArray[np.generic], positions: int, words: Mapping[int, str]
) -> ShownTensor:
    flat = row.reshape(-1)[:MOST_NUMBERS]
    numbers: list[float] = []
    pieces: list[str] = []
    if tensor.datatype == "BYTES":
        pieces = _texts(flat.tolist(), positions)
    elif tensor.datatype == "UINT8" and row.shape == (positions,):
        pieces = _texts([bytes(flat.tolist())], flat.size)
    elif tensor.datatype in ("INT32", "INT64", "UINT32", "UINT64"):
        pieces = [words.get(value, str(value)) for value in flat.tolist()]
    elif tensor.datatype == "BF16":
        numbers = brief((flat.astype(np.uint32) << 16).view(np.float32).astype(np.float64))
    else:
        numbers = brief(flat.astype(np.float64))
    return ShownTensor(
        name=name, datatype=tensor.datatype, shape=list(row.shape), numbers=numbers, pieces=pieces
    )


def _texts(found: Sequence[bytes], positions: int) -> list[str]:
    """Each as text; a single one by its bytes where the layer has a position for each."""
    if len(found) == 1 and len(found[0]) == positions:
        return [chr(byte) for byte in found[0][:MOST_NUMBERS]]
    return [bytes(one[:MOST_NUMBERS]).decode("utf-8", "replace") for one in found]
