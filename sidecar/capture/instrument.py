"""Installs the observe op behind the tapped modules of a torch model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns

from torch import nn

from sidecar.capture.observe import OpState, bind
from sidecar.capture.recorder import Recorder
from sidecar.capture.state import TapState
from sidecar.capture.taps import channel_dimension, first_tensor
from sidecar.errors import ModelError
from sidecar.types import Tap

ONE_REQUEST = 2**31 - 1
"""`rows_per_slot` of a model without a batch dimension: all rows belong to the first slot."""

Shapes = Mapping[str, tuple[int, ...]]


def rows_per_slot(module: str, small: Shapes, large: Shapes, *, batched: bool) -> int:
    """Rows of the activation for one row of the batch, from trial runs with batches of 2 and of 3.

    Raises ModelError when dimension 0 does not grow with the batch: its rows belong to no request.
    """
    if not batched:
        return ONE_REQUEST
    step = large[module][0] - small[module][0]
    if step < 1 or small[module][0] != 2 * step:
        raise ModelError(
            f"dimension 0 of {module} is {small[module][0]} for a batch of 2 and {large[module][0]} for 3: "
            "it is not the batch, so its rows cannot be told apart by request"
        )
    return step


def install(
    model: nn.Module, taps: Sequence[Tap], small: Shapes, large: Shapes, recorder: Recorder, *,
    slots: int, near_zero: float, batched: bool,
) -> None:  # fmt: skip
    """Put a hook on each tapped module of `model`; state lies on the device of `recorder`.

    small, large: output shapes for batches of 2 and 3. Everything is resolved before the first hook is set.
    """
    modules = dict(model.named_modules())
    plan = [
        (tap, rows_per_slot(tap.module, small, large, batched=batched), channel_dimension(small[tap.module]))
        for tap in taps
    ]
    for tap, rows, channel_dim in plan:
        state = TapState(tap.channels, slots, recorder.bank.device)
        recorder.states[tap] = state
        modules[tap.module].register_forward_hook(_hook(tap, state, recorder, rows, channel_dim, near_zero))


def _hook(
    tap: Tap, state: TapState, recorder: Recorder, rows: int, channel_dim: int, near_zero: float
) -> Callable[[nn.Module, object, object], None]:
    kept = OpState(
        recorder.row_slot, rows, recorder.bank,
        state.histogram, state.integers, state.floats, state.slots, near_zero,
    )  # fmt: skip
    fold = bind(recorder.bank.device, channel_dim, kept)

    def hook(_module: nn.Module, _args: object, output: object) -> None:
        started = perf_counter_ns()
        if (x := first_tensor(output)) is not None:
            if rows != ONE_REQUEST and x.shape[0] != recorder.rows * rows:
                raise ModelError(f"{tap.module} gave {x.shape[0]} rows for a batch of {recorder.rows}")
            fold(x)
        recorder.nanoseconds += perf_counter_ns() - started

    return recorder.guard.shield("tap", hook, None)
