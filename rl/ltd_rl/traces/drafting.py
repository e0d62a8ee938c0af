"""The trees that a draft makes at every position of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import torch

from ltd.decoding.acceptance import Sampling
from ltd.decoding.decoder import Decoder
from ltd.drafts import Draft, DraftSession
from ltd.drafts.base import reads_features, shared_with
from ltd.noise import SharedNoise
from ltd.ops import Noise
from ltd.tree import DraftTree


def draft_everywhere(
    decoder: Decoder,
    draft: Draft,
    tokens: list[int],
    prompt_length: int,
    depth: int,
    rows: int,
    sampling: Sampling,
    look: Callable[[DraftTree], None] = lambda tree: None,
    *,
    fitted: bool = True,
) -> Iterator[tuple[int, DraftTree]]:
    """Trees of a depth at every position, up to `rows` at a time: the first position of a batch, and its tree.

    They are those of a call with this one prompt, sampled so: with the noise of its seed, where it is not greedy, and
    scores as sharp as the draft's folder says; 1 everywhere if not `fitted`. `look` is called with the tree after every
    level.

    Every row of the batch holds the whole text, read once and copied. The text is walked from its end: a tree's rows
    then only overwrite what no later batch reads, as each row goes back further every time.
    """
    end, device = len(tokens) - prompt_length - 1, decoder.target.device
    if end == 0:
        return
    token_ids, batch = torch.tensor(tokens, device=device), min(rows, end)
    with decoder.target.session(1, len(tokens), tap=reads_features(draft)) as target:
        features = target.prefill(0, token_ids[:-2]).features
    with closing(draft.start(batch, len(tokens) + (depth + 1) * draft.width)) as session:
        session.read_prompt(0, features, token_ids[:-2])
        session.spread()
        tree, shared = DraftTree(batch, draft.width, depth, 0, device), None
        if sampling.temperature > 0.0:
            # A level needs the noise of one place in every row, and all rows are the first prompt of their call.
            noise = Noise.new(batch, decoder.target.vocab_size, [0] * batch, device, 1)
            noise.restart(sampling.drawn_seed(), [0] * batch)
            heat = sampling.temperature
            shared = shared_with(draft, noise, heat) if fitted else SharedNoise(noise, heat)
        while end > 0:
            if end < batch:
                batch = end
                session.keep(list(range(batch)))
                tree = DraftTree(batch, draft.width, depth, 0, device)
                shared = None if shared is None else shared.keep(list(range(batch)))
            roots = torch.arange(prompt_length + end - batch, prompt_length + end, device=device)
            draft_full_tree(session, draft.d2t, tree, features, token_ids, roots, depth, shared, look)
            end -= batch
            yield end, tree


def draft_full_tree(
    session: DraftSession,
    d2t: torch.Tensor | None,
    tree: DraftTree,
    features: torch.Tensor | None,
    tokens: torch.Tensor,
    roots: torch.Tensor,
    depth: int,
    shared: SharedNoise | None,
    look: Callable[[DraftTree], None],
) -> None:
    """Drafts from roots at places int64 (B,) of a text, as a cycle does after committing all before its root.

    Args:
        session: has read the text in every row. d2t: the draft's.
        tree: filled.
        features: (1, n, F * Ht), of the text, if the draft reads them. tokens: int64 (≥ n,).
        depth: expansions.
        shared: the noise that the text was sampled with; None if it is greedy.
        look: called with the tree after every level.
    """
    session.rewind(roots.tolist())
    newest = None if features is None else features[0, roots - 1][:, None]
    logits = session.begin(newest, tokens[roots][:, None], None)
    session.note([1] * len(roots))
    tree.begin(tokens[roots], roots.to(torch.int32))
    tree.root_states = tree.states = session.root_states
    tree.expand(logits, d2t, shared)
    look(tree)
    for _ in range(depth):
        logits = session.expand(tree)
        tree.states = session.beam_states
        tree.expand(logits, d2t, shared)
        look(tree)
