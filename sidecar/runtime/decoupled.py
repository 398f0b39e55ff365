"""Decoupled torch models: a request gets any number of replies, each as soon as the model has made it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import Any

import torch

from sidecar.errors import InferenceError
from sidecar.runtime.examples import UNKNOWN_SIZE
from sidecar.runtime.torch import TorchRuntime
from sidecar.types import Tensor

MOST_REPLIES = 1024
"""In a trial or a baseline, where all replies to a request are kept and no client can end them."""

Outputs = Mapping[str, Tensor]

Replies = Generator[Outputs, None, Outputs]
"""Outputs of one reply after the other. What it returns is the last, empty where the model told too late that it was.

To be closed by whoever does not want them all.
"""


class DecoupledRuntime(TorchRuntime):
    """Its model's forward is a generator of outputs, or returns another iterator; requests run by the `..._replies`.

    `plain` and `instrumented` run a request to its end: output `y` of the third reply is `y[2]`. They raise
    InferenceError where that does not come within MOST_REPLIES.
    """

    def example(self, rows: int, length: int = UNKNOWN_SIZE) -> dict[str, Tensor]:
        """Integers are one: where they say how many replies are wanted, zero would keep the model from running."""
        made = super().example(rows, length)
        for tensor in made.values():
            if tensor.datatype.startswith(("INT", "UINT")):
                tensor.array[...] = 1
        return made

    def plain_replies(self, batch: Mapping[str, Tensor]) -> Replies:
        return self._replies(self._plain, batch)

    def instrumented_replies(self, batch: Mapping[str, Tensor]) -> Replies:
        return self._replies(self._instrumented, batch)

    def _run(self, model: Callable[..., Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with closing(self._replies(model, batch)) as replies:
            for number, outputs in enumerate(_all(replies)):
                if number == MOST_REPLIES:
                    raise InferenceError(
                        f"the model gave more than {MOST_REPLIES} replies to a request of a trial or baseline"
                    )
                found |= {f"{name}[{number}]": tensor for name, tensor in outputs.items()}
        return found

    def _replies(self, model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Replies:
        # Entered anew for each reply: it holds for a thread, which does other things in between.
        with torch.inference_mode():
            by_position, by_name = self._arguments(batch)
            given = model(*by_position, **by_name)
        if not isinstance(given, Iterator):
            raise InferenceError(
                f"the model returned {type(given).__name__}, and a decoupled one must return a generator or iterator"
            )
        try:
            while True:
                with torch.inference_mode():
                    try:
                        outputs = self._own(next(given))
                    except StopIteration as end:
                        return {} if end.value is None else self._own(end.value)
                yield outputs
        finally:
            if isinstance(given, Generator):
                given.close()

    def _own(self, output: object) -> Outputs:
        """A copy: the model may go on with the same tensor before a reply is written."""
        named = self.named(output)
        return {name: Tensor(tensor.datatype, tensor.array.copy()) for name, tensor in named.items()}


def _all(replies: Replies) -> Iterator[Outputs]:
    if last := (yield from replies):
        yield last
