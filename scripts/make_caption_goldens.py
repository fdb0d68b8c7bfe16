"""Makes tests/evaluate/golden/captions.json: what other people's code says about hand-written captions.

    pip install sacrebleu==2.6.0 && pip install --no-deps pycocoevalcap==1.2    # and Java on the PATH
    python scripts/make_caption_goldens.py

Tokens come from the Stanford tokenizer inside pycocoevalcap, CIDEr-D from pycocoevalcap, BLEU from sacrebleu
on those tokens. Nothing of this package is imported. Takes two seconds; expect "30 caption sets".
"""

import json
from pathlib import Path

from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from sacrebleu.metrics import BLEU

OUTPUT = Path(__file__).parents[1] / "tests" / "evaluate" / "golden" / "captions.json"

# (candidate, references)
CAPTION_SETS: list[tuple[str, list[str]]] = [
    ("woman judge: dark skin tone", ["woman judge: dark skin tone"]),
    ("man judge: dark skin tone", ["woman judge: dark skin tone", "a female judge with dark skin"]),
    ("man police officer: medium-dark skin tone", ["man police officer: medium-dark skin tone"]),
    ("woman police officer: light skin tone", ["man police officer: medium-dark skin tone"]),
    ("red apple", ["red apple"]),
    ("green apple", ["red apple", "apple fruit"]),
    ("grinning face", ["grinning face with smiling eyes", "a smiling face"]),
    ("grinning face with big eyes", ["grinning face with big eyes"]),
    ("face", ["face with tears of joy"]),
    ("dog", ["dog"]),
    ("dog face", ["dog face", "face of a dog"]),
    ("a cat", ["cat"]),
    ("", ["black cat"]),
    ("flag: Norway", ["flag: Sweden"]),
    ("flag: Bosnia & Herzegovina", ["flag: Bosnia & Herzegovina"]),
    ("eight o'clock", ["eight o'clock"]),
    ("eight-thirty", ["nine-thirty", "half past nine"]),
    ("keycap: #", ["keycap: *"]),
    ("man\u2019s shoe", ["man's shoe", "shoe of a man"]),
    ("family: man, woman, girl, boy", ["family: man, woman, boy"]),
    ("the the the the the the", ["the cat is on the mat", "there is a cat on the mat"]),
    ("a red circle left of a blue square.", ["a red circle is left of the blue square."]),
    ("A blue square, right of a red circle!", ["a blue square right of a red circle"]),
    ("two women: medium skin tone, light skin tone", ["women: medium skin tone, light skin tone"]),
    ("person climbing: light skin tone", ["person climbing: light skin tone", "somebody climbs a wall"]),
    ("hundred points 100%", ["hundred points"]),
    ("it doesn't fly; it swims", ["it does not fly, it swims", "it swims, it doesn't fly"]),
    ("Japanese “reserved” button", ["Japanese “free of charge” button"]),
    ("non-potable water and 3,000 people at 12:30", ["potable water"]),
    ("piñata", ["piñata", "PIÑATA"]),
]  # fmt: skip


def main() -> None:
    candidates = [candidate for candidate, _ in CAPTION_SETS]
    references = [captions for _, captions in CAPTION_SETS]
    # The tokenizer loses empty lines, so empty captions stay outside.
    filled = {i: [{"caption": candidate}] for i, candidate in enumerate(candidates) if candidate}
    tokenized = {i: [""] for i in range(len(candidates))} | PTBTokenizer().tokenize(filled)
    tokenized_references = PTBTokenizer().tokenize(
        {i: [{"caption": caption} for caption in captions] for i, captions in enumerate(references)}
    )
    _, cider = Cider().compute_score(tokenized_references, tokenized)

    def bleu(indices: list[int], order: int, method: str) -> float:
        most = max(len(tokenized_references[i]) for i in indices)
        streams = [
            [tokenized_references[i][j] if j < len(tokenized_references[i]) else None for i in indices]
            for j in range(most)
        ]
        metric = BLEU(tokenize="none", smooth_method=method, max_ngram_order=order)
        return metric.corpus_score([tokenized[i][0] for i in indices], streams).score / 100

    everything = list(range(len(candidates)))
    short = [i for i in everything if len(tokenized[i][0].split()) < 4]
    bleu_values = [
        {"indices": indices, "max_order": order, "smooth": smooth, "value": bleu(indices, order, method)}
        for indices in (everything, short, everything[1::3])
        for order in (1, 2, 4)
        for smooth, method in ((False, "none"), ("add-one", "add-k"))
    ]
    golden = {
        "candidates": candidates,
        "references": references,
        "candidate_tokens": [tokenized[i][0].split() for i in everything],
        "reference_tokens": [[line.split() for line in tokenized_references[i]] for i in everything],
        "cider_d": [float(score) for score in cider],
        "bleu": bleu_values,
    }
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(candidates)} caption sets, {len(bleu_values)} BLEU values -> {OUTPUT}")


if __name__ == "__main__":
    main()
