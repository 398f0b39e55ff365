"""The model that every server of the comparison runs. Imports nothing but torch: each has its own environment."""

import torch
from torch import nn

INSIDE, WIDTH = 2048, 512


def build() -> nn.Module:
    """[batch, 512] -> [batch, 512], the same weights in every process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return nn.Sequential(nn.Linear(WIDTH, INSIDE), nn.ReLU(), nn.Linear(INSIDE, WIDTH)).eval()
