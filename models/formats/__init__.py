"""Checkpoint formats: any published CLIP in and out.

clip = load_clip("openai/clip-vit-base-patch16")
embeddings, _ = clip.encode_image(images)
save_clip(clip, "my-clip", "openclip")
"""

from codesign.models.formats.image_settings import ImageSettings
from codesign.models.formats.load import load_clip, with_image_size
from codesign.models.formats.processor import (
    Processor,
    load_processor,
    make_processor,
)
from codesign.models.formats.save import FORMATS, Format, checkpoint_tensors, save_clip
from codesign.models.formats.tokenizer_files import read_tokenizer

__all__ = [
    "FORMATS",
    "Format",
    "ImageSettings",
    "Processor",
    "checkpoint_tensors",
    "load_clip",
    "load_processor",
    "make_processor",
    "read_tokenizer",
    "save_clip",
    "with_image_size",
]
