"""Models by name: presets, designs, HuggingFace configs, as one thing to be priced."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from codesign.architecture import Architecture
from codesign.errors import UserError, did_you_mean
from codesign.json_text import read_json
from codesign.scenario import Scenario, runs_never
from codesign.workload.bert import Bert
from codesign.workload.blocks import Operators
from codesign.workload.clip import ClipNetwork
from codesign.workload.llama import Llama
from codesign.workload.memory import Memory
from codesign.workload.operators import Workload
from codesign.workload.presets import PRESETS, Network
from codesign.workload.vit import Vit

PHASES = ("prefill", "decode")
# Length of a text where neither the caller nor the model sets one.
DEFAULT_TOKENS = 512


@dataclasses.dataclass(frozen=True)
class Model:
    """A network at one task, ready to be priced.

    Attributes:
      name: what it is called.
      task: what is computed once, in words.
      source: where its dimensions come from.
      operators: what the task asks for, in exact counts.
      parameters: trained numbers of the network.
      memory: what the DRAM holds while the task runs.
      architecture: a CLIP's dimensions, where an Architecture can express them.
      sparsity: of the subnets of a design file's family; `operators` and `memory` are the
        dense network's.
      scenario: a design file's own.
      clip: the network where it is a CLIP, whose texts a scenario may leave out.
    """

    name: str
    task: str
    source: str
    operators: Operators
    parameters: int
    memory: Memory
    architecture: Architecture | None = None
    sparsity: tuple[float, ...] = ()
    scenario: Scenario | None = None
    clip: ClipNetwork | None = None

    def in_scenario(self, scenario: Scenario) -> Model:
        """The same with as many texts an image as a scenario has."""
        texts = scenario.texts_per_image
        if self.clip is None or texts == 1:
            return self
        return dataclasses.replace(
            self,
            task=_clip_task(self.clip, texts),
            operators=self.clip.operators(texts),
            memory=self.clip.memory(texts),
        )

    @functools.cached_property
    def workload(self) -> Workload:
        """The operators as arrays, for the cost model."""
        return self.operators.workload

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all GEMMs."""
        return int(self.operators.macs)


def load_model(
    model: str | os.PathLike[str],
    *,
    tokens: int | None = None,
    phase: str | None = None,
    context: int | None = None,
    design: str | None = None,
) -> Model:
    """A model by its name or file.

    Args:
      model: a preset (`PRESETS`); a folder with a config.json, or such a file, of a CLIP,
        ViT, BERT or Llama; a design file; or OWNER/NAME on the HuggingFace hub.
      tokens: length of a BERT's text or of a Llama's prompt; default: 512, or the longest
        that the model takes.
      phase: "prefill" (default) or "decode" of a Llama; see `Llama.decode`.
      context: tokens in a decoding Llama's cache, the new one included; default as `tokens`.
      design: the entry to take from a list of designs.

    Raises:
      UserError: one line that names what is wrong and the mend.
    """
    return _model(_find(os.fspath(model), design), tokens, phase, context)


def clip_model(name: str, clip: ClipNetwork, source: str) -> Model:
    """A CLIP of given dimensions as a model.

    Args:
      name: what to call it.
      clip: its dimensions.
      source: where they come from.
    """
    return _model(_Found(name, clip, source))


class _Found(NamedTuple):
    """What the user calls a model: the network, and of a design file what else it states."""

    name: str
    network: Network
    source: str
    sparsity: tuple[float, ...] = ()
    scenario: Scenario | None = None


def _model(
    found: _Found, tokens: int | None = None, phase: str | None = None, context: int | None = None
) -> Model:
    network = found.network
    task, operators, memory = _task(found.name, network, tokens, phase, context)
    architecture = None
    if isinstance(network, ClipNetwork) and network.uniform:
        a = network.architecture
        # A design file has no image with a margin that no patch covers.
        architecture = a if a.image % a.patch == 0 else None
    return Model(
        found.name,
        task,
        found.source,
        operators,
        memory.weights,
        memory,
        architecture,
        found.sparsity,
        found.scenario,
        network if isinstance(network, ClipNetwork) else None,
    )


def _find(model: str, design: str | None) -> _Found:
    if design is not None and not os.path.isfile(model):
        raise UserError(f"{model} is no list of designs; drop --name")
    if model in PRESETS:
        return _Found(model, PRESETS[model].network, PRESETS[model].source)
    if os.path.exists(model):
        return _from_path(Path(model), design)
    if model.endswith(".json") or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(f"there is no file or folder {model}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        hint = did_you_mean(model, PRESETS)
        raise UserError(
            f"there is no model '{model}'; {hint} (a file, or OWNER/NAME of the HuggingFace "
            "hub, is also taken)"
        )
    from codesign.workload import huggingface  # not above: only configs need it

    return _Found(model, huggingface.describe(huggingface.read_config(model), model), model)


def _from_path(path: Path, design: str | None) -> _Found:
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path} holds no config.json; give a model's folder or file")
        path = path / "config.json"
    content = _json(path)
    if isinstance(content, list) or "architecture" in content or "accelerator" in content:
        from codesign.design_file import load_design  # not above: it imports the cost model

        loaded = load_design(path, name=design)
        return _Found(
            loaded.name,
            ClipNetwork(loaded.architecture),
            str(path),
            loaded.sparsity,
            loaded.scenario,
        )
    if "model_type" not in content:
        raise UserError(
            f"{path}: missing key 'model_type', as in a HuggingFace config, or 'architecture', "
            "as in a design"
        )
    if design is not None:
        raise UserError(f"{path} is no list of designs; drop --name")
    from codesign.workload import huggingface  # not above: only configs need it

    huggingface.check_model_type(content["model_type"], str(path))
    network = huggingface.describe(huggingface.read_config(path), str(path))
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return _Found(name, network, str(path))


def _json(path: Path) -> Any:
    content = read_json(path)
    if not isinstance(content, (dict, list)):
        raise UserError(f"{path}: expected an object {{...}}")
    return content


def _task(
    name: str, network: Network, tokens: int | None, phase: str | None, context: int | None
) -> tuple[str, Operators, Memory]:
    """What the network is to compute, in words and in operators, and what the DRAM holds."""
    if not isinstance(network, Llama):
        for option, value in (("phase", phase), ("context", context)):
            if value is not None:
                raise UserError(f"{option}: {name} is no decoder; drop --{option}")
    if isinstance(network, (ClipNetwork, Vit)) and tokens is not None:
        raise UserError(f"tokens: {name} has a fixed number of them; drop --tokens")
    match network:
        case ClipNetwork():
            return _clip_task(network), network.operators(), network.memory()
        case Vit():
            task = f"one image of {network.patches + 1} tokens"
            return task, network.operators(), network.memory()
        case Bert():
            length = _length("tokens", tokens, network.positions)
            return f"one text of {length} tokens", network.operators(length), network.memory(length)
        case Llama():
            return _decoder_task(network, tokens, phase or "prefill", context)


def _clip_task(network: ClipNetwork, texts: float = 1) -> str:
    a = network.architecture
    if runs_never(texts):
        return f"one image of {a.vision_tokens} tokens"
    number = "one text" if texts == 1 else f"{texts:g} texts"
    return f"one image of {a.vision_tokens} and {number} of {a.context} tokens"


def _decoder_task(
    network: Llama, tokens: int | None, phase: str, context: int | None
) -> tuple[str, Operators, Memory]:
    if phase not in PHASES:
        raise UserError(f"phase: unknown '{phase}'; {did_you_mean(phase, PHASES)}")
    if phase == "decode":
        if tokens is not None:
            raise UserError("tokens: decoding makes one; set --context instead")
        length = _length("context", context, network.positions)
        task = f"decode of one token, the last of {length}"
        return task, network.decode(length), network.memory(1, length)
    if context is not None:
        raise UserError("context: is of --phase decode; set --tokens instead")
    length = _length("tokens", tokens, network.positions)
    return f"prefill of {length} tokens", network.prefill(length), network.memory(length, length)


def _length(option: str, value: int | None, most: int) -> int:
    if value is None:
        return min(DEFAULT_TOKENS, most)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(
            f"{option}: expected a whole number of 1 to {most}, the model's longest text, "
            f"got {value}"
        )
    return value
