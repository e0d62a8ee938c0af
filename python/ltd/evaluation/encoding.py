"""The prompts that questions become, with the answers to earlier turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ltd.decoding.decoder import Decoder
from ltd.decoding.prompts import check_prompts
from ltd.errors import InputError
from ltd.evaluation.questions import Turn


def check_turns(decoder: Decoder, turns: Iterable[Turn]) -> None:
    """Finds turns that cannot be answered, before any is: the answers before them, still to come, count as empty.

    Raises:
        InputError: names the turn and says why, for example that it is too long.
    """
    for turn in turns:
        encode_turn(decoder, turn, [()] * turn.number)


def encode_turn(decoder: Decoder, turn: Turn, answers: Sequence[Sequence[int]]) -> list[int]:
    """The prompt of a turn, after the answers to the turns before it.

    Raises:
        InputError: it cannot be answered; the message names the turn and says why.
    """
    try:
        prompt = encode_conversation(decoder, turn.asked, answers)
        check_prompts([prompt], decoder.target.vocab_size, decoder.max_length)
    except InputError as error:
        raise InputError(f"{turn.title}: {error}") from error
    return prompt


def encode_conversation(decoder: Decoder, turns: Sequence[str], answers: Sequence[Sequence[int]]) -> list[int]:
    """The prompt of a conversation's next answer.

    With a chat template the turns go through it; a tokenizer without one gets turns and answers one after the other,
    with an empty line between.
    """
    texts = [decoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    if decoder.tokenizer.chat_template is None:
        parts = [text for pair in zip(turns, texts, strict=False) for text in pair]
        return decoder.encode("\n\n".join([*parts, turns[-1]]), chat=False)
    messages: list[dict[str, str]] = []
    for text, said in zip(turns, texts, strict=False):
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
    return decoder.encode([*messages, {"role": "user", "content": turns[-1]}], chat=True)
