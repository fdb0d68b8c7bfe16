"""The names of the public sets of judgements; their readers are `data.readers.SETS`."""

from typing import Literal

SetName = Literal[
    "rlhf-v",
    "rlaif-v",
    "trl",
    "vl-rewardbench",
    "pick-a-pic",
    "hpdv2",
    "hpdv3",
    "imagerewarddb",
    "vlfeedback",
    "polaris",
    "nebula",
    "flickr8k-expert",
]
