"""A vector over channels in few numbers: a count sketch, which keeps distances between vectors on average.

Channel c is added to bucket c mod 32 with a sign that is a hash of it. Charikar, Chen, Farach-Colton, Finding
Frequent Items in Data Streams, 2002; as a projection, Weinberger et al., Feature Hashing for Large Scale Multitask
Learning, 2009.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PROJECTIONS = 32
"""Neighbours in groups of 16 meet in two buckets, so a kernel adds whole vectors of channels."""

SIGN_HASH = (0x85EBCA6B, 13, 0xC2B2AE35)
"""Multiply, fold by a shift, multiply: the upper 16 of 32 bits are the signs of 16 neighbours, 1 where negative."""

_NEIGHBOURS = 16


def signs(channels: int) -> npt.NDArray[np.float32]:
    """+1 or -1, float32[channels], the same in every process."""
    first, shift, second = (np.uint32(step) for step in SIGN_HASH)
    channel = np.arange(channels, dtype=np.uint32)
    hashed = (channel // _NEIGHBOURS + np.uint32(1)) * first
    hashed = (hashed ^ (hashed >> shift)) * second
    negative = hashed >> (16 + channel % _NEIGHBOURS) & 1
    return np.where(negative, -1, 1).astype(np.float32)


def project(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[..., channels] -> [..., PROJECTIONS]; the definition that kernels are tested against."""
    channels = vectors.shape[-1]
    whole = -(-channels // PROJECTIONS) * PROJECTIONS
    signed = np.zeros((*vectors.shape[:-1], whole))
    signed[..., :channels] = vectors * signs(channels)
    projected: npt.NDArray[np.float64] = signed.reshape(*vectors.shape[:-1], -1, PROJECTIONS).sum(axis=-2)
    return projected
