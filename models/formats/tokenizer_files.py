"""A checkpoint's tokenizer from its files, opened as what they say it is.

CLIP's byte pairs are known by the parts of their tokenizer.json: other byte pairs (GPT-2's,
Llama's, somebody's own) split and spell words in other ways, so that by CLIP's rules they would
become other ids.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.models.formats.files import locate_side_files
from codesign.printable import short_repr

_CLIP_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")
_WORD_END = "</w>"  # closes the last piece of a word
# What CLIP's tokenizer.json says. transformers 5 has the special tokens in the pattern too, which
# changes nothing: they are cut out before.
_NORMALIZERS = [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Lowercase"},
]
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PATTERNS = (_WORDS, r"<\|startoftext\|>|<\|endoftext\|>|" + _WORDS)


def read_tokenizer(path: str | os.PathLike[str]) -> Any:
    """The tokenizer of transformers in a folder, or under a hub name.

    Raises:
      UserError: there is none, one that cannot be opened as what it is, or one that does not end
        its texts.
    """
    place = locate_side_files(path)
    if not has_tokenizer(place):
        raise UserError(f"{path} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt)")
    try:
        tokenizer = _opened(place)
        ends_texts = tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: the tokenizer cannot be read: {reason}") from None
    if not ends_texts:
        raise UserError(f"the tokenizer in {place} does not end texts with their end token")
    if tokenizer.padding_side != "right":
        raise UserError(
            f"the tokenizer in {place} fills texts up on the left, where a CLIP has their words; "
            "set padding_side in its tokenizer_config.json to 'right'"
        )
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether files of a tokenizer are there."""
    parts = ("vocab.json", "merges.txt")
    return (folder / "tokenizer.json").is_file() or all((folder / p).is_file() for p in parts)


def is_clip(tokenizer: Any) -> bool:
    """Whether these are CLIP's byte pairs."""
    from transformers import CLIPTokenizer

    return isinstance(tokenizer, CLIPTokenizer)


def _opened(folder: Path) -> Any:
    """CLIP's byte pairs, or whatever else a tokenizer.json holds."""
    file, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    settings = read_json(config) if config.is_file() else {}
    named = settings.get("tokenizer_class") if isinstance(settings, dict) else None
    if not file.is_file():
        return _from_lists(folder, named)
    contents = read_json(file)
    foreign = _foreign_part(contents)
    if foreign is None or (named in _CLIP_CLASSES and _is_former(contents)):
        return _clips(folder, _around(contents))
    # transformers passes over these parts of the file where the config names CLIP's class.
    if named in _CLIP_CLASSES and contents.get("model"):
        raise UserError(
            f"{config} names {named}, but the {foreign} in {file} is not CLIP's, so that ids are "
            "others by either; set tokenizer_class to PreTrainedTokenizerFast for those of "
            "tokenizer.json, or remove that file where vocab.json and merges.txt are beside it"
        )
    return _as_it_is(folder, contents)


def _from_lists(folder: Path, named: Any) -> Any:
    """CLIP's byte pairs from vocab.json and merges.txt, which do not tell how words are split.

    Raises:
      UserError: other byte pairs.
    """
    vocab = read_json(folder / "vocab.json")
    ends = isinstance(vocab, dict) and any(word.endswith(_WORD_END) for word in vocab)
    own = named in (None, *_CLIP_CLASSES)
    if own and ends:
        return _clips(folder, [])
    kind = "other byte pairs than CLIP's" if own else f"tokenizer_class {short_repr(named)}"
    raise UserError(
        f"{folder}: vocab.json and merges.txt are of {kind}, which they do not tell whole; put the "
        "tokenizer.json there that save_pretrained of transformers writes"
    )


def _clips(folder: Path, around: list[str]) -> Any:
    """CLIP's byte pairs, which put the same tokens around a text as the file says."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    puts = [tokenizer.bos_token, tokenizer.eos_token]
    if around and around != puts:
        raise UserError(
            f"{folder / 'tokenizer.json'} puts {short_repr(around)} around a text, but its start "
            f"and end are {short_repr(puts)}; name them bos_token and eos_token in a "
            "tokenizer_config.json beside it"
        )
    return tokenizer


def _as_it_is(folder: Path, contents: Mapping[str, Any]) -> Any:
    """What a tokenizer.json says, all of it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token is None and len(around := _around(contents)) == 2:
        tokenizer.bos_token, tokenizer.eos_token = around
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        padding = (token for token in ("[pad]", "[PAD]", "<pad>") if token in known)
        tokenizer.pad_token = next(padding, tokenizer.eos_token)
    return tokenizer


def _foreign_part(contents: Any) -> str | None:
    """The first part of a tokenizer.json that is not as CLIP's; None: it is CLIP's."""
    model = contents.get("model") or {}
    splits = (contents.get("pre_tokenizer") or {}).get("pretokenizers") or []
    as_clips = {
        "model": model.get("type", "BPE") == "BPE"
        and model.get("end_of_word_suffix") == _WORD_END
        and not model.get("continuing_subword_prefix")
        and not any(model.get(key) for key in ("byte_fallback", "ignore_merges", "fuse_unk")),
        "normalizer": (contents.get("normalizer") or {}).get("normalizers") == _NORMALIZERS,
        "pre_tokenizer": len(splits) == 2
        and splits[0].get("type") == "Split"
        and (splits[0].get("pattern") or {}).get("Regex") in _PATTERNS
        and (splits[0].get("behavior"), splits[0].get("invert")) == ("Removed", True)
        and splits[1].get("type") == "ByteLevel"
        and splits[1].get("add_prefix_space") is False
        and splits[1].get("use_regex", True) is True,
    }
    return next((part for part, same in as_clips.items() if not same), None)


def _is_former(contents: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json is as transformers wrote CLIP's before version 4.17.

    Its splitting of words was then not CLIP's, which is why later versions refuse the file or, like
    us, take the words and merges alone.
    """
    ends = (contents.get("model") or {}).get("end_of_word_suffix") == _WORD_END
    return ends and (contents.get("pre_tokenizer") or {}).get("type") == "ByteLevel"


def _around(contents: Mapping[str, Any]) -> list[str]:
    """The tokens that a tokenizer.json puts around a text."""
    whole = contents.get("post_processor") or {}
    for part in (*(whole.get("processors") or []), whole):
        if "cls" in part and "sep" in part:  # RoBERTa's way and BERT's: each a token and its id
            return [part["cls"][0], part["sep"][0]]
        template = part.get("single") or []
        around = [piece["SpecialToken"]["id"] for piece in template if "SpecialToken" in piece]
        if around:
            return around
    return []
