"""Tokenizers are opened as what their files say: the ids are those of transformers, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from codesign.errors import UserError
from codesign.models.formats import ImageSettings, make_processor, read_tokenizer

CORPUS = ["The Cat sat on the mat", "A photo of a Dog in Berlin", "Hello World hello world"] * 9
TEXTS = ["The Cat", "A photo of a Dog", "Hello, World!", "the the the the the the the the"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
CLIPS_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def trained(pre: Any, normalizer: Any = None, end: str = "") -> tokenizers.Tokenizer:
    """Byte pairs of a small corpus, with a start and an end around each text."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix=end))
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=end,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ids)
    return tokenizer


OTHERS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "GPT-2's": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "Llama's": lambda: trained(pre_tokenizers.Metaspace()),
    "words": lambda: trained(pre_tokenizers.Whitespace(), normalizers.Lowercase()),
    "CLIP's word ends alone": lambda: trained(
        pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.Lowercase(), "</w>"
    ),
}


def whole(tokenizer: tokenizers.Tokenizer) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def edit(file: Path, **values: Any) -> None:
    """Some keys of a JSON file, None to take one out."""
    kept = json.loads(file.read_text()) | values if file.is_file() else values
    file.write_text(json.dumps({k: v for k, v in kept.items() if v is not None}))


def clips(folder: Path) -> Any:
    """CLIP's own kind of byte pairs, saved by transformers."""
    letters = [chr(ord("a") + i) for i in range(26)]
    words = [*letters, *(f"{x}</w>" for x in letters), "th", "the</w>", *CLIPS_SPECIAL]
    vocab = {word: i for i, word in enumerate(words)}
    merges: Any = [("t", "h"), ("th", "e</w>")]
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("lone", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_other_byte_pairs_keep_their_own_ids(tmp_path: Path, name: str, lone: bool) -> None:
    tokenizer = OTHERS[name]()
    theirs = whole(tokenizer)
    theirs.save_pretrained(tmp_path)
    if lone:  # a tokenizer.json alone names no tokens, but puts them around a text
        (tmp_path / "tokenizer_config.json").unlink()
    ours = make_processor(ImageSettings(8), read_tokenizer(tmp_path), 9)
    expected = theirs(TEXTS, padding="max_length", max_length=9, truncation=True)["input_ids"]
    np.testing.assert_array_equal(ours.texts(TEXTS), expected)


def test_tokens_that_roberta_puts_around(tmp_path: Path) -> None:
    tokenizer = OTHERS["GPT-2's"]()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = read_tokenizer(tmp_path)
    assert (ours.bos_token, ours.eos_token, ours.pad_token) == ("<s>", "</s>", "<pad>")


@pytest.mark.parametrize("pattern", ["of transformers 4", "of transformers 5"])
def test_clips_own(tmp_path: Path, pattern: str) -> None:
    theirs = clips(tmp_path)
    if pattern == "of transformers 4":
        file = tmp_path / "tokenizer.json"
        text = file.read_text()
        special = json.dumps(r"<\|startoftext\|>|<\|endoftext\|>|")[1:-1]
        assert special in text
        file.write_text(text.replace(special, ""))
    ours = read_tokenizer(tmp_path)
    assert isinstance(ours, transformers.CLIPTokenizer)
    assert ours(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]


def test_a_file_of_clips_former_kind_is_clips(tmp_path: Path) -> None:
    """Before version 4.17 transformers wrote no splitting into words; the class tells it."""
    theirs = clips(tmp_path)
    bare = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    edit(tmp_path / "tokenizer.json", pre_tokenizer=bare, normalizer={"type": "Lowercase"})
    ours = read_tokenizer(tmp_path)
    assert isinstance(ours, transformers.CLIPTokenizer)
    assert ours(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]


def test_clips_class_with_anothers_parts(tmp_path: Path) -> None:
    """transformers would read the words alone, and split texts as CLIP does."""
    whole(OTHERS["GPT-2's"]()).save_pretrained(tmp_path)
    edit(tmp_path / "tokenizer_config.json", tokenizer_class="CLIPTokenizer")
    with pytest.raises(UserError, match=r"names CLIPTokenizer, but the model in .* is not CLIP's"):
        read_tokenizer(tmp_path)
    clips(tmp_path)
    edit(tmp_path / "tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(UserError, match=r"the normalizer in .*; set tokenizer_class to PreTrained"):
        read_tokenizer(tmp_path)


def test_clips_byte_pairs_with_other_tokens_around(tmp_path: Path) -> None:
    clips(tmp_path)
    around = json.loads((tmp_path / "tokenizer.json").read_text())["post_processor"]
    edit(tmp_path / "tokenizer.json", post_processor=around | {"cls": ["the</w>", 53]})
    with pytest.raises(
        UserError, match=r"puts \['the</w>', '<\|endoftext\|>'\] around a text, but"
    ):
        read_tokenizer(tmp_path)


def test_lists_of_words_that_are_not_clips(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"<s>": 0, "</s>": 1, "a": 2, "Ġa": 3}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ a\n")
    with pytest.raises(UserError, match=r"other byte pairs than CLIP's, .*; put the tokenizer.jso"):
        read_tokenizer(tmp_path)
    edit(tmp_path / "tokenizer_config.json", tokenizer_class="RobertaTokenizer")
    with pytest.raises(UserError, match="tokenizer_class 'RobertaTokenizer', which they do not"):
        read_tokenizer(tmp_path)


def test_padding_on_the_left_is_refused(tmp_path: Path) -> None:
    whole(OTHERS["GPT-2's"]()).save_pretrained(tmp_path)
    edit(tmp_path / "tokenizer_config.json", padding_side="left")
    with pytest.raises(UserError, match="fills texts up on the left"):
        read_tokenizer(tmp_path)
