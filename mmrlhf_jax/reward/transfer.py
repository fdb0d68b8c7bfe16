"""How far training reaches into pretrained towers: not at all, by low-rank adapters, or all the way."""

import jax

from mmrlhf_jax.config import Transfer
from mmrlhf_jax.language.lora import lora_apply, lora_init, lora_merge
from mmrlhf_jax.modules import Definition, ModuleT, Params

ADAPTERS = "adapters"  # the part of the parameters that is no part of the model
# Which linear layers get adapters, by part of the model; stacked layers have no number.
RULES = {
    "clip": (r"clip\.(vision|text)\.transformer\.blocks(\.\d+)?\.(qkv|out|up|down)",),
    "siglip": (r"siglip\.(vision|text)\.transformer\.blocks(\.\d+)?\.(qkv|out|up|down)",),
    "policy": (
        r"policy\.vision\.transformer\.blocks(\.\d+)?\.(qkv|out|up|down)",
        r"policy\.decoder\.blocks\.\d+\.(query|key|value|out|gate|up|down)",
    ),
}


def split_towers(
    part: str, towers: Params, transfer: Transfer, key: jax.Array, *, rank: int
) -> tuple[Params, Params]:
    """(what is trained, what stays) of the pretrained `part` of a reward model.

    "full": the part itself; "frozen": nothing; "lora": adapters on the linear layers of its blocks.

    Args:
      part: its name among the model's parameters.
      towers: its parameters, or their shapes.
      rank: of the adapters.
    """
    match transfer:
        case "full":
            return {part: towers}, {}
        case "frozen":
            return {}, {part: towers}
        case "lora":
            return {ADAPTERS: lora_init({part: towers}, key, RULES[part], rank)}, {part: towers}


def bind(model: Definition[ModuleT], params: Params, *, scale: float) -> ModuleT:
    """The module with these parameters, adapted where adapters are among them."""
    own, adapters = _apart(params)
    module = model.bind(own)
    return lora_apply(module, adapters, scale) if adapters else module


def merge(params: Params, *, scale: float) -> Params:
    """The same parameters without adapters: what they changed is in the kernels."""
    own, adapters = _apart(params)
    return lora_merge(own, adapters, scale) if adapters else own


def _apart(params: Params) -> tuple[Params, Params]:
    own = {name: part for name, part in params.items() if name != ADAPTERS}
    return own, params.get(ADAPTERS, {})
