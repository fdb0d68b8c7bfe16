"""What the networks look like: sizes and choices that shape arrays, hence static under jit.

Plain dataclasses, free of jax, so that command lines can be parsed before jax is imported.
"""

import dataclasses
from typing import Literal, cast

from mmrlhf_jax.config import EnsembleConfig, non_negative_int, one_of, positive, positive_int
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion_names import FusionName as FusionName

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
VisionPooling = Literal["class", "dense", "mean", "attention"]
TextPooling = Literal["last", "end_id", "highest_id", "final"]
RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]
FeatureTokens = Literal["patches", "all", "but_first"]
Attention = Literal["xla", "cudnn"]


def _divides(parts: int, whole: int, what: str) -> None:
    if whole % parts:
        raise UserError(f"{what}: {whole} cannot be divided by {parts}; choose sizes that divide evenly")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A stack of pre-norm blocks.

    Attributes:
      width: size of a token's vector.
      layers: number of blocks.
      heads: attention heads; must divide `width`.
      mlp_width: hidden size of the feed-forward part.
      activation: of the feed-forward part.
      norm_eps: added to the variance in every LayerNorm.
      qkv_bias: queries, keys and values have a bias.
      scan: the blocks' parameters are stacked on a leading axis and run as one loop, which compiles in the
        time of one block; the numbers are the same.
      remat: the backward pass computes each block's inside anew instead of keeping it: less memory, a third
        more work; the numbers are the same.
      attention: "cudnn" is the fused kernel of NVIDIA GPUs, for half precision.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int = 512
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-5
    qkv_bias: bool = True
    scan: bool = False
    remat: bool = False
    attention: Attention = "xla"

    def __post_init__(self):
        for name in ("width", "layers", "heads", "mlp_width"):
            positive_int(name, getattr(self, name))
        positive("norm_eps", self.norm_eps, "1e-5")
        one_of(Activation, self.activation, "activation")
        one_of(Attention, self.attention, "attention")
        _divides(self.heads, self.width, "width / heads")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """A vision transformer over square pictures cut into square patches; the defaults are CLIP's form.

    Attributes:
      image_size: pixels of a side; other sizes are read with interpolated positions.
      patch_size: pixels of a patch's side; what is left of a picture at the right and below is not seen.
      class_token: a learned token stands before the patches.
      patch_bias: the patches' linear layer has a bias.
      pre_norm: a LayerNorm stands before the first block.
      pooling: what the pooled vector is, after the last norm: "class" the class token, "dense" the class
        token through a linear layer and tanh (transformers' ViTModel), "mean" the mean of the patches,
        "attention" what a learned query gathers from all tokens (SigLIP).
    """

    image_size: int = 64
    patch_size: int = 16
    transformer: TransformerConfig = dataclasses.field(default_factory=TransformerConfig)
    class_token: bool = True
    patch_bias: bool = False
    pre_norm: bool = True
    pooling: VisionPooling = "class"

    def __post_init__(self):
        positive_int("image_size", self.image_size)
        positive_int("patch_size", self.patch_size)
        if self.patch_size > self.image_size:
            raise UserError(f"patch_size is {self.patch_size}: more than image_size, {self.image_size}")
        one_of(VisionPooling, self.pooling, "pooling")
        if self.pooling in ("class", "dense") and not self.class_token:
            raise UserError(f"pooling is {self.pooling!r} without a class token: choose mean or attention")

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_positions(self) -> int:
        return self.num_patches + self.class_token


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A text tower.

    Attributes:
      max_length: tokens of a text at most.
      causal: a token sees only those before it.
      pooling: which token stands for the text: "last" the last one that the mask calls real, "end_id" the
        first whose id is `end_id`, "highest_id" the first of the highest id, which is the end token where
        that closes the vocabulary. The latter two are what transformers' CLIP does.
      end_id: id of the end token, for pooling "end_id".
    """

    vocab_size: int = 2048
    max_length: int = 16
    transformer: TransformerConfig = dataclasses.field(default_factory=TransformerConfig)
    causal: bool = True
    pooling: TextPooling = "last"
    end_id: int | None = None

    def __post_init__(self):
        positive_int("vocab_size", self.vocab_size)
        positive_int("max_length", self.max_length)
        one_of(TextPooling, self.pooling, "pooling")
        if self.end_id is not None:
            non_negative_int("end_id", self.end_id)
        if self.pooling == "end_id" and self.end_id is None:
            raise UserError("pooling is 'end_id', but end_id is not given: name the id of the end token")


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Two towers that meet in one space of `projection_width` dimensions.

    Attributes:
      max_logit_scale: cap on the learned factor of cosine similarities, OpenAI's for training; None: no cap,
        as transformers has none.
    """

    vision: VisionConfig = dataclasses.field(default_factory=VisionConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    projection_width: int = 128
    max_logit_scale: float | None = 100.0

    def __post_init__(self):
        positive_int("projection_width", self.projection_width)
        if self.max_logit_scale is not None:
            positive("max_logit_scale", self.max_logit_scale, "100")


def _siglip_vision() -> VisionConfig:
    return VisionConfig(class_token=False, patch_bias=True, pre_norm=False, pooling="attention")


@dataclasses.dataclass(frozen=True)
class SigLIPConfig:
    """Two towers that meet in the space of the picture tower's pooled vector."""

    vision: VisionConfig = dataclasses.field(default_factory=_siglip_vision)
    text: TextConfig = dataclasses.field(default_factory=lambda: TextConfig(causal=False, pooling="final"))


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary positions reach further than a decoder was first trained, under transformers' names.

    Attributes:
      kind: "default" changes nothing; "linear" divides positions by `factor`; "dynamic" (NTK) changes nothing
        up to the decoder's `max_positions`, beyond which it is refused; "llama3" and "yarn" slow down the low
        frequencies alone.
      factor: how many times further.
      original_positions: length that the decoder was trained for at first (llama3, yarn).
      low_freq_factor: waves longer than original_positions / low_freq_factor are slowed down (llama3).
      high_freq_factor: waves shorter than original_positions / high_freq_factor are kept (llama3).
      beta_fast: frequencies of more turns than this within `original_positions` are kept (yarn).
      beta_slow: frequencies of fewer turns than this are slowed down (yarn).
      truncate: round the borders that `beta_fast` and `beta_slow` make to whole frequencies (yarn).
      attention_factor: factor on cosine and sine; None: 0.1 ln(factor) + 1 (yarn).
    """

    kind: RopeKind = "default"
    factor: float = 1.0
    original_positions: int = 8192
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None

    def __post_init__(self):
        one_of(RopeKind, self.kind, "rope_scaling.kind")
        positive_int("original_positions", self.original_positions)
        for name in ("factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            positive(name, getattr(self, name), "1.0")
        if self.attention_factor is not None:
            positive("attention_factor", self.attention_factor, "1.0")
        if self.low_freq_factor >= self.high_freq_factor:
            raise UserError(
                f"low_freq_factor is {self.low_freq_factor}: it must be less than high_freq_factor, "
                f"{self.high_freq_factor}"
            )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A causal decoder of the Llama family.

    Attributes:
      kv_heads: heads of keys and values (grouped-query attention); must divide `heads`.
      rope_theta: base of the rotary position angles.
      head_dim: size of a head's vectors; None: width / heads.
      rope_scaling: how the rotary positions are stretched.
      qkv_bias: queries, keys and values have a bias.
      tied: the embeddings are the output weights too.
      max_positions: length of the sequences that the decoder was trained for; longer ones are refused.
      sliding_window: how far back each token looked in training. Attention here sees everything, so longer
        sequences are refused.
      remat: the backward pass computes each block's inside anew instead of keeping it: less memory, a third
        more work; the numbers are the same.
      attention: of whole sequences; "cudnn" is the fused kernel of NVIDIA GPUs, for half precision.
    """

    vocab_size: int = 2048
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    mlp_width: int = 384
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    head_dim: int | None = None
    rope_scaling: RopeScaling = dataclasses.field(default_factory=RopeScaling)
    qkv_bias: bool = False
    tied: bool = True
    max_positions: int | None = None
    sliding_window: int | None = None
    remat: bool = False
    attention: Attention = "xla"

    def __post_init__(self):
        for name in ("vocab_size", "width", "layers", "heads", "kv_heads", "mlp_width"):
            positive_int(name, getattr(self, name))
        for name in ("head_dim", "max_positions", "sliding_window"):
            if getattr(self, name) is not None:
                positive_int(name, getattr(self, name))
        positive("rope_theta", self.rope_theta, "10000")
        positive("norm_eps", self.norm_eps, "1e-5")
        one_of(Attention, self.attention, "attention")
        if self.head_dim is None:
            _divides(self.heads, self.width, "width / heads")
        _divides(self.kv_heads, self.heads, "heads / kv_heads")
        if self.head_width % 2:
            raise UserError(f"a head's width is {self.head_width}: rotary positions need an even number")
        if self.rope_scaling.kind == "dynamic" and self.max_positions is None:
            raise UserError("rope_scaling.kind is 'dynamic': give max_positions, where it would begin to act")

    @property
    def head_width(self) -> int:
        """Size of a head's vectors."""
        return self.head_dim or self.width // self.heads

    @property
    def length_limit(self) -> int | None:
        """Longest sequence that the decoder reads as it was trained to; None: any length."""
        limits = [] if self.max_positions is None else [self._stretched(self.max_positions)]
        limits += [] if self.sliding_window is None else [self.sliding_window]
        return min(limits, default=None)

    def _stretched(self, positions: int) -> int:
        # Checkpoints name the length before or after these two; the factor tells how far they can go.
        match self.rope_scaling.kind:
            case "linear":
                return round(positions * self.rope_scaling.factor)
            case "yarn":
                return max(positions, round(self.rope_scaling.original_positions * self.rope_scaling.factor))
        return positions


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """A picture tower, a projector and a decoder: a policy that writes about what it sees.

    Attributes:
      max_length: tokens of a completion at most, end token included.
      feature_layer: the block whose output is read, numbered as transformers' hidden_states: -2 in LLaVA, -1
        the last one, all before the last norm. None: what the tower gives, after that norm.
      feature_tokens: of that layer "patches" (no class token), "all", or "but_first", which without a class
        token loses a patch.
      projector_activation: between the projector's two linear layers.
      projector_bias: those layers have a bias.
      image_token_id: the places of a prompt that hold this id are filled with the picture's tokens in their
        order. None: the picture's tokens stand before the prompt.
      prompt_length: tokens of a prompt at most, begin token included; 1 is a captioner's, which has no words.
      picture: False: the picture is never looked at, the policy goes by the prompt alone.
    """

    vision: VisionConfig = dataclasses.field(default_factory=VisionConfig)
    decoder: DecoderConfig = dataclasses.field(default_factory=DecoderConfig)
    max_length: int = 16
    feature_layer: int | None = None
    feature_tokens: FeatureTokens = "patches"
    projector_activation: Activation = "gelu_tanh"
    projector_bias: bool = True
    image_token_id: int | None = None
    prompt_length: int = 1
    picture: bool = True

    def __post_init__(self):
        positive_int("max_length", self.max_length)
        positive_int("prompt_length", self.prompt_length)
        one_of(FeatureTokens, self.feature_tokens, "feature_tokens")
        one_of(Activation, self.projector_activation, "projector_activation")
        count = self.vision.transformer.layers
        if self.feature_layer is None and self.feature_tokens != "patches":
            raise UserError(f"feature_tokens is {self.feature_tokens!r}: give the feature_layer too, e.g. -2")
        if self.feature_layer is not None and not -count - 1 <= self.feature_layer <= count:
            raise UserError(f"feature_layer is {self.feature_layer}: choose {-count - 1} to {count}")
        if self.image_token_id is not None and not self.picture:
            raise UserError("image_token_id names a picture's places, but picture is False: leave one out")
        if self.image_token_id is not None and not 0 <= self.image_token_id < self.decoder.vocab_size:
            raise UserError(
                f"image_token_id is {self.image_token_id}: the vocabulary has {self.decoder.vocab_size} ids"
            )

    @property
    def text_length(self) -> int:
        """Tokens of a completion behind its prompt at most, without the begin token."""
        return self.prompt_length - 1 + self.max_length

    @property
    def skipped_tokens(self) -> int:
        """How many of the tower's first tokens the decoder does not get: 0 or 1."""
        return int(
            self.feature_tokens == "but_first"
            or (self.feature_tokens == "patches" and self.vision.class_token)
        )

    @property
    def picture_tokens(self) -> int:
        """Tokens of one picture of the trained size."""
        if not self.picture:
            return 0
        return self.vision.num_positions - self.skipped_tokens


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """A backbone that was pretrained, and what preferences teach on top of it.

    Two towers, CLIP's or SigLIP's, under a fusion of their tokens and a scalar head; or a vision-language
    policy with a scalar head on the last token. One of the three is given, the others are None.

    Attributes:
      clip: two towers.
      siglip: two towers.
      policy: the vision-language policy; captioner, language model and fusion are not used with it, and an
        ensemble has several heads.
      text_pad_id: what SigLIP's texts are padded with, which it reads too; None: 0.
      picture: False: answers are judged by the words alone, as if the picture were absent.
      captioner: a frozen policy that says how likely it would have written the answer; None: without.
      language_model: a frozen decoder that says how likely the answer is without the picture; None: without.
      ensemble: how many fusions or heads there are, and how their rewards become one.
    """

    clip: CLIPConfig | None = dataclasses.field(default_factory=CLIPConfig)
    fusion: FusionName = "attention"
    fusion_width: int = 128
    captioner: PolicyConfig | None = None
    language_model: DecoderConfig | None = None
    ensemble: EnsembleConfig = dataclasses.field(default_factory=EnsembleConfig)
    siglip: SigLIPConfig | None = None
    policy: PolicyConfig | None = None
    text_pad_id: int | None = None
    picture: bool = True

    def __post_init__(self):
        if sum(backbone is not None for backbone in (self.clip, self.siglip, self.policy)) != 1:
            raise UserError("a reward model has one backbone: give clip, siglip or policy, the others None")
        if self.text_pad_id is not None:
            non_negative_int("text_pad_id", self.text_pad_id)
        if self.policy is not None and self.ensemble.members > 1 and self.ensemble.kind != "heads":
            raise UserError("ensemble.kind is 'fusions', which a policy has not: give --ensemble.kind heads")
        positive_int("fusion_width", self.fusion_width)
        one_of(FusionName, self.fusion, "fusion")

    @property
    def towers(self) -> CLIPConfig | SigLIPConfig:
        """The two towers, of a model that has them."""
        return cast(CLIPConfig | SigLIPConfig, self.clip or self.siglip)

    @property
    def backbone(self) -> str:
        """The part of the model that was pretrained: "clip", "siglip" or "policy"."""
        return next(name for name in ("clip", "siglip", "policy") if getattr(self, name) is not None)
