"""What is needed to compare: the window as a baseline, and versions beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sidecar.console.answers import Answer
from sidecar.console.shared import Shared
from sidecar.errors import UnknownModelError
from sidecar.export.activations import Watched, observed
from sidecar.export.versions import Observed, VersionDifference, version_differences


class VersionsAnswer(Answer):
    """Each further version of a model beside its first, over drift.window_seconds."""

    versions: list[VersionDifference]


def versions(watched: Sequence[Watched], min_requests: int) -> bytes:
    told = VersionsAnswer(versions=version_differences(observed(watched), min_requests))
    return told.model_dump_json().encode()


class Windows:
    """The window of each version as a baseline, made once for all who ask meanwhile.

    share: makes an answer one that is shared.
    """

    def __init__(
        self, watched: Sequence[Watched], min_requests: int, share: Callable[[Callable[[], bytes]], Shared]
    ) -> None:
        self._watched, self._min_requests, self._share = watched, min_requests, share
        self._shared: dict[Observed, Shared] = {}

    async def window(self, model: str | None, version: str | None) -> bytes:
        """Of the first version that fits; None fits all.

        Raises UnknownModelError, BaselineError where its window holds too few requests, and what `Shared` does.
        """
        there = observed(self._watched)
        self._shared = {one: shared for one, shared in self._shared.items() if one in there}
        for one in there:
            if model in (None, one.model) and version in (None, one.version):
                if one not in self._shared:
                    self._shared[one] = self._share(partial(self._made, one))
                body, _ = await self._shared[one].answer()
                return body
        known = ", ".join(f"{one.model} version {one.version}" for one in there)
        raise UnknownModelError(f"no such model is observed; there are: {known or 'none'}")

    def _made(self, one: Observed) -> bytes:
        return one.monitor.snapshot(self._min_requests).to_bytes()
