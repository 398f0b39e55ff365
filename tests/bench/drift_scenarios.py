"""What goes wrong, with known truth: is it found, how soon, and what is named as its cause?

The demo's model through the real capture and the whole of drift, at the default run length of 1,000,000. Faults of the
model are put into its weights, as a bad deployment would.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from sidecar import runtime
from sidecar.demo import training
from sidecar.demo.shifts import MISSING_CLASS, PIXEL_MAX, Scenario, shifted
from sidecar.drift import DriftMonitor, Reference
from sidecar.observation import observe
from sidecar.settings import Settings
from sidecar.sketch import Reading
from sidecar.timeline import Timeline
from sidecar.types import InferRequest, Parameter, Tensor
from tests.bench.drift_tasks import FOLDER, digits_settings, digits_weights

Images = npt.NDArray[np.float32]
Traffic = tuple[Images, list[Mapping[str, Parameter]]]

REFERENCE_REQUESTS, BEFORE, AFTER = 5_000, 500, 3_000
RAMP_REQUESTS, RARE = 20_000, 10_000
READING = 50
REQUESTS_A_SECOND, WINDOW_REQUESTS = 10.0, 700
BLOCK, CHANNEL = 3, 17


@dataclass(frozen=True, slots=True)
class Outcome:
    """delay: requests from the change to the model's alarm, None without. layer: where it begins, as causes name it."""

    delay: int | None
    layer: int | None
    cause: str


class Served:
    """A model behind the real capture. Its clock runs by requests."""

    def __init__(self, settings: Settings, weights: Path | None = None) -> None:
        model = settings.models[0].model_copy(update={"weights": weights or settings.models[0].weights})
        self.settings, self._name = settings, model.inputs[0].name
        self._most = model.batching.max_rows
        self._now = 0.0
        self._model = runtime.load(model)
        self._model.prepare_thread()
        self._watched = observe(self._model, model, settings, lambda _: None, self.clock)

    def clock(self) -> float:
        return self._now

    def monitor(self, reference: Reference | None) -> DriftMonitor:
        self.timeline = Timeline(self._watched.taps, 10.0, 60, self.clock)
        drift = self.settings.drift
        rng = np.random.default_rng(0)
        return DriftMonitor("bench", "1", self._watched.taps, drift, self.timeline, reference, rng)

    def readings(self, traffic: Traffic) -> Iterator[Reading]:
        images, parameters = traffic
        recorder = self._watched.recorder
        for start in range(0, len(images), READING):
            end = min(start + READING, len(images))
            for first in range(start, end, self._most):
                rows = range(first, min(first + self._most, end))
                inputs = [{self._name: Tensor("FP32", images[row : row + 1])} for row in rows]
                requests = [
                    InferRequest(str(row), one, 1, parameters[row])
                    for row, one in zip(rows, inputs, strict=True)
                ]
                recorder.open(requests, always=True)
                recorder.answered(self._model.instrumented(runtime.concatenate(inputs)))
                recorder.close()
                self._now += len(requests) / REQUESTS_A_SECOND
            reading = recorder.drain(0.0)
            assert reading is not None
            yield reading


def judged(served: Served, monitor: DriftMonitor, before: Traffic, after: Traffic) -> Outcome:
    """Feed both; say when after the change the first alarm came, and what was named when the window was past it."""
    changed, seen = len(before[0]), 0
    alarms: list[int] = []
    for reading in itertools.chain(served.readings(before), served.readings(after)):
        served.timeline.add(reading)
        monitor.observe(reading)
        seen += reading.requests
        # A full state is dearer than judging; what alarms is not in it before the model does.
        alarms = alarms or [ordinal - changed for ordinal in monitor.alarm_ordinals if ordinal > changed]
        if alarms and seen >= changed + alarms[0] + WINDOW_REQUESTS:
            break
    cause = monitor.state().cause
    broken = sum(served.timeline.total(tap).counts.nonfinite for tap in served.timeline.taps[:1])
    sentence = cause.sentence if cause else f"{broken} NaN counted at the first layer" if broken else ""
    return Outcome(alarms[0] if alarms else None, cause.tap.layer if cause else None, sentence)


class Digits:
    """Traffic of the demo's held-out images."""

    def __init__(self, seed: int = 0) -> None:
        images = training.digits()
        self.images, self.labels = images.test_images, images.test_labels
        self.rng = np.random.default_rng(seed)

    def only(self, chosen: npt.NDArray[np.bool_]) -> "Digits":
        part = Digits(seed=1)
        part.images, part.labels = self.images[chosen], self.labels[chosen]
        return part

    def drawn(self, number: int, change: Callable[[Images], Images] | None = None) -> Traffic:
        images = self.images[self.rng.integers(len(self.images), size=number)]
        return (change(images) if change else images).astype(np.float32), [{}] * number

    def scenario(self, scenario: Scenario, number: int) -> Traffic:
        draw = shifted(scenario, self.images, self.labels)
        return np.stack([draw(self.rng)[0] for _ in range(number)]), [{}] * number

    def routed(self, number: int, nightly: npt.NDArray[np.float64]) -> Traffic:
        """The digits below five come by day, the others by night; nightly: float64[n], the share of those."""
        night = self.rng.random(number) < nightly
        pools = [np.flatnonzero(self.labels < 5), np.flatnonzero(self.labels >= 5)]
        index = np.array([self.rng.choice(pools[int(each)]) for each in night])
        return self.images[index], [{"sidecar_route": "night" if each else "day"} for each in night]

    def noise(self, images: Images, sigma: Any = 3.0) -> Images:
        return np.clip(images + sigma * self.rng.normal(size=images.shape), 0, PIXEL_MAX)


def blurred(images: Images) -> Images:
    """Every pixel the mean of itself and the four beside it."""
    square = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)), mode="edge")
    centre = square[:, 1:-1, 1:-1]
    around = square[:, :-2, 1:-1] + square[:, 2:, 1:-1] + square[:, 1:-1, :-2] + square[:, 1:-1, 2:]
    return ((centre + around) / 5).reshape(len(images), 64)


def faint(images: Images) -> Images:
    return 0.7 * images


def dead_block(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Its two ways into the residual stream carry nothing."""
    ways = (f"blocks.{BLOCK}.projection.", f"blocks.{BLOCK}.mlp.2.")
    return {name: torch.zeros_like(part) if name.startswith(ways) else part for name, part in weights.items()}


def scaled_channel(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What one block writes into one channel is four times as large."""
    changed = {name: part.clone() for name, part in weights.items()}
    for name in ("weight", "bias"):
        changed[f"blocks.{BLOCK}.mlp.2.{name}"][CHANNEL] *= 4
    return changed


def rounded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """To 8 bits, 127 steps to the largest value of each tensor."""
    steps = {name: part.abs().max() / 127 for name, part in weights.items()}
    return {name: torch.round(part / steps[name]) * steps[name] for name, part in weights.items()}


def run() -> dict[str, Any]:
    digits, settings = Digits(), digits_settings()
    served = Served(settings)
    reference = recorded(served, digits.drawn(REFERENCE_REQUESTS))
    normal = digits.drawn(BEFORE)
    rare = digits.drawn(2 * RARE)
    rare[0][RARE - 1 :: RARE, 0] = np.nan
    ramp = digits.drawn(RAMP_REQUESTS)
    slope = np.linspace(0, 3, RAMP_REQUESTS)[:, None]
    cases: dict[str, Traffic] = {
        "nothing": digits.drawn(AFTER),
        "noise": digits.drawn(AFTER, digits.noise),
        "blur": digits.drawn(AFTER, blurred),
        "contrast": digits.drawn(AFTER, faint),
        "rotation": digits.scenario(Scenario.ROTATION, AFTER),
        "missing class": digits.scenario(Scenario.MISSING_CLASS, AFTER),
        "a NaN every 10,000": rare,
        "ramp over 20,000": (digits.noise(ramp[0], slope).astype(np.float32), ramp[1]),
    }
    outcomes = {
        name: judged(served, served.monitor(reference), normal, after) for name, after in cases.items()
    }
    known = digits.only(digits.labels != MISSING_CLASS)
    without_it = recorded(served, known.drawn(REFERENCE_REQUESTS))
    outcomes["new class"] = judged(
        served, served.monitor(without_it), known.drawn(BEFORE), digits.drawn(AFTER)
    )
    weights = digits_weights()
    for name, change in {
        "dead block": dead_block,
        "scaled channel": scaled_channel,
        "8-bit weights": rounded,
    }.items():
        path = FOLDER / "changed.safetensors"
        save_file(change(weights), path)
        changed = Served(settings, path)
        outcomes[name] = judged(changed, changed.monitor(reference), digits.drawn(0), digits.drawn(AFTER))
    for name, stratify_by in (("swing, stratified", "sidecar_route"), ("swing, not stratified", "")):
        drift = settings.drift.model_copy(update={"stratify_by": stratify_by})
        routed = Served(settings.model_copy(update={"drift": drift}))
        reference = recorded(routed, digits.routed(REFERENCE_REQUESTS, np.full(REFERENCE_REQUESTS, 0.5)))
        swing = 0.5 + 0.4 * np.sin(np.arange(2 * AFTER) / AFTER * 2 * np.pi)
        outcomes[name] = judged(
            routed,
            routed.monitor(reference),
            digits.routed(BEFORE, np.full(BEFORE, 0.5)),
            digits.routed(2 * AFTER, swing),
        )
    for name, outcome in outcomes.items():
        delay = "-" if outcome.delay is None else f"{outcome.delay:,}"
        print(f"  {name:24}{delay:>8}  {outcome.cause}", flush=True)
    return {
        name: {"delay": outcome.delay, "layer": outcome.layer, "cause": outcome.cause}
        for name, outcome in outcomes.items()
    }


def recorded(served: Served, traffic: Traffic) -> Reference:
    monitor = served.monitor(None)
    for reading in served.readings(traffic):
        served.timeline.add(reading)
        monitor.observe(reading)
    assert monitor.reference is not None
    return monitor.reference
