"""The operators for chains of a draft model, typed and documented.

Words used below: K drafted tokens, Vd words that the draft proposes. Random numbers are Philox4x32-10's, one for every
(seed, cycle, position) and use, so that those of different uses and cycles are independent.

Raises, both of them:
    InputError: a tensor of the wrong shape, type, device or layout, or a number out of range; the message names it
        and gives the values.
"""

from __future__ import annotations

from torch import Tensor

from ltd.ops import operator

_draft_token = operator("draft_token")
_accept_chain = operator("accept_chain")


def draft_token(
    logits: Tensor, temperature: float, top_k: int, top_p: float, seed: int, cycle: int, position: int
) -> tuple[Tensor, Tensor]:
    """The draft's next token: sampled from its warped distribution, or its first largest logit.

    Args:
        logits: (1, Vd) float32, float16 or bfloat16.
        temperature: 0 is greedy; top_k, top_p: as for `ltd.ops.accept_sample`.
        seed: any int64.
        cycle: the number of the chain.
        position: of the token that the logits stand at.

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
