"""A model that works elsewhere, as one on a GPU does: what it costs is time, not this machine's processors."""

import os
import time

import torch
from torch import nn

SECONDS = 0.032
WIDTH = 16


class Device(nn.Module):
    """[batch, 16] -> [batch, 16], after `SECONDS`, or after as many as the first value of a row says if it is negative.

    The first value of every row is written to the file that DEVICE_LOG names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x[:, 0].tolist()
        with open(os.environ["DEVICE_LOG"], "a") as log:
            print(*(f"{value:.0f}" for value in first), file=log)
        time.sleep(max(SECONDS, -min(first)))
        return self.layer(x)
