"""CLIP's own cleaning of a text, which comes before its byte pairs.

openai/CLIP, clip/simple_tokenizer.py (`basic_clean`, `whitespace_clean`), and OpenCLIP's
tokenizer after it. Texts of the web hold HTML entities, curly quotes, wrongly decoded characters
and full-width letters: without it their ids are not those that the checkpoint was trained with.
"""

from __future__ import annotations

import html


def clip_cleaned(text: str) -> str:
    """The text repaired by ftfy, HTML entities resolved twice, every run of blanks one space.

    Letters keep their case: see `clip_lowered`.
    """
    import ftfy

    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(repaired.split())


def clip_lowered(text: str) -> str:
    """The cleaned text in lower case, by Python's rules as there.

    A tokenizer of transformers lowers each letter alone, and so the sigma at a word's end too,
    which in Python becomes its final form.
    """
    return clip_cleaned(text).lower()
