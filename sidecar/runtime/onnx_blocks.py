"""What an ONNX model is made of: the residual adds of its stream, and the blocks or stages that they close.

An Add is residual when one of its inputs reaches the other through weights: x + f(x). The input may also be x after
one convolution, the shortcut at the start of a stage. What the next add takes as its x is the stream: the sum
itself, or the sum after an activation function or a norm where the model has one there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sidecar.runtime.onnx_graph import Graph
from sidecar.types import Site

_ATTENTION = re.compile(r"Softmax|Attention")
_CONVOLUTION = re.compile(r"Conv")
_SHORTCUT = re.compile(
    r"Conv|Pool$|^BatchNormalization$|^Pad$|^Identity$|^Cast$|^(Quantize|Dequantize)Linear$"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A part of the model of one depth: its nodes are `first` to `last`, `output` is the value that leaves it.

    branches: site -> the value that was added to the stream there.
    """

    first: int
    last: int
    output: str
    site: Site
    branches: tuple[tuple[Site, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Add:
    """node: its index. source: the value that both inputs come from. branch: the input that is not the shortcut.

    projected: the shortcut has a convolution.
    """

    node: int
    output: str
    source: str
    branch: str
    attention: bool
    convolutional: bool
    projected: bool


def find_blocks(graph: Graph) -> list[Block]:
    """Stages of a convolutional network that has several, else the blocks of the longest residual stream.

    A stage ends before a shortcut with a convolution, and where the stream passes through weights. Attention begins
    a block if other adds follow it. Empty when there is no residual add.
    """
    adds = {add.node: add for index in range(len(graph.nodes)) if (add := _residual(graph, index))}
    if not adds:
        return []
    latest, nearest = _last_adds(graph, adds)
    chain = _longest(adds, latest)
    runs: list[list[_Add]] = []
    for add in chain:
        joined = runs and not add.projected and nearest.get(add.source) == runs[-1][-1].node
        if joined:
            runs[-1].append(add)
        else:
            runs.append([add])
    stream = _stream(graph, chain, nearest)
    convolutional = 2 * sum(add.convolutional for add in chain) > len(chain)
    if convolutional and len(runs) > 1:
        return [_block(graph, run, stream, "stage") for run in runs]
    return [_block(graph, part, stream, "resid") for part in _parts(max(runs, key=len))]


def _residual(graph: Graph, index: int) -> _Add | None:
    node, inputs = graph.nodes[index], graph.inputs(index)
    if node.op_type != "Add" or len(inputs) != 2 or not graph.floating(node.output[0]):
        return None
    for shortcut, branch in (inputs, inputs[::-1]):
        for source, projected in _sources(graph, shortcut):
            path = graph.between(source, branch)
            if any(graph.weighted(step) for step in path):
                kinds = [graph.nodes[step].op_type for step in path]
                return _Add(
                    index,
                    node.output[0],
                    source,
                    branch,
                    any(_ATTENTION.search(kind) for kind in kinds),
                    any(_CONVOLUTION.search(kind) for kind in kinds),
                    projected,
                )
    return None


def _sources(graph: Graph, shortcut: str) -> Iterator[tuple[str, bool]]:
    """The shortcut itself, and what its one convolution takes."""
    yield shortcut, False
    value, projected = shortcut, False
    while (index := graph.made_by(value)) >= 0 and _SHORTCUT.search(graph.nodes[index].op_type):
        convolution = bool(_CONVOLUTION.search(graph.nodes[index].op_type))
        if convolution and projected:
            return
        projected |= convolution
        (value,) = graph.inputs(index)[:1] or ("",)
        if projected:
            yield value, True


def _last_adds(graph: Graph, adds: dict[int, _Add]) -> tuple[dict[str, int], dict[str, int]]:
    """Value -> the last residual add that it depends on, and the same where no weights lie between."""
    latest: dict[str, int] = {}
    nearest: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        inputs = graph.inputs(index)
        if index in adds:
            reached = direct = index
        else:
            reached = max((latest.get(name, -1) for name in inputs), default=-1)
            direct = max((nearest.get(name, -1) for name in inputs), default=-1)
        if graph.weighted(index):
            direct = -1
        for name in node.output:
            latest[name], nearest[name] = reached, direct
    return latest, nearest


def _longest(adds: dict[int, _Add], latest: dict[str, int]) -> list[_Add]:
    """The most adds of which each takes up the stream that another left."""
    length: dict[int, int] = {}
    for node, add in adds.items():
        length[node] = 1 + length.get(latest.get(add.source, -1), 0)
    node = max(length, key=lambda node: length[node])
    chain = []
    while node in adds:
        chain.append(adds[node])
        node = latest.get(adds[node].source, -1)
    return chain[::-1]


def _stream(graph: Graph, chain: Sequence[_Add], nearest: dict[str, int]) -> dict[int, str]:
    """Add -> the value that it leaves in the stream."""
    stream = {add.node: add.output for add in chain}
    tail: list[str] = []
    for add, following in pairwise(chain):
        if nearest.get(following.source) == add.node and graph.function_of(following.source, add.output):
            stream[add.node] = following.source
            tail = [graph.nodes[index].op_type for index in _way(graph, add.output, following.source)]
    # Nobody takes up the stream after the last add; what followed the others may follow it too.
    end = chain[-1].output
    for kind in tail:
        followers = [graph.nodes[index] for index in graph.consumers.get(end, [])]
        end = next((node.output[0] for node in followers if node.op_type == kind), "")
    stream[chain[-1].node] = end or chain[-1].output
    return stream


def _way(graph: Graph, start: str, end: str) -> list[int]:
    """One way from `start` to `end`, the shortest of those that keep to first inputs."""
    way: list[int] = []
    while end != start:
        index = graph.made_by(end)
        way.append(index)
        end = next(name for name in graph.inputs(index) if name == start or graph.between(start, name))
    return way[::-1]


def _parts(run: Sequence[_Add]) -> list[list[_Add]]:
    """Every add a block of its own; but where only some branches have attention, a block begins with those."""
    mixed = len({add.attention for add in run}) > 1
    parts: list[list[_Add]] = []
    for add in run:
        opens = not parts or not mixed or (add.attention and not parts[-1][-1].attention)
        if opens:
            parts.append([add])
        else:
            parts[-1].append(add)
    return parts


def _block(graph: Graph, adds: Sequence[_Add], stream: dict[int, str], site: Site) -> Block:
    output = stream[adds[-1].node]
    mixed = len({add.attention for add in adds}) > 1
    sites = {True: "attn_out", False: "mlp_out"}
    branches = tuple((sites[add.attention], add.branch) for add in adds) if mixed else ()
    first = graph.made_by(adds[0].source) + 1
    return Block(first, graph.made_by(output), output, site, branches)
