"""Tap points of an ONNX model: the floating-point values of its graph that depend on the request."""

from __future__ import annotations

from sidecar.runtime.onnx_blocks import find_blocks
from sidecar.runtime.onnx_graph import Graph
from sidecar.types import Site, TapPoint


def tap_points(graph: Graph) -> list[TapPoint]:
    """By default what leaves each block or stage. Weights, shapes and the insides of If and Loop are no points."""
    blocks = find_blocks(graph)
    ends = {block.output: block.site for block in blocks}
    sites: dict[str, Site] = {name: site for block in blocks for site, name in block.branches} | ends
    points = []
    for index, node in enumerate(graph.nodes):
        number = next((i for i, block in enumerate(blocks) if block.first <= index <= block.last), None)
        points += [
            TapPoint(
                name,
                sites.get(name, name),
                number,
                graph.channel_dim(name),
                default=name in ends,
                node=node.name,
            )
            for name in node.output
            if name in graph.data and graph.floating(name)
        ]
    return points
