"""The GPU kernels as they are compiled: what a machine without a GPU can know of their cost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sidecar.capture.cuda.cells import add_keys, widen
from sidecar.capture.cuda.fold import fold
from sidecar.capture.cuda.launch import ALONE, ALONG_CHANNELS, ALONG_POSITIONS, MERGE_TILE, Tile
from sidecar.capture.cuda.merge import merge
from sidecar.capture.layout import HISTOGRAM_SHARE

PROGRAMS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ARCHITECTURES = (80, 90, 100)
TINY = {"bf16": 2.0**-126, "fp16": 2.0**-14, "fp32": 2.0**-126}
POINTERS = {
    "row_slot": "*i32", "bank": "*i32", "histogram": "*i32", "integers": "*i64", "floats": "*fp64",
    "projections": "*fp32", "peaks": "*i64", "sums": "*fp64", "counts": "*i32",
}  # fmt: skip
VALUES_A_THREAD = 8
MOST_REGISTERS = 168
"""Three programs of `fold`, twelve warps, on a multiprocessor of 65,536 registers."""

# Instructions for a value in the loop that reads it. Blackwell adds and multiplies floats in pairs. Where
# channels lie apart, addresses are reckoned one by one.
MOST_INSTRUCTIONS = {80: 19.0, 90: 19.1, 100: 14.0}
APART = 2.0

# Where ptxas stores one register before the loop and loads it after that. Alone it pairs no floats there either.
WORST = (100, "fp32")
WORST_STACK = 8
UNPAIRED = 3.5


@dataclass
class Machine:
    """A kernel as machine code. loops: instructions of each innermost loop, the longest first."""

    registers: int
    stack: int
    loops: list[int]


def disassemble(cubin: bytes, folder: Path) -> Machine:
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)

    def run(program: str, option: str) -> str:
        return subprocess.run(
            [PROGRAMS / program, option, path], capture_output=True, text=True, check=True
        ).stdout

    usage = run("cuobjdump", "--dump-resource-usage")
    instructions: list[str] = []
    labels: dict[str, int] = {}
    for line in run("nvdisasm", "--print-code").splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(instruction[1])
    spans = []
    for end, instruction in enumerate(instructions):
        target = re.search(r"\bBRA\b.*\((\.L_x_\d+)\)", instruction)
        if target and labels[target[1]] < end:
            spans.append((labels[target[1]], end))
    inner = [
        end - start + 1
        for start, end in spans
        if not any((a, b) != (start, end) and start <= a and b <= end for a, b in spans)
    ]
    numbers = {name: int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK")}
    return Machine(numbers["REG"], numbers["STACK"], sorted(inner, reverse=True))


def build(
    kernel: triton.JITFunction, dtype: str, architecture: int, tile: Tile, folder: Path, **constants: object
) -> Machine:
    side_by_side = "position_stride" if tile is ALONG_POSITIONS else "channel_stride"
    constants |= {side_by_side: 1, "tables": 1, "LINES": tile.lines, "WIDTH": tile.width}
    types: Mapping[str, str] = {**POINTERS, "x": f"*{dtype}", "near_zero": "fp32"}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {"x", *POINTERS, "channels", "row_stride", "position_stride", "channel_stride"} - set(constants)
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned},
    )
    warps = tile.warps if kernel is fold else 4
    target = GPUTarget("cuda", architecture, 32)
    return disassemble(
        triton.compile(source, target=target, options={"num_warps": warps}).asm["cubin"], folder
    )


@pytest.fixture(autouse=True)
def compiled_afresh(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


FOLDS = {
    "chunks of rows": (ALONG_CHANNELS, False, False),
    "across rows": (ALONG_CHANNELS, True, False),
    "convolution": (ALONG_POSITIONS, False, False),
    "few positions of a convolution": (ALONG_POSITIONS, True, False),
    "alone": (ALONE, False, True),
}


SLOW = pytest.mark.slow
TARGETS = [(architecture, dtype) for architecture in ARCHITECTURES for dtype in TINY]
USUAL = (90, "bf16")


def fold_cases():
    """Each takes a second to compile, so only a few are for every day."""
    for shape, (tile, *_) in FOLDS.items():
        for target in TARGETS:
            daily = tile is not ALONG_POSITIONS and target == USUAL
            daily |= shape == "chunks of rows" and target[1] == "bf16"
            yield pytest.param(shape, *target, marks=() if daily else SLOW)


def merge_cases():
    for tile in (ALONG_CHANNELS, ALONG_POSITIONS):
        for target in TARGETS:
            daily = tile is ALONG_CHANNELS and target == USUAL
            yield pytest.param(tile, *target, marks=() if daily else SLOW)


@pytest.mark.parametrize(("shape", "architecture", "dtype"), list(fold_cases()))
def test_fold_takes_few_registers_and_few_instructions_for_a_value(architecture, dtype, shape, tmp_path):
    tile, across, alone = FOLDS[shape]
    machine = build(fold, dtype, architecture, tile, tmp_path, ACROSS=across, ALONE=alone, TINY=TINY[dtype])
    unrolled = 4
    instructions = machine.loops[0] / VALUES_A_THREAD / unrolled
    print(
        f"fold, {shape}, {dtype}, sm_{architecture}: {machine.registers} registers, {machine.stack} bytes of "
        f"stack, {instructions:.1f} instructions a value"
    )
    worst = (architecture, dtype) == WORST
    assert machine.stack <= WORST_STACK * worst
    assert machine.registers <= MOST_REGISTERS
    allowed = (
        MOST_INSTRUCTIONS[architecture] + APART * (tile is ALONG_POSITIONS) + UNPAIRED * (worst and alone)
    )
    assert instructions <= allowed


@pytest.mark.parametrize(("tile", "architecture", "dtype"), list(merge_cases()))
def test_merge_spills_nothing(architecture, dtype, tile, tmp_path):
    machine = build(merge, dtype, architecture, tile, tmp_path, **MERGE_TILE)
    print(f"merge, {dtype}, sm_{architecture}: {machine.registers} registers, {machine.stack} bytes of stack")
    assert machine.stack == 0
    assert machine.registers <= MOST_REGISTERS


@triton.jit
def count_tiles(x, histogram, tiles, SIZE: tl.constexpr):  # noqa: N803 - as triton writes it
    at = tl.arange(0, SIZE)
    for tile in range(0, tiles):
        add_keys(widen(tl.load(x + tile * SIZE + at)), at < SIZE, histogram, SIZE)


@pytest.mark.parametrize("architecture", [pytest.param(80, marks=SLOW), 90, pytest.param(100, marks=SLOW)])
def test_the_histogram_takes_a_bounded_number_of_instructions_for_a_value_of_its_share(
    architecture, tmp_path
):
    source = ASTSource(
        fn=count_tiles,
        signature={"x": "*bf16", "histogram": "*i32", "tiles": "i32", "SIZE": "constexpr"},
        constexprs={(3,): ALONG_CHANNELS.lines * ALONG_CHANNELS.width},
        attrs={(0,): [["tt.divisibility", 16]]},
    )
    target = GPUTarget("cuda", architecture, 32)
    cubin = triton.compile(source, target=target, options={"num_warps": ALONG_CHANNELS.warps}).asm["cubin"]
    instructions = disassemble(cubin, tmp_path).loops[0] / VALUES_A_THREAD
    print(
        f"histogram, bf16, sm_{architecture}: {instructions:.0f} instructions a value that it is shown, "
        f"{instructions / HISTOGRAM_SHARE:.1f} a value"
    )
    assert instructions <= 150


@pytest.mark.parametrize("alone", [True, False])
def test_sizes_and_strides_of_one_which_triton_makes_constants_compile(alone, tmp_path):
    ones = {"channels": 1, "row_stride": 1, "position_stride": 1, "TINY": TINY["bf16"]}
    tile = ALONE if alone else ALONG_CHANNELS
    assert build(fold, "bf16", 90, tile, tmp_path, ACROSS=not alone, ALONE=alone, **ones).loops
