"""Which requests are observed."""

from __future__ import annotations

from hashlib import blake2b

from sidecar.settings import CaptureSettings
from sidecar.types import InferRequest

CHOICE = "sidecar_sample"
"""Request parameter by which a client asks to be observed (true) or left alone (false)."""


class Sampler:
    """Head sampling by a keyed hash of the request id: the same id gives the same answer everywhere."""

    def __init__(self, settings: CaptureSettings) -> None:
        self._key = settings.sample_key.encode()[:64]
        self._threshold = round(settings.sample_rate * 2**64)
        self._client_choice = settings.client_choice

    def wants(self, request: InferRequest) -> bool:
        if self._client_choice and isinstance(choice := request.parameters.get(CHOICE), bool):
            return choice
        if self._threshold == 2**64:
            return True
        digest = blake2b(request.id.encode(), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") < self._threshold
