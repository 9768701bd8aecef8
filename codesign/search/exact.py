"""The former place of `codesign.search.grid`."""

from codesign.renamed import former_names

__getattr__ = former_names(__name__, "codesign.search.grid")
