"""Trains the demo's model once and keeps it: scikit-learn's digits, under a minute on two cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sidecar.demo.model import DigitClassifier
from sidecar.demo.shifts import Images, Labels

EPOCHS = 12
BATCH = 32
ACCURACY_WANTED = 0.95


@dataclass(frozen=True, slots=True)
class Digits:
    """1,797 images [n, 64] with pixels 0..16, split once; `test` images are never trained on."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels


def digits() -> Digits:
    images, labels = load_digits(return_X_y=True)
    split: Any = train_test_split(
        images.astype(np.float32), labels.astype(np.int64), test_size=0.4, random_state=0, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = split
    return Digits(train_images, train_labels, test_images, test_labels)


def weights(path: Path, progress: Callable[[float], None]) -> Path:
    """Path of trained weights: `path`, trained first if it is not there.

    progress: told the share done, 0..1. Raises RuntimeError if the accuracy on the test images stays under 95%.
    """
    if path.exists():
        return path
    data = digits()
    model = train(data, progress)
    reached = accuracy(model, data.test_images, data.test_labels)
    if reached < ACCURACY_WANTED:
        raise RuntimeError(
            f"training reached {reached:.1%} on held-out images, {ACCURACY_WANTED:.0%} is wanted"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when whole, so that an interrupted run leaves no half file behind.
    partial = path.with_suffix(f".{os.getpid()}")
    save_file(model.state_dict(), partial)
    partial.replace(path)
    return path


def train(data: Digits, progress: Callable[[float], None]) -> DigitClassifier:
    # Layers this small gain little from a second thread, and lose much on a busy machine: threads spin for each other.
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DigitClassifier()
    images, labels = torch.from_numpy(data.train_images), torch.from_numpy(data.train_labels)
    steps = EPOCHS * -(-len(images) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    done = 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            done += 1
            progress(done / steps)
    return model.eval()


def accuracy(model: DigitClassifier, images: Images, labels: Labels) -> float:
    with torch.inference_mode():
        return float((model(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())


def load(path: Path) -> DigitClassifier:
    model = DigitClassifier()
    model.load_state_dict(load_file(path))
    return model.eval()
