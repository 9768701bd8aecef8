"""The former place of `codesign.train.classifier`."""

from codesign.renamed import former_names

__getattr__ = former_names(__name__, "codesign.train.classifier")
