"""Pictures with captions or classes, from any of the usual formats, each read by its number."""

from codesign.train.data.sources.base import Sample, Source
from codesign.train.data.sources.open import open_source

__all__ = ["Sample", "Source", "open_source"]
