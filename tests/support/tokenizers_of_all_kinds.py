"""A small tokenizer of every kind of decoder, for tests of detokenising."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "The cat 's tail , don't you know ? 😀🤖 日本語 héllo 1, 2. Ünï — \N{REPLACEMENT CHARACTER} \n\n  end"


def of_bytes(**options: Any) -> PreTrainedTokenizerFast:
    """One token per byte and one special token, so that every other character takes several tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", **options)


def byte_pairs() -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges, some of which end within a character; one added token is not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT] * 9, trainer)
    tokenizer.add_tokens(["<think>", AddedToken(" é", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def sentence_pieces() -> PreTrainedTokenizerFast:
    """As Llama 2: a leading space that is left out, and bytes where a character has no token."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁▁", "▁the", "▁cat", "s", "é"]
    model = models.BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def metaspace() -> PreTrainedTokenizerFast:
    """As T5: the first token's space is left out."""
    pieces = ["</s>", "▁", "▁▁", "▁the", "▁cat", "s", ",", "▁,", "日"]
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "</s>"))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="</s>", eos_token="</s>")


def word_pieces() -> PreTrainedTokenizerFast:
    """As BERT: spaces between tokens, cleaned up by the decoder and once more by `transformers`."""
    pieces = [
        "[UNK]",
        "[SEP]",
        "the",
        "do",
        "n",
        "'",
        "t",
        "n't",
        "##s",
        "##",
        ".",
        ",",
        "!",
        "?",
        "s",
        "re",
        "'re",
        "a",
    ]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]", clean_up_tokenization_spaces=True
    )


def cleaned_characters() -> PreTrainedTokenizerFast:
    """Nothing but what a clean-up of spaces looks at, and a special token."""
    pieces = ["<end>", " ", "  ", "'", " '", "n", "t", "m", "s", "v", "r", "e", ".", "?", "!", ",", "ab", "日", "\n"]
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "<end>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<end>", eos_token="<end>", clean_up_tokenization_spaces=True
    )


def word_ends() -> PreTrainedTokenizerFast:
    """As the first GPT: a space after every token that ends a word, unless it is the last."""
    pieces = ["<end>", "a</w>", "b", "cat</w>", "s</w>", "</w>", "日"]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, []))
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def cleaned_bytes() -> PreTrainedTokenizerFast:
    """Asks for a clean-up that `transformers` may leave out, because of the kind of model: Llama 3's."""
    return of_bytes(clean_up_tokenization_spaces=True)


def forced_bytes() -> PreTrainedTokenizerFast:
    """Asks for that clean-up in spite of the kind of model."""
    return of_bytes(
        clean_up_tokenization_spaces=True, clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True
    )


KINDS = {
    kind.__name__: cache(kind)
    for kind in (of_bytes, byte_pairs, sentence_pieces, metaspace, word_pieces, cleaned_characters, word_ends,
                 cleaned_bytes, forced_bytes)
}  # fmt: skip
