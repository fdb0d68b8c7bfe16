"""What a compiled program does, read from its text: products of matrices and talk between devices.

XLA's own cost analysis counts the body of a loop once; here it counts as often as the loop runs.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    "c128": 16,
}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+)$")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"\}')


class Collective(NamedTuple):
    """One kind of talk.

    Attributes:
      times: how often a device takes part in it.
      bytes: what a device has of the results, all together.
    """

    kind: str
    times: int
    bytes: int


class Work(NamedTuple):
    """What one device does in one run of the program.

    Attributes:
      flops: of products of matrices, two for a multiplication with its addition.
      unknown_loops: loops whose number of rounds the text does not tell.
    """

    flops: int
    collectives: tuple[Collective, ...]
    unknown_loops: int


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    rest: str  # operands and attributes


def read_work(text: str, *, unknown_trips: int = 1) -> Work:
    """What a program does that jax.stages.Compiled.as_text() describes.

    Args:
      unknown_trips: rounds of a loop whose number depends on data, such as sampling until all rows ended.
    """
    computations, entry = _parse(text)
    totals: dict[str, list[int]] = {kind: [0, 0] for kind in COLLECTIVES}
    flops = unknown = 0
    for name, times in _visits(computations, entry, unknown_trips):
        instructions = computations[name]
        types = {instruction.name: instruction.type for instruction in instructions}
        for instruction in instructions:
            kind = instruction.opcode.removesuffix("-start")
            if kind in totals:
                totals[kind][0] += times
                totals[kind][1] += times * sum(_size(dtype, shape) for dtype, shape in _results(instruction))
            elif instruction.opcode == "dot":
                flops += times * _dot_flops(instruction, types)
            elif instruction.opcode == "while" and not _TRIPS.search(instruction.rest):
                unknown += 1
    collectives = tuple(Collective(kind, *totals[kind]) for kind in COLLECTIVES if totals[kind][0])
    return Work(flops, collectives, unknown)


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Instructions by computation, and the name of the one that is run."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (found := _INSTRUCTION.match(line)):
            kind, rest = _split_type(found[2])
            if opcode := _OPCODE.match(rest):
                computations[current].append(_Instruction(found[1], kind, opcode[1], rest[opcode.end() :]))
    return computations, entry


def _split_type(text: str) -> tuple[str, str]:
    """(type, what follows it); a tuple's type stands in brackets."""
    if not text.startswith("("):
        kind, _, rest = text.partition(" ")
        return kind, rest
    depth = 0
    for i, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return text[: i + 1], text[i + 2 :]
    return text, ""


def _visits(
    computations: dict[str, list[_Instruction]], entry: str, unknown_trips: int
) -> Iterator[tuple[str, int]]:
    """(computation, how often it runs) for every call of one, from the entry down."""
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        yield name, times
        for instruction in computations[name]:
            if instruction.opcode in ("async-update", "async-done"):
                continue  # its start has called it
            called = _CALLED.findall(instruction.rest)
            for branches in _BRANCHES.findall(instruction.rest):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            rounds = 1
            if instruction.opcode == "while":
                known = _TRIPS.search(instruction.rest)
                rounds = int(known[1]) if known else unknown_trips
            waiting += [(inner, times * rounds) for inner in called if inner in computations]


def _arrays(kind: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (dtype, tuple(int(size) for size in sizes.split(",") if size))
        for dtype, sizes in _ARRAY.findall(kind)
        if dtype in _BYTES
    ]


def _results(collective: _Instruction) -> list[tuple[str, tuple[int, ...]]]:
    arrays = _arrays(collective.type)
    if collective.opcode not in ("all-gather-start", "collective-permute-start"):
        return arrays
    # operands, as many results, and what the start tells its end
    count = collective.rest.partition(")")[0].count("%")
    return arrays[count : 2 * count]


def _size(dtype: str, shape: tuple[int, ...]) -> int:
    return _BYTES[dtype] * math.prod(shape)


def _dot_flops(dot: _Instruction, types: dict[str, str]) -> int:
    operands, _, attributes = dot.rest.partition(")")
    first = operands.split(", %")[0] if ", %" in operands else operands.split(",")[0]
    left = _arrays(first) or _arrays(types.get(first.strip().lstrip("%"), ""))
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", attributes)
    out = math.prod(_arrays(dot.type)[0][1])
    if not left or contracted is None:
        return 2 * out
    return 2 * out * math.prod(left[0][1][int(i)] for i in contracted[1].split(",") if i)
