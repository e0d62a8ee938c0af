"""What the config.json of a published head may say: the types of all values that are read from it."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from ltd.common.json_files import Count, parse_json

Values = dict[str, Any]
LAYER_IDS = "eagle_aux_hidden_state_layer_ids"
# Our own word in heads that `ltd export` writes: the hs[] indices, of which the formats' own ids leave two readings.
FEATURE_LAYERS = "ltd_feature_layers"

Layers = list[Annotated[int, Field(ge=0, lt=2**31)]]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Rope(TypedDict, total=False):
    """Rotary positions; the numbers of each type are checked with our own config."""

    rope_type: str | None
    type: str | None
    rope_theta: Positive | None


class Fields(TypedDict, total=False):
    """What stands flat in most formats; null is as good as silence."""

    num_attention_heads: Count | None
    vocab_size: Count | None
    draft_vocab_size: Count | None
    target_hidden_size: Count | None
    max_position_embeddings: Count | None
    rms_norm_eps: Positive | None
    rope_theta: Positive | None
    rope_scaling: Rope | None
    rope_parameters: Rope | None
    norm_before_residual: bool | None
    norm_before_fc: bool | None
    fc_norm: bool | None
    norm_output: bool | None
    embed_requires_grad: bool | None
    eagle_aux_hidden_state_layer_ids: Layers | None
    ltd_feature_layers: Layers | None


class Published(Fields, total=False):
    """A whole config: speculators nest the layer's fields, others some of the options."""

    transformer_layer_config: Fields | None
    eagle_config: Fields | None


def check_values(values: Values, where: str) -> None:
    """Raises InputError for a value of another type or out of range; other keys are not looked at."""
    parse_json(json.dumps(values), Published, f"the config of the draft head in {where}")
