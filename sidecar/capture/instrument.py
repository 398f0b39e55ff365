"""Makes the observers that a runtime puts at its tap points."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

import torch

from sidecar.capture.observe import OpState, bind, fold_part, observe
from sidecar.capture.recorder import Recorder
from sidecar.capture.state import TapState
from sidecar.capture.taps import NO_DIMENSION, ONE_REQUEST, Placement
from sidecar.errors import ModelError
from sidecar.types import Observer


def observers(
    plan: Sequence[Placement], recorder: Recorder, *, slots: int, near_zero: float
) -> dict[str, Observer]:
    """Name of the tap point -> its observer. Their states lie on the device of `recorder` and are drained by it."""
    found = {}
    for placement in plan:
        state = TapState(placement.tap.channels, slots, recorder.bank.device)
        recorder.states[placement.tap] = state
        found[placement.tap.module] = _observer(placement, state, recorder, near_zero)
    return found


def _observer(placement: Placement, state: TapState, recorder: Recorder, near_zero: float) -> Observer:
    name, rows = placement.tap.module, placement.rows_per_slot
    kept = OpState(
        recorder.row_slot, rows, recorder.bank,
        *state.held, state.slots, near_zero,
    )  # fmt: skip
    bound = bind(recorder.bank.device, placement.channel_dim, kept)
    length_dim = placement.length_dim

    def fold_unpadded(x: torch.Tensor) -> None:
        if x.shape[length_dim] != recorder.bucket:
            raise ModelError(f"{name} is {x.shape[length_dim]} long for inputs of {recorder.bucket}")
        for start, end, length in recorder.padded:
            part = x[start * rows : end * rows].narrow(length_dim, 0, length)
            fold_part(part, placement.channel_dim, kept._replace(row_slot=kept.row_slot[start:end]))

    def fold(x: torch.Tensor) -> None:
        started = perf_counter_ns()
        if rows != ONE_REQUEST and x.shape[0] != recorder.rows * rows:
            raise ModelError(f"{name} gave {x.shape[0]} rows for a batch of {recorder.rows}")
        if length_dim != NO_DIMENSION and recorder.padded:
            fold_unpadded(x)
        else:
            bound(x)
        recorder.nanoseconds += perf_counter_ns() - started

    return Observer(recorder.guard.shield("tap", fold, None), observe, (placement.channel_dim, *kept))
