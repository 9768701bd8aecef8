"""A small tokenizer for a closed set of captions, and the interface any tokenizer meets.

The captions of a class data set use a few dozen words, so every word is one token and
the text tower's embedding table stays tiny; a checkpoint with its own vocabulary brings
its own tokenizer instead.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import tokenizers

PAD, UNKNOWN, START, END = "[pad]", "[unk]", "[sot]", "[eot]"


class Tokenizer(Protocol):
    """What data and networks ask of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Rows of the token table."""
        ...

    def encode(self, texts: Sequence[str], context: int) -> np.ndarray:
        """Token ids, int32 [len(texts), context]; the end token has each row's largest id."""
        ...

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as `tokenizer.json`."""
        ...


class CaptionTokenizer:
    """Lower-cased words and punctuation marks, one token each.

    Ids: `[pad]` 0, `[unk]` 1, `[sot]` 2, words in alphabetical order, `[eot]` last.
    CLIP pools the text at the argmax of the ids, so the end token must be the largest.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        """Wraps a tokenizer of the `tokenizers` library.

        Raises:
          ValueError: a special token is missing or not at its id.
        """
        # Of a file that transformers wrote: `encode` cuts and fills by itself.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        wanted = {PAD: 0, UNKNOWN: 1, START: 2, END: len(vocabulary) - 1}
        for token, token_id in wanted.items():
            if vocabulary.get(token) != token_id:
                found = vocabulary.get(token, "missing")
                raise ValueError(f"token {token} must have id {token_id}, it has: {found}")

    @property
    def vocab_size(self) -> int:
        """Rows of the token table, special tokens included."""
        return self._tokenizer.get_vocab_size()

    @property
    def pad_id(self) -> int:
        """Id that fills a row after its end token."""
        return 0

    @property
    def sot_id(self) -> int:
        """Id that starts every text."""
        return 2

    @property
    def eot_id(self) -> int:
        """Id that ends every text, the largest of all."""
        return self.vocab_size - 1

    def encode(self, texts: Sequence[str], context: int) -> np.ndarray:
        """Token ids of `texts`.

        Args:
          texts: any strings; words outside the vocabulary become `[unk]`.
          context: tokens of a row, at least 2.

        Returns:
          int32 [len(texts), context]: `[sot]`, words, `[eot]`, then `[pad]`. Of a text
          that is too long the first `context - 2` words stay, and the end token does.

        Raises:
          ValueError: context below 2.
        """
        if context < 2:
            raise ValueError(f"context is {context}: start and end token alone need 2")
        ids = np.full((len(texts), context), self.pad_id, np.int32)
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        for row, encoding in zip(ids, encodings, strict=True):
            words = encoding.ids[: context - 2]
            row[: len(words) + 2] = [self.sot_id, *words, self.eot_id]
        return ids

    def fast(self) -> Any:
        """The same tokenizer as one of transformers (`PreTrainedTokenizerFast`)."""
        import tokenizers
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer.from_str(self._tokenizer.to_str()),
            bos_token=START,
            eos_token=END,
            unk_token=UNKNOWN,
            pad_token=PAD,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes `tokenizer.json`, which HuggingFace's libraries read as well.

        Written aside and renamed: a kill leaves the old file or the new one, never half.
        """
        target = Path(path)
        aside = target.with_name(target.name + ".partial")
        aside.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        aside.replace(target)


def _splitter() -> tokenizers.Tokenizer:
    """Text to words: the same rules build the vocabulary and use it."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    tokenizer = tokenizers.Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def train_tokenizer(texts: Sequence[str]) -> CaptionTokenizer:
    """The tokenizer whose vocabulary is the words of `texts`, whatever their order.

    The vocabulary is sorted, not ranked by frequency as the library's trainers do: it
    then depends on the set of words alone, and the end token can be put last.
    """
    from tokenizers import models, processors

    tokenizer = _splitter()
    words = {
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(text)
        )
    }
    tokens = [PAD, UNKNOWN, START, *sorted(words - {PAD, UNKNOWN, START, END}), END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])],
    )
    return CaptionTokenizer(tokenizer)


def load_tokenizer(path: str | os.PathLike[str]) -> CaptionTokenizer:
    """Reads what `CaptionTokenizer.save` wrote.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is not a tokenizer, or not one of captions.
    """
    import tokenizers

    text = Path(path).read_text(encoding="utf-8")
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
    return CaptionTokenizer(tokenizer)
