"""What drift is measured on: two trained models, and their requests as the real capture recorded them."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

from sidecar import runtime
from sidecar.baseline.recording import read_requests, replay
from sidecar.demo import training
from sidecar.demo.shifts import Scenario, shifted
from sidecar.drift.scores import FIT_STRIDE, features, stack_projections, stack_rows
from sidecar.drift.space import MeanSpace, Projections
from sidecar.observation import observe
from sidecar.settings import Settings, resolve
from sidecar.sketch import ROW_STATISTICS, OutputRows

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

FOLDER = Path("build/bench").absolute()
RECORDED = 1_500


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Requests of one kind. rows: float64[taps, n, 6]. projections: float32[taps, n, 32]."""

    rows: Array
    outputs: OutputRows
    projections: Projections

    def __len__(self) -> int:
        return self.rows.shape[1]

    def of(self, index: Index) -> "Recorded":
        outputs = self.outputs
        return Recorded(
            self.rows[:, index],
            OutputRows(
                outputs.energy[index], outputs.margin[index], outputs.predicted[index], outputs.logits[index]
            ),
            self.projections[:, index],
        )

    def then(self, later: "Recorded") -> "Recorded":
        return Recorded(
            np.concatenate([self.rows, later.rows], axis=1),
            OutputRows.concat([self.outputs, later.outputs]),
            np.concatenate([self.projections, later.projections], axis=1),
        )

    @property
    def broken(self) -> npt.NDArray[np.bool_]:
        """Requests with NaN or infinite values at any tap, bool[n]."""
        return (self.rows[..., ROW_STATISTICS.index("nonfinite")] > 0).any(axis=0)

    def space(self, reference: Index) -> MeanSpace:
        """Of the channel means of a reference, as drift makes it."""
        return MeanSpace.fit(self.projections[:, reference[::FIT_STRIDE]])

    def columns(self, space: MeanSpace) -> Array:
        """What other detectors see, float64[n, 6 * taps + 2]: the same numbers that ours does."""
        taps = np.concatenate(list(features(self.rows)), axis=1)
        means = space.distances(self.projections).T
        columns = np.column_stack([taps, means, self.outputs.energy, self.outputs.margin])
        # They have no place for what is not finite; a number that is far off stands for it.
        limits = np.nan_to_num(columns, nan=1e6, posinf=1e6, neginf=-1e6)
        return np.clip(limits, -1e6, 1e6)

    def moved(self, sigmas: float, taps: slice) -> "Recorded":
        """With the mean at these taps, and nothing else, moved by so many of its standard deviations."""
        rows = self.rows.copy()
        spread = rows[taps, :, 0].std(axis=1, keepdims=True)
        rows[taps, :, 0] += sigmas * spread
        return Recorded(rows, self.outputs, self.projections)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """normal: what traffic is drawn from. scenarios: the same after something went wrong."""

    name: str
    normal: Recorded
    scenarios: Mapping[str, Recorded]


class Tabular(nn.Module):
    """30 measurements, standardised -> logits of 2 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(size, 64), nn.ReLU()) for size in (30, 64, 64, 64)
        )
        self.head = nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def tabular() -> nn.Module:
    return Tabular()


def record(settings: Settings, name: str, inputs: npt.NDArray[np.float32]) -> Recorded:
    """Run them through the instrumented model, each a request."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.npz"
        np.savez(path, **{name: np.ascontiguousarray(inputs, np.float32)})
        model = runtime.load(settings.models[0])
        requests = read_requests(path, model, batched=True)
    watched = observe(model, settings.models[0], settings, lambda _: None, lambda: 0.0)
    taps = watched.taps
    readings = list(replay(model, watched, requests, settings.models[0].batching.max_rows))
    outputs = [reading.outputs for reading in readings if reading.outputs]
    return Recorded(
        np.concatenate([stack_rows(reading.rows, taps) for reading in readings], axis=1),
        OutputRows.concat(outputs),
        np.concatenate([stack_projections(reading.rows, taps) for reading in readings], axis=1),
    )


def _settings(source: str, weights: Path, name: str, width: int, classes: int, taps: list[str]) -> Settings:
    model = {
        "name": "bench", "source": source, "weights": str(weights), "threads": 1, "taps": taps,
        "inputs": [{"name": name, "datatype": "FP32", "shape": [-1, width]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, classes]}],
    }  # fmt: skip
    everything = {"models": [model], "capture": {"sample_rate": 1.0, "budget": 1.0}}
    return resolve(everything, {}, base=FOLDER)


def digits_settings(weights: Path | None = None) -> Settings:
    """The demo's model, trained first where it is not there yet."""
    trained = training.weights(FOLDER / "digits.safetensors", lambda _: None)
    return _settings("sidecar.demo.model:build", weights or trained, "image", 64, 10, [])


def digits() -> Task:
    """The demo's model, its held-out images and its scenarios."""
    settings, images = digits_settings(), training.digits()
    rng = np.random.default_rng(0)
    scenarios = {}
    for scenario in Scenario:
        draw = shifted(scenario, images.test_images, images.test_labels)
        if scenario is not Scenario.NONE:
            drawn = np.stack([draw(rng)[0] for _ in range(RECORDED)])
            scenarios[scenario.value] = record(settings, "image", drawn)
    return Task("digits", record(settings, "image", images.test_images), scenarios)


def cancer() -> Task:
    """scikit-learn's breast cancer measurements, 569 of them, and a network of four layers."""
    measured, labels = load_breast_cancer(return_X_y=True)
    standard = ((measured - measured.mean(axis=0)) / measured.std(axis=0)).astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(
        standard, labels, test_size=0.6, random_state=0, stratify=labels
    )
    path = FOLDER / "cancer.safetensors"
    if not path.exists():
        _train(train, train_labels, path)
    settings = _settings("tests.bench.drift_tasks:tabular", path, "x", 30, 2, ["blocks.?"])
    rng = np.random.default_rng(0)
    drawn = test[rng.integers(len(test), size=RECORDED)]
    noisy = drawn + rng.normal(0, 0.5, drawn.shape)
    # Somebody sends the first measurement in another unit.
    scaled = drawn * np.where(np.arange(30) == 0, 1.5, 1.0)
    scenarios = {"noise": noisy, "scaled-input": scaled, "missing-class": test[test_labels == 1]}
    return Task(
        "cancer",
        record(settings, "x", test),
        {name: record(settings, "x", inputs) for name, inputs in scenarios.items()},
    )


def _train(inputs: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], path: Path) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, x, y = Tabular(), torch.from_numpy(inputs), torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(model.state_dict(), path)


def digits_weights() -> dict[str, torch.Tensor]:
    digits_settings()
    return load_file(FOLDER / "digits.safetensors")
