"""What the target keeps, of a tree and of a chain of a draft model. Words and errors: see `ltd.ops`.

Words used below for chains: K drafted tokens, Vd words that the draft proposes. Their random numbers are
Philox4x32-10's, one for every (seed, cycle, position) and use, so that those of different uses and cycles are
independent.
"""

from __future__ import annotations

from torch import Tensor

from ltd.ops.library import operator
from ltd.ops.noise import Noise

# Kernels divide logits by a float32: below, it would be 0; above, all logits would become one.
LEAST_TEMPERATURE = 1e-30
LARGEST_TEMPERATURE = 1e30

_accept_greedy = operator("accept_greedy")
_accept_sample = operator("accept_sample")


def accept_greedy(
    logits: Tensor,
    tokens: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    path: Tensor,
    gained_tokens: Tensor,
    gained: Tensor,
) -> None:
    """Walks from the root along the target's argmax tokens (ties: smallest id) as long as the tree holds them.

    Args:
        logits: (B, N, vocabulary) float32, float16 or bfloat16, the target's; only visited rows are read on the CPU.
        tokens: int64 (B, N); first_child, next_sibling: int32 (B, N), as `select_tree` writes them.
        path: int32 (B, P), written: visited nodes, root first. The walk ends after P nodes; P = tree depth + 1 never
            cuts it.
        gained_tokens: int64 (B, P), written: the target's token at each; -1 where its logits hold NaN or +inf, or
            only -inf, and the walk ends.
        gained: int32 (B,), written: how many; the last token is the bonus.
    """
    _accept_greedy(logits, tokens, first_child, next_sibling, path, gained_tokens, gained)


def accept_sample(
    logits: Tensor,
    tokens: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    positions: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    noise: Noise,
    path: Tensor,
    gained_tokens: Tensor,
    gained: Tensor,
) -> None:
    """The walk of `accept_greedy` with tokens sampled from the target's warped distribution.

    The token at a node is the one with the largest logit / temperature + noise of the node's position, of those that
    top-k and top-p keep; of equal ones the smallest id. Its distribution is the target's (the Gumbel-max rule), and the
    tokens that a seed gives do not depend on the tree. A draft that proposes with the same noise (`expand_beam`) is
    accepted more often.

    Args:
        logits, tokens, first_child, next_sibling, path, gained_tokens, gained: as for `accept_greedy`.
        positions: int64 (B, N), as `select_tree` writes them, 0 … 2^32 - 1.
        temperature: 1e-30 … 1e30.
        top_k: keep all logits >= the k-th largest; 0 = off.
        top_p: then keep a token if the mass of the strictly better ones (ties: smaller id) is < top_p; 1 = off.
        noise: of the B sequences and this vocabulary; what is missing is made.

    Unchecked on CUDA: rows and positions; of larger ones the lowest 32 bits count.
    """
    _accept_sample(
        logits,
        tokens,
        first_child,
        next_sibling,
        positions,
        noise.rows,
        temperature,
        top_k,
        top_p,
        noise.seed,
        noise.noise,
        noise.places,
        path,
        gained_tokens,
        gained,
    )


_draft_token = operator("draft_token")
_accept_chain = operator("accept_chain")


def draft_token(
    logits: Tensor, temperature: float, top_k: int, top_p: float, seed: int, cycle: int, position: int
) -> tuple[Tensor, Tensor]:
    """The draft's next token: sampled from its warped distribution, or its first largest logit.

    Args:
        logits: (1, Vd) float32, float16 or bfloat16.
        temperature: 0 is greedy, others are 1e-30 … 1e30; top_k, top_p: as for `ltd.ops.accept.accept_sample`.
        seed: any int64.
        cycle: the number of the chain, 0 … 2^32 - 1.
        position: of the token that the logits stand at, 0 or more.

    Returns:
        int64 (), its number among the Vd, -1 where the logits hold NaN or +inf, or only -inf; and float32 (), its
        probability after temperature, top-k and top-p (at temperature 1 if greedy).
    """
    token, chance = _draft_token(logits, temperature, top_k, top_p, seed, cycle, position)
    return token, chance


def accept_chain(
    logits: Tensor,
    draft_logits: Tensor | None,
    words: Tensor | None,
    drafted: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    cycle: int,
    position: int,
) -> Tensor:
    """How much of a drafted chain is kept, and the token behind it: speculative sampling (Leviathan et al. 2023).

    With p and q, the target's and the draft's warped distributions, token x is kept with probability min(1, p(x) /
    q(x)); the first that is not is replaced by one of max(p - q, 0) / sum, and behind a whole chain comes one of p. The
    tokens thus have the distribution p if the drafted ones are `draft_token`'s with the same arguments. Greedy: tokens
    are kept while they are the target's first largest logit.

    Args:
        logits: (K + 1, vocabulary) float32, float16 or bfloat16, the target's, from the token before the chain on.
        draft_logits: (K, Vd), same type, that the tokens were drawn from; may be None if greedy or K = 0.
        words: int64 (Vd,), the target's ids of the draft's; None if they are the same.
        drafted: int64 (K,), numbers among the Vd.
        temperature, top_k, top_p, seed, cycle: as for `draft_token`.
        position: of the token before the chain.

    Unchecked on CUDA: that 0 <= words < vocabulary and 0 <= drafted < Vd. Behind a drafted id that is none, or has no
    such word, stands the target's own token; other such words take nothing from p.

    Returns:
        int64 (2,): how many are kept, 0 … K; and the token behind them, -1 where the target's logits there hold NaN
        or +inf, or only -inf.
    """
    result: Tensor = _accept_chain(
        logits, draft_logits, words, drafted, temperature, top_k, top_p, seed, cycle, position
    )
    return result
