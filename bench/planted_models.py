"""Models of real shapes whose text is known, made in place: nothing is downloaded, nothing is trained.

A planted target has random weights, tamed: what its layers add to the residual stream is small, so the last state
still points where the embedding of the last token does, and the output layer's row pi(t) is the embedding of t. Its
greedy text is therefore t, pi(t), pi(pi(t)), ..., with a margin that no rounding reaches, while every product, norm and
attention is computed as in a trained model of that shape.

A planted draft is an EAGLE-3 head with random weights and a script: it computes all that a head computes, and then, at
those places and levels that were drawn beforehand, the logit of pi(t) gets a bonus. So the number of tokens that a
cycle gains is dialled. Beyond a head's own work the script costs three small operators per draft step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config

from ltd.decoding.decoder import Decoder
from ltd.drafts.eagle3.draft import Eagle3Draft
from ltd.drafts.eagle3.forward import HeadForward
from ltd.drafts.eagle3.head import Eagle3Config, Eagle3Head
from ltd.drafts.opening import make_draft
from ltd.engine.forward import TreeBlock
from ltd.engine.kv_cache import KVCache
from ltd.engine.packed_layers import PackedEmbedding
from ltd.errors import InputError
from ltd.loading import make_target

BRANCH = 0.02  # what a residual branch adds, beside the stream's own size of about 1
BONUS = 20.0  # a random head's best logits are about 4
BRANCH_ENDS = ("o_proj.weight", "down_proj.weight")


@dataclass(frozen=True)
class Shape:
    """A target's configuration, and the vocabulary of its draft."""

    config: PretrainedConfig
    draft_vocab_size: int


def sizes(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, head_dim: int) -> dict:
    """A configuration's sizes. An output layer of its own, since one that is the embedding can plant nothing; where
    the model of that shape ties the two, the same bytes are read."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


# Of the models' own configurations; draft vocabularies as published heads have them.
SHAPES: dict[str, Shape] = {
    "llama-1b": Shape(LlamaConfig(**sizes(128256, 2048, 8192, 16, 32, 8, 64)), 32000),
    "llama-8b": Shape(LlamaConfig(**sizes(128256, 4096, 14336, 32, 32, 8, 128)), 32000),
    "qwen3-14b": Shape(Qwen3Config(**sizes(151936, 5120, 17408, 40, 40, 8, 128)), 32000),
    "qwen3-32b": Shape(Qwen3Config(**sizes(151936, 5120, 25600, 64, 64, 8, 128)), 32000),
    "tiny-llama": Shape(LlamaConfig(**sizes(1024, 128, 192, 4, 4, 2, 32)), 512),
    "tiny-qwen3": Shape(Qwen3Config(**sizes(1024, 128, 192, 4, 4, 2, 32)), 512),
}


@dataclass(frozen=True)
class Plan:
    """The text that is planted.

    Attributes:
        following: int64 (V,), pi; one cycle over the draft's vocabulary, so that a text meets no token twice for as
            many tokens as there are in it.
        order: int64 (Vd,), that cycle.
    """

    following: Tensor
    order: Tensor

    @classmethod
    def draw(cls, vocabulary: int, draft_vocabulary: int, seed: int) -> Plan:
        """A random one."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(draft_vocabulary, generator=generator)
        following = torch.empty(vocabulary, dtype=torch.int64)
        following[order] = order.roll(-1)
        others = torch.randperm(vocabulary - draft_vocabulary, generator=generator)
        following[draft_vocabulary:] = draft_vocabulary + others
        return cls(following, order)

    def prompt(self, length: int, seed: int) -> list[int]:
        """Random tokens, the last of them in the draft's vocabulary."""
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(len(self.order), (1,), generator=generator)
        before = torch.randint(len(self.following), (length - 1,), generator=generator)
        return [*before.tolist(), int(start)]

    def text(self, start: int, count: int) -> list[int]:
        """What greedy decoding must write after a token of the draft's vocabulary."""
        place = int((self.order == start).nonzero())
        return [int(self.order[(place + step) % len(self.order)]) for step in range(1, count + 1)]


@torch.no_grad()
def fill(module: nn.Module, seed: int) -> None:
    """Random weights that keep the size of what goes through them; norms are ones, and branches end small."""
    generator = torch.Generator(next(module.parameters()).device).manual_seed(seed)
    for name, weight in module.named_parameters():
        if weight.dim() == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        scale = 1.0 if "embed_tokens" in name else weight.shape[1] ** -0.5
        weight.normal_(0.0, scale * (BRANCH if name.endswith(BRANCH_ENDS) else 1.0), generator=generator)


@torch.no_grad()
def plant_target(shape: Shape, plan: Plan, dtype: torch.dtype, device: torch.device, seed: int) -> nn.Module:
    """A `transformers` model, made on the device, that writes the plan's text."""
    with device:
        model = AutoModelForCausalLM.from_config(shape.config, dtype=dtype).eval()
    fill(model, seed)
    embedding = model.get_input_embeddings().weight
    model.get_output_embeddings().weight[plan.following.to(device)] = embedding
    return model


@torch.no_grad()
def plant_head(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int) -> Eagle3Head:
    """A head of the target's layer sizes; its vocabulary is the first of the target's ids."""
    config = Eagle3Config.for_target(shape.config, draft_vocab_size=shape.draft_vocab_size)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            head = Eagle3Head(config).eval()
    finally:
        torch.set_default_dtype(before)
    fill(head, seed)
    return head


class Script:
    """Where the draft is right.

    Args:
        chances: of being right, per level, if it was right at all levels before.

    Attributes:
        bonus: float (levels, V), of the token behind each token, if that is drafted at this level.
        following: int64 (V,), that token's draft id; 0, with no bonus, where it has none.
        tokens: int64 (B, N), of the forward that comes next.
        level: that it drafts.
    """

    def __init__(
        self,
        plan: Plan,
        draft_vocabulary: int,
        chances: list[float],
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        known = plan.following < draft_vocabulary
        right = torch.rand(len(chances), len(known), generator=generator) < torch.tensor(chances)[:, None]
        self.bonus = torch.where(right & known, BONUS, 0.0).to(device, dtype)
        self.following = torch.where(known, plan.following, 0).to(device)
        self.tokens: Tensor | None = None
        self.level = 0

    def apply(self, logits: Tensor) -> None:
        """Adds the bonus to (B, kept, Vd) logits of the last rows of the forward."""
        assert self.tokens is not None
        tokens = self.tokens[:, self.tokens.shape[1] - logits.shape[1] :]
        logits.scatter_add_(2, self.following[tokens][:, :, None], self.bonus[self.level][tokens][:, :, None])


class ReadEmbedding:
    """The target's embedding, which tells a script what is looked up."""

    def __init__(self, embedding: nn.Embedding | PackedEmbedding, script: Script) -> None:
        self.embedding, self.script = embedding, script
        self.weight = embedding.weight
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim

    def __call__(self, tokens: Tensor) -> Tensor:
        self.script.tokens = tokens
        return self.embedding(tokens)


class ScriptedForward:
    """`HeadForward` of a head, with a script behind it.

    A cycle begins with features, and `fuse`; every level that comes after it stands behind one more beam in the cache.
    """

    def __init__(self, forward: HeadForward, script: Script, width: int) -> None:
        self.forward, self.script, self.width, self.begins = forward, script, width, False

    def fuse(self, features: Tensor) -> Tensor:
        """See `HeadForward`."""
        self.begins = True
        return self.forward.fuse(features)

    def step(
        self, embeddings: Tensor, states: Tensor, block: TreeBlock, cache: KVCache, kept: int
    ) -> tuple[Tensor, Tensor]:
        """See `HeadForward`."""
        self.script.level = 0 if self.begins else block.first_row // self.width + 1
        self.begins = False
        states, logits = self.forward.step(embeddings, states, block, cache, kept)
        self.script.apply(logits)
        return states, logits


def chance_for(tau: float, depth: int) -> float:
    """The chance per level at which a cycle gains `tau` tokens: 1 + p + p² + ... over the depth + 1 levels of a tree.

    Raises:
        InputError: no chance does, since a cycle gains 1 to depth + 2 tokens.
    """
    if not 1.0 <= tau <= depth + 2:
        raise InputError(f"tau is {tau:g}, but at depth {depth} a cycle gains 1 to {depth + 2} tokens")
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**k for k in range(depth + 2)) < tau else (low, middle)
    return high


@dataclass
class Planted:
    """A decoder of planted models, and the text that it must write."""

    decoder: Decoder
    plan: Plan


def plant(name: str, depth: int, tau: float, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Planted:
    """Makes target and draft of a shape.

    Args:
        name: one of `SHAPES`.
        depth: that will be drafted to.
        tau: tokens gained per cycle, on the average, at that depth and with no fewer candidates than levels.
        dtype, device: of all weights.
        seed: of weights, text and script.

    Raises:
        InputError: there is no such shape, or tau is out of range.
    """
    if name not in SHAPES:
        raise InputError(f"there is no shape {name!r}; choose from {', '.join(SHAPES)}")
    chances = [chance_for(tau, depth)] * (depth + 1)
    shape = SHAPES[name]
    plan = Plan.draw(shape.config.vocab_size, shape.draft_vocab_size, seed)
    head = plant_head(shape, dtype, device, seed + 1)
    model = plant_target(shape, plan, dtype, device, seed + 2)
    target = make_target(model, head.config.feature_layers, takes_weights=True)
    draft = make_draft(head, target.embedding)
    assert isinstance(draft, Eagle3Draft)
    script = Script(plan, shape.draft_vocab_size, chances, dtype, device, seed + 3)
    draft.embedding = ReadEmbedding(draft.embedding, script)
    draft.forward = ScriptedForward(draft.forward, script, draft.width)
    return Planted(Decoder(target, draft), plan)
