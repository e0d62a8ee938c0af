"""The operators `torch.ops.ltd.*`, typed and documented.

Each has a kernel per device and a shape-only one, which all check their arguments before they write anything, the
shape-only one too. The tensors of a call are all on one device, and what is written shares no memory with another of
them. No size is above 2^30. On CUDA, what they hold is not checked, which would mean waiting for the device: where an
operator below lists what is "unchecked on CUDA", and it does not hold, memory outside the tensors may be read or
written and the results are rubbish, unless the operator says what happens instead.

Words used below: B sequences in the batch, W beam width, C capacity for candidates, T candidates of the text, V
candidates verified, N = V + 1 tree nodes with the root first, P capacity of a path. Candidate c of level 0 is child c
of the root; level l >= 1 starts at W + (l - 1) * W², and child j of beam row r stands r * W + j behind. Masks are int64
words: bit j % 64 of word j // 64 belongs to node (or tree row) j. Tensors may be strided in all dimensions but the
last.

Raises, all of them:
    InputError: a tensor of the wrong shape, type, device or layout, or a number out of range; the message names it
        and gives the values; a tensor that is written and shares memory with another, or with itself.
"""

from ltd.ops.accept import (
    LARGEST_TEMPERATURE,
    LEAST_TEMPERATURE,
    accept_chain,
    accept_greedy,
    accept_sample,
    draft_token,
)
from ltd.ops.attention import MERGE_COUNTERS, tree_attention
from ltd.ops.commit import commit_path, gather_accepted
from ltd.ops.engine import (
    StackWeights,
    empty_weights,
    forward_stack,
    interleave_gates,
    linear,
    pack_linear,
    packed_shape,
    unpack_rows,
)
from ltd.ops.entropy import row_entropy
from ltd.ops.expand import expand_beam
from ltd.ops.forward import add_rms_norm, gated_silu, rotate_and_store
from ltd.ops.library import build_info
from ltd.ops.lookup import merge_text
from ltd.ops.noise import Noise, place_noise
from ltd.ops.policy import depth_action, size_action, summary_decision, summary_state
from ltd.ops.select import select_tree

__all__ = [
    "LARGEST_TEMPERATURE",
    "LEAST_TEMPERATURE",
    "MERGE_COUNTERS",
    "Noise",
    "StackWeights",
    "accept_chain",
    "accept_greedy",
    "accept_sample",
    "add_rms_norm",
    "build_info",
    "commit_path",
    "depth_action",
    "draft_token",
    "empty_weights",
    "expand_beam",
    "forward_stack",
    "gated_silu",
    "gather_accepted",
    "interleave_gates",
    "linear",
    "merge_text",
    "pack_linear",
    "packed_shape",
    "place_noise",
    "rotate_and_store",
    "row_entropy",
    "select_tree",
    "size_action",
    "summary_decision",
    "summary_state",
    "tree_attention",
    "unpack_rows",
]
