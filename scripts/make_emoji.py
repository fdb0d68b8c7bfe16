"""Makes the bundled pictures with names, mmrlhf_jax/data/emoji/emoji.parquet.

Sources, fetched with their ordinary clients:
  the font:   apt-get download fonts-noto-color-emoji
              dpkg-deb -x fonts-noto-color-emoji_*.deb font
  the names:  npm pack emojibase-data@17
              tar xf emojibase-data-17.*.tgz       (its English names and keywords are those of Unicode CLDR)

Command (15 seconds):
  python scripts/make_emoji.py --font font/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf \\
      --emojibase package --output mmrlhf_jax/data/emoji/emoji.parquet
Expected with font 2.042 and emojibase 17.0.0: 3,789 pictures, 3,771 of them distinct.

Columns: image (a struct of bytes and path, which is the Image type of Hugging Face's datasets; WebP,
64x64, on white), name, keywords, group, subgroup, emoji (the characters), split.

Splits depend on the names alone (and on which pictures are equal, pixel by pixel). The name "man farmer:
light skin tone" has the base "man farmer", the part "light skin tone", and the concept "farmer":
  concepts      whole concepts, about one picture in fourteen of each group, with all their variants. Every
                such name has a word that no name of another concept has. No flags of places and no keycaps,
                whose pictures do not tell their names.
  combinations  new combinations of a base with parts, for couples both orders of the two skin tones
                together. Every base keeps two thirds of its pictures, and every part occurs elsewhere.
  feedback      chosen from what is left in the same way; every base keeps three fifths of that in train.
  train         the rest.
"""

import argparse
import collections
import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont, features

SIZE = 64
FONT_SIZE = 109  # the only size of this bitmap font that Pillow renders
GLYPH_BOX = (
    0,
    0,
    136,
    128,
)  # of one glyph; a sequence that the font does not know is wider, a missing glyph flat
COMBINATIONS = 400  # at most
FEEDBACK = 600  # at most
CONCEPT_SHARE = 1 / 14

# Words that tell variants of one concept apart: gender, colour, size, pose, direction, the time on a clock.
VARIANT = re.compile(
    r"\b(wo)?m[ae]n(\u2019s)?\b|\b(person|people|and|santa|mrs?|mx)\b\.?"
    r"|\b((light|medium|dark)-)?(light|red|orange|yellow|green|blue|purple|brown|black|white|grey|pink)\b"
    r"|\b(large|medium-small|medium|small|open|closed|horizontal|vertical|oncoming)\b"
    r"|\b((up|down|left|right)(wards)?-?(facing)?\b ?)+"
    r"|[\w-]+ o\u2019clock$|\w+-thirty$",
    re.IGNORECASE,
)
SAME_CONCEPT = {
    "merman": "mermaid",
    "merperson": "mermaid",
    "prince": "royalty",
    "princess": "royalty",
    "with crown": "royalty",
    "breast-feeding": "feeding baby",
    "older": "old",
}


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One row of the file."""

    image: bytes  # WebP
    name: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    emoji: str

    @property
    def base(self) -> str:
        return self.name.partition(": ")[0]

    @property
    def parts(self) -> list[str]:
        """What follows the colon, e.g. ["light skin tone", "dark skin tone"]."""
        behind = self.name.partition(": ")[2]
        return behind.split(", ") if behind else []

    @property
    def is_label(self) -> bool:
        """Whether the picture is a flag of a place or a keycap, which must be learnt by heart."""
        return self.base in ("flag", "keycap")

    @property
    def concept(self) -> str:
        """What the variants of the base have in common, e.g. "farmer", "heart"."""
        if self.is_label:
            return self.name
        base = self.base.removesuffix(" face") if self.group == "animals-nature" else self.base
        stripped = " ".join(VARIANT.sub("", base).split())
        # Nothing is left of "woman" or of "one-thirty": the subgroup ("person", "time") is their concept.
        return SAME_CONCEPT.get(stripped, stripped or self.subgroup)


def draw_all(font_path: Path, emojibase: Path) -> list[Emoji]:
    """Every emoji that the font draws as one glyph, in Unicode's order."""
    font = ImageFont.truetype(str(font_path), FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    meta = json.loads((emojibase / "meta" / "groups.json").read_text(encoding="utf-8"))
    emojis = []
    for entry in json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8")):
        # Without a group: letters that are halves of flags. "component": bare skin tones and hair styles.
        if "group" not in entry or meta["groups"][str(entry["group"])] == "component":
            continue
        group, subgroup = meta["groups"][str(entry["group"])], meta["subgroups"][str(entry["subgroup"])]
        for variant in [entry, *entry.get("skins", [])]:
            if font.getbbox(variant["emoji"]) == GLYPH_BOX:
                image = draw(variant["emoji"], font)
                keywords = tuple(entry.get("tags", ()))
                emojis.append(Emoji(image, variant["label"], keywords, group, subgroup, variant["emoji"]))
    return emojis


def draw(text: str, font: ImageFont.FreeTypeFont) -> bytes:
    """One emoji in the middle of a white square, as WebP."""
    _, _, width, height = GLYPH_BOX
    canvas = Image.new("RGBA", (width, width), "white")
    ImageDraw.Draw(canvas).text((0, (width - height) // 2), text, font=font, embedded_color=True)
    image = canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    if image.getcolors(maxcolors=1):
        raise SystemExit(f"the font draws {text!r} blank")
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90, method=6)
    return buffer.getvalue()


def rank(*key: str) -> bytes:
    """A fixed shuffle: sort by this."""
    return hashlib.sha256("\n".join(key).encode()).digest()


def words(name: str) -> set[str]:
    return set(re.findall(r"[\w\u2019-]+", name.lower()))


def choose_concepts(emojis: list[Emoji]) -> set[str]:
    """Names whose concept is held out with all its variants."""
    root = {emoji.concept: emoji.concept for emoji in emojis}

    def find(concept: str) -> str:
        while root[concept] != concept:
            concept = root[concept]
        return concept

    # Concepts that share a picture go together.
    first_with: dict[bytes, str] = {}
    for emoji in emojis:
        root[find(emoji.concept)] = find(first_with.setdefault(emoji.image, emoji.concept))
    members = collections.defaultdict(list)
    for emoji in emojis:
        members[find(emoji.concept)].append(emoji)
    owners = collections.defaultdict(set)
    for emoji in emojis:
        for word in words(emoji.name):
            owners[word].add(find(emoji.concept))
    held_out: set[str] = set()
    for group in sorted({emoji.group for emoji in emojis}):
        room = CONCEPT_SHARE * sum(emoji.group == group and not emoji.is_label for emoji in emojis)
        for concept in sorted(members, key=rank):
            family = members[concept]
            is_new = all(any(owners[word] == {concept} for word in words(emoji.name)) for emoji in family)
            is_label = any(emoji.is_label for emoji in family)
            if family[0].group == group and is_new and not is_label and len(family) <= room:
                held_out |= {emoji.name for emoji in family}
                room -= len(family)
    return held_out


def choose_combinations(emojis: list[Emoji], count: int, kept: float) -> set[str]:
    """Names whose base and parts all occur in the rest, but not together (in neither order of the parts).

    At most `count` of them; every base keeps at least the share `kept` of its pictures.
    """
    copies = collections.Counter(emoji.image for emoji in emojis)
    all_bases = collections.Counter(emoji.base for emoji in emojis)
    bases = all_bases.copy()
    parts = collections.Counter(part for emoji in emojis for part in emoji.parts)
    cells = collections.defaultdict(list)
    for emoji in emojis:
        cells[emoji.base, *sorted(emoji.parts)].append(emoji)
    held_out: set[str] = set()
    for key in sorted(cells, key=lambda key: rank(*key)):
        cell = cells[key]
        less_bases = collections.Counter(emoji.base for emoji in cell)
        less_parts = collections.Counter(part for emoji in cell for part in emoji.parts)
        if (
            len(held_out) + len(cell) <= count
            and all(copies[emoji.image] == 1 and not emoji.is_label for emoji in cell)
            and all(bases[base] - less >= all_bases[base] * kept for base, less in less_bases.items())
            and all(parts[part] - less >= 3 for part, less in less_parts.items())
        ):
            held_out |= {emoji.name for emoji in cell}
            bases -= less_bases
            parts -= less_parts
    return held_out


def split_names(emojis: list[Emoji]) -> list[str]:
    """The split of each emoji."""
    concepts = choose_concepts(emojis)
    combinations = choose_combinations([e for e in emojis if e.name not in concepts], COMBINATIONS, 2 / 3)
    feedback = choose_combinations(
        [e for e in emojis if e.name not in concepts | combinations], FEEDBACK, 3 / 5
    )
    chosen = {"concepts": concepts, "combinations": combinations, "feedback": feedback}
    return [next((s for s, names in chosen.items() if e.name in names), "train") for e in emojis]


def write(emojis: list[Emoji], splits: list[str], output: Path) -> None:
    """The parquet file, with the column types that Hugging Face's datasets reads from the metadata."""
    text = {"dtype": "string", "_type": "Value"}
    types = {"image": {"_type": "Image"}, "name": text, "keywords": {"feature": text, "_type": "Sequence"}}
    types |= {column: text for column in ("group", "subgroup", "emoji", "split")}
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("name", pa.string()),
            ("keywords", pa.list_(pa.string())),
            ("group", pa.string()),
            ("subgroup", pa.string()),
            ("emoji", pa.string()),
            ("split", pa.string()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": types}})},
    )
    rows = [
        dataclasses.asdict(emoji) | {"image": {"bytes": emoji.image, "path": None}, "split": split}
        for emoji, split in zip(emojis, splits, strict=True)
    ]
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), output, compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the bundled emoji pictures with their names.")
    parser.add_argument("--font", type=Path, required=True, help="NotoColorEmoji.ttf")
    parser.add_argument(
        "--emojibase", type=Path, required=True, help="the unpacked npm package emojibase-data"
    )
    parser.add_argument("--output", type=Path, required=True, help="the parquet file to write")
    arguments = parser.parse_args()
    if not features.check("raqm"):
        parser.error("this Pillow has no raqm, which joins emoji sequences; install Pillow from its wheel")
    emojis = draw_all(arguments.font, arguments.emojibase)
    splits = split_names(emojis)
    write(emojis, splits, arguments.output)
    distinct = len({emoji.image for emoji in emojis})
    megabytes = arguments.output.stat().st_size / 1e6
    print(f"{arguments.output}: {len(emojis)} pictures, {distinct} distinct, {megabytes:.2f} MB")
    for split, count in sorted(collections.Counter(splits).items()):
        print(f"  {split}: {count}")


if __name__ == "__main__":
    main()
