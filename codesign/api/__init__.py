"""What the command line does, as functions; `import codesign as cd` has the public ones.

Everything heavy is imported where it is used, as in the commands, which call these functions or
what these call.
"""

from codesign.api.hardware import search_hardware
from codesign.api.networks import evaluate, prune
from codesign.api.runs import dress, finetune, search

__all__ = ["dress", "evaluate", "finetune", "prune", "search", "search_hardware"]
