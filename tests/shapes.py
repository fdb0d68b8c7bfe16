"""Procedural pictures with captions: one shape in one colour, at one place, on white, as files."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": "#d02020", "green": "#209030", "blue": "#2040d0", "yellow": "#e8c820", "black": "#101010",
    "purple": "#8030a0",
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
PLACES = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}


def draw_shape(colour: str, shape: str, place: str, size: int, generator: np.random.Generator) -> Image.Image:
    """A picture of `size` pixels; its shape's size and exact place are random."""
    image = Image.new("RGB", (size, size), "white")
    radius = size * generator.uniform(0.13, 0.2)
    x, y = (size * (0.28 + 0.44 * side + generator.uniform(-0.05, 0.05)) for side in PLACES[place])
    box = (x - radius, y - radius, x + radius, y + radius)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], COLOURS[colour])
    return image


def write_shapes(folder: Path, count: int, *, size: int = 32, seed: int = 0) -> list[tuple[str, str]]:
    """Writes images/ and captions.csv, two captions a picture; (picture's name, caption) of each row."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        colour, shape, place = (generator.choice(list(words)) for words in (COLOURS, SHAPES, PLACES))
        name = f"{number:05d}.png"
        draw_shape(colour, shape, place, size, generator).save(folder / "images" / name)
        rows += [(name, f"a {colour} {shape} at the {place}"), (name, f"{place}: {colour} {shape}")]
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return rows
