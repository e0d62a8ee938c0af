"""What comes before the first cycle: prompts are read."""

from __future__ import annotations

from functools import partial

import torch

from ltd.decoding.acceptance import accept_next
from ltd.decoding.gain import Gain
from ltd.decoding.request import Request
from ltd.decoding.reuse import Reuse
from ltd.target.target import Target


def prefill(target: Target, request: Request, reuse: Reuse | None = None) -> Gain:
    """Reads the prompts; gains each one's first token.

    Args:
        target: reads them.
        request: has just been opened.
        reuse: gives what was read of earlier texts; None reads all.
    """
    prompts, speculation, device = request.prompts, request.speculation, target.device
    logits, features = [], []
    for row, prompt in enumerate(prompts):
        known = 0 if reuse is None else reuse.take(row)
        token_ids = torch.tensor(prompt[known:], device=device)
        verified = target.with_memory(partial(request.session.prefill, row, token_ids))
        logits.append(verified.logits)
        if speculation is not None and speculation.session is not None:
            speculation.session.read_prompt(row, verified.features, token_ids)
            if verified.features is not None:
                # The last feature goes with the first new token, which the first cycle knows.
                features.append(verified.features[:, -1:])
    positions = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    accepted = accept_next(request.accept, torch.cat(logits), positions, request.report, request.noise)
    if features:
        assert request.session.features is not None
        torch.cat(features, out=request.session.features[:, :1])
    return Gain(accepted, request.session.features)
