"""Token ids of CLIP's byte pairs are those of OpenAI's and OpenCLIP's tokenizer."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import transformers

from codesign.models.formats import ImageSettings
from codesign.models.formats.processor import make_processor
from codesign.models.formats.text import clip_cleaned
from codesign.train.data import train_tokenizer

# Text, and the ids of OpenCLIP 3.3.0 with ftfy between start and end of text.
IDS = {
    "black &amp; white photo": [1449, 261, 1579, 1125],
    "the &quot;old&quot; town &#39;centre&#39;": [518, 257, 896, 257, 1605, 262, 2916, 262],
    "R&amp;amp;B singer": [337, 261, 321, 5108],
    "the dog’s “bone” – a photo…": [518, 1929, 568, 257, 6195, 257, 1224, 320, 1125, 959],
    "the dogâ€™s bone": [518, 1929, 568, 6195],
    "ＡＢＣ１２３ photo": [5334, 272, 273, 274, 1125],
    "\ufeffa photo of a cat": [320, 1125, 539, 320, 2368],
    "ﬁne ﬂower": [3797, 4055],
    "a\x00b\x07c photo": [5334, 1125],
    "<b>bold</b> text &lt;b&gt;": [
        283,
        321,
        285,
        8911,
        34308,
        321,
        285,
        4160,
        283,
        321,
        285,
    ],
    "a photo\nof a  cat\r\n": [320, 1125, 539, 320, 2368],
    "A Photo of a CAT": [320, 1125, 539, 320, 2368],
    # A sigma that ends a word becomes the final one, 139 480, else 139 225.
    "ΟΔΟΣ ΣΑ": [138, 123, 138, 112, 138, 123, 139, 480, 139, 225, 138, 365],
    "&Sigma;Α&Sigma;": [139, 225, 138, 109, 139, 480],
    "   ": [],
}
CLEANED = {
    "R&amp;amp;B": "R&B",
    "it’s “A”": 'it\'s "A"',
    "Ａ\u00a0\u3000ﬁ": "A fi",
    "doesnâ€™t": "doesn't",
    "\ufeff a\t\n b ": "a b",
    "cafe\u0301": "caf\u00e9",
    "&lt;i&gt;": "<i>",
    "": "",
}


@pytest.fixture(scope="module")
def byte_pairs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """CLIP's byte pairs, from the vocabulary that OpenCLIP carries."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        pytest.skip("needs the vocabulary file of OpenCLIP")
    packed = Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    # Printable stand-ins of the 256 bytes, as GPT-2 has them.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - 188)]
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)


def test_ids_are_openclips(byte_pairs: Any) -> None:
    processor = make_processor(ImageSettings(8), byte_pairs, 77)
    for text, row in zip(IDS, processor.texts(list(IDS)), strict=True):
        expected = [49406, *IDS[text], 49407]
        assert row.tolist()[: len(expected)] == expected, text
        assert set(row.tolist()[len(expected) :]) == {49407}, text


@pytest.mark.parametrize("text", CLEANED)
def test_cleaning(text: str) -> None:
    assert clip_cleaned(text) == CLEANED[text]
    assert clip_cleaned(CLEANED[text]) == CLEANED[text]


def test_other_tokenizers_keep_their_own_cleaning() -> None:
    words = train_tokenizer(["black & amp ; white"])
    processor = make_processor(ImageSettings(8), words, 8)
    text = "black &amp; white"
    assert (processor.texts(text) == words.encode([text], 8)).all()
    assert (processor.texts(text) != processor.texts("black & white")).any()
