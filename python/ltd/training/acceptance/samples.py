"""What an acceptance head learns from: the draft's states at drafted tokens, and how likely each is accepted.

For an answer y of the target, the draft draws a token z_i from q(· | y before i) at every position. A training sequence
is y with z_i in place of y_i at a share of the positions ("token mixing"). The head sees the draft's state after
reading such a z_i, as in the official script, and as the rule does in decoding; its label is min(1, p(z_i) / q(z_i)),
both after y's own prefix. Only drafted tokens count. An answer is read as often as it takes for every position's z_i to
be seen once, which costs passes of the small draft only. (The official script makes one sequence per answer, in which
85 % of the tokens are drafted: further from what a head sees when it decides, which is text that the target accepted
and a short chain behind it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from ltd.common.shards import read_shard, shard_file, shard_files, write_shard
from ltd.training.data.conversation import ANSWER, Conversation

SHARD = {"states": (torch.bfloat16, 2), "labels": (torch.float32, 1)}
ALIKE = (("states", "labels"),)
SHARD_TOKENS = 4096  # answer tokens of a shard
ROWS = 128  # of logits at a time


class AcceptanceSamples(NamedTuple):
    """Drafted tokens: states (n,H) bfloat16 and labels (n,) float32, their chance of acceptance."""

    states: Tensor
    labels: Tensor


def answer_positions(conversation: Conversation) -> Tensor:
    """Where answer tokens stand (n,) int64, without a first token, which nothing predicts."""
    return torch.tensor(
        [at for at, role in enumerate(conversation.roles) if role == ANSWER and at > 0], dtype=torch.long
    )


@torch.inference_mode()
def final_states(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """tokens (n,) → states after the final norm (n,H)."""
    body: Any = model.model
    states: Tensor = body(tokens[None].to(model.device), use_cache=False).last_hidden_state[0]
    return states


@torch.inference_mode()
def draw(states: Tensor, rows: Tensor, words: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A token from the draft for each state.

    Args:
        states: (n,H) of the draft.
        rows: (Vd,H), its output layer.
        words: (Vd,) the token ids of the rows; None if the rows are in their order.
        generator: of the random numbers, on the CPU.

    Returns:
        tokens (n,) int64 and their log-probabilities (n,) float32.
    """
    drawn, chances = [], []
    for part in states.split(ROWS):
        logs = (part @ rows.T).float().log_softmax(-1).cpu()
        row = torch.multinomial(logs.exp(), 1, generator=generator)
        chances.append(logs.gather(1, row)[:, 0])
        drawn.append(row[:, 0] if words is None else words[row[:, 0]].long())
    return torch.cat(drawn), torch.cat(chances)


@torch.inference_mode()
def log_chances(states: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities (n,) float32 of tokens (n,) after states (n,H), by the output layer rows (V,H)."""
    found = []
    for part, chosen in zip(states.split(ROWS), tokens.split(ROWS), strict=True):
        logits = (part @ rows.T).float().cpu()
        found.append(logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1))
    return torch.cat(found)


class Reader:
    """Turns conversations into samples.

    Args:
        target: the target.
        draft: the draft, with the target's embedding and output layer.
        words: (Vd,) the tokens it proposes; None for all. Others have q = 0, so they are never drafted.
        mixing: share of an answer's positions that carry the draft's token in one sequence, above 0.
    """

    def __init__(self, target: PreTrainedModel, draft: PreTrainedModel, words: Tensor | None, mixing: float) -> None:
        self.target, self.draft, self.words, self.mixing = target, draft, words, mixing
        self._target_rows = _output_rows(target)
        rows = _output_rows(draft)
        self._draft_rows = rows if words is None else rows[words.long().to(rows.device)]

    def read(self, conversation: Conversation, generator: torch.Generator) -> AcceptanceSamples:
        """The samples of one conversation."""
        tokens, at = torch.tensor(conversation.tokens), answer_positions(conversation)
        drafted, log_q = draw(final_states(self.draft, tokens)[at - 1], self._draft_rows, self.words, generator)
        log_p = log_chances(final_states(self.target, tokens)[at - 1], self._target_rows, drafted)
        order = torch.randperm(len(at), generator=generator)
        states = torch.empty(len(at), self._draft_rows.shape[1], dtype=torch.bfloat16)
        for chosen in order.split(max(1, round(self.mixing * len(at)))):
            places = at[chosen]
            mixed = tokens.index_put((places,), drafted[chosen])
            states[chosen] = final_states(self.draft, mixed)[places].cpu().bfloat16()
        return AcceptanceSamples(states, (log_p - log_q).clamp_max(0).exp())


def _output_rows(model: PreTrainedModel) -> Tensor:
    layer: Any = model.get_output_embeddings()
    rows: Tensor = layer.weight.detach()
    return rows


def split_shards(conversations: Sequence[Conversation]) -> list[list[Conversation]]:
    """Groups of about `SHARD_TOKENS` answer tokens, in order."""
    groups: list[list[Conversation]] = []
    size = SHARD_TOKENS
    for conversation in conversations:
        if size >= SHARD_TOKENS:
            groups.append([])
            size = 0
        groups[-1].append(conversation)
        size += len(answer_positions(conversation))
    return groups


def cache_samples(reader: Reader, conversations: Sequence[Conversation], folder: Path, seed: int) -> None:
    """Writes the samples of all conversations into numbered shards; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(len(answer_positions(each)) for each in conversations)
    with tqdm(total=total, unit="tok", desc=f"reading {folder.name}", mininterval=1) as progress:
        for number, group in enumerate(split_shards(conversations)):
            # Seeded by its number, so that a shard does not depend on where a run was stopped.
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            file, read = shard_file(folder, number), []
            for conversation in group:
                if not file.exists():
                    read.append(reader.read(conversation, generator))
                progress.update(len(answer_positions(conversation)))
            if read:
                states, labels = (torch.cat(parts) for parts in zip(*read, strict=True))
                write_shard({"states": states, "labels": labels}, file)


def load_samples(folder: Path) -> AcceptanceSamples:
    """All samples of a folder; raises InputError if a shard is damaged."""
    shards = [read_shard(file, SHARD, ALIKE) for file in shard_files(folder)]
    return AcceptanceSamples(
        torch.cat([shard["states"] for shard in shards]), torch.cat([shard["labels"] for shard in shards])
    )
