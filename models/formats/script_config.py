"""What a TorchScript archive computes, told as a config beside a checkpoint tells it.

Scripted modules keep OpenCLIP's settings by name; traced ones have their code alone. Where it shows
that a network is another than ours, its image tower averaged or its texts read at another token,
that is taken into account or refused; what does not show is assumed aloud.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Any

from codesign.architecture import ACTIVATIONS
from codesign.errors import UserError
from codesign.models.dialect import MOST_EPSILON, Activation
from codesign.models.formats.config_files import StatedConfig, TowerConfig
from codesign.models.formats.layout import Sizes, TowerSizes
from codesign.models.formats.script import Script

_VISION = r"(.*\.)?visual\."
_TEXT = r"(?!.*visual\.)(.*\.)?"
_MEAN_OF_TOKENS = re.compile(r"torch\.mean\([^\n]*\[1\]")
_LARGEST = re.compile(r"torch\.argmax\(")
# Where the ids equal a number, as numbers: masks are compared too, but stay truth values.
_EQUAL = re.compile(r"torch\.to\(torch\.eq\((?:\w+|torch\.to\([^()]*\)),\s+(\d{1,9})\)")
# A mask made in the code: a triangle, positions compared with each other, or one that is implied.
_CAUSAL = re.compile(
    r"torch\.(?:tri[ul]_?|l[et]|g[et])\(|scaled_dot_product_attention\([^\n]*, True"
)


def with_script(
    said: StatedConfig,
    script: Script,
    sizes: Sizes,
    where: str,
    notes: list[str],
    assumed: list[str],
) -> StatedConfig:
    """What an archive computes, before what a config beside it says.

    Args:
      said: of the config; the default where there is none.
      script: the archive.
      sizes: of its tensors.
      where: the file, for messages.
      notes: takes what a user should know.
      assumed: takes what neither tells.

    Raises:
      UserError: a network that is not supported.
    """
    _check_image_tower(script, where)
    end = _end_of_text(said, script, sizes.text.tokens, where, assumed)
    activation = _activation(said, script, where, notes)
    towers = {
        "vision": _tower(said.vision, script, _VISION, sizes.vision, where, activation),
        "text": _tower(said.text, script, _TEXT, sizes.text, where, activation),
    }
    by = said.by or (f"the code of {where}" if activation is not None else "")
    return dataclasses.replace(said, by=by, end_of_text=end, **typing.cast(Any, towers))


def _check_image_tower(script: Script, where: str) -> None:
    sides = script.setting(_VISION + "image_size")
    if isinstance(sides, tuple) and len(set(sides)) > 1:
        raise UserError(f"{where} is for images of {sides} pixels; only square ones are supported")
    pool = script.setting(_VISION + "pool_type")
    averaged = script.setting(_VISION + "global_average_pool")
    if pool is None and averaged is None and _MEAN_OF_TOKENS.search(script.code):
        averaged = True
    if averaged or pool not in (None, "tok"):
        raise UserError(
            f"{where}: its image tower pools by {'avg' if averaged else pool}, which is not "
            "supported, only the class token (tok) is"
        )


def _end_of_text(
    said: StatedConfig, script: Script, context: int, where: str, assumed: list[str]
) -> int | None:
    """Where texts are read: at an id, or, None, at their largest."""
    masks = [v for name, v in script.settings.items() if re.fullmatch(_TEXT + "attn_mask", name)]
    if None in masks:
        raise UserError(f"{where}: its text tower has no causal mask, which is not supported")
    pool = script.setting(_TEXT + "(text_)?pool_type")
    if pool not in (None, "argmax", "eos"):
        raise UserError(
            f"{where}: its text tower pools by {pool}, which is not supported, only argmax and eos "
            "are"
        )
    if pool is not None:
        end = script.setting(_TEXT + "(text_)?eos_id")
        return end if pool == "eos" and type(end) is int and end >= 0 else None
    if not script.epsilons:  # weights under code that runs no layer of theirs
        return said.end_of_text
    masked = any(name.endswith("attn_mask") for name in script.tensors) or any(
        shape[-2:] == (context, context) for shape in script.constants
    )
    if not said.by and not masked and not _CAUSAL.search(script.code):
        assumed.append("a causal mask of the text tower")
    ends = set(_EQUAL.findall(script.code))
    if _LARGEST.search(script.code) and len(ends) < 2:
        return int(ends.pop()) if ends else None
    if not said.by:
        assumed.append("texts that end with their largest id")
    return said.end_of_text


def _activation(
    said: StatedConfig, script: Script, where: str, notes: list[str]
) -> Activation | None:
    """The one of both towers; None where the code does not tell."""
    computed = sorted(script.activations)
    strange = [name for name in computed if name not in ACTIVATIONS]
    if strange:
        raise UserError(f"{where}: its code computes {strange[0]}, which is not supported")
    if len(computed) > 1 and None in (said.vision.activation, said.text.activation):
        raise UserError(
            f"{where}: its code computes {' and '.join(computed)}; put its config beside it, which "
            "tells which tower has which"
        )
    if len(computed) != 1:
        return None
    activation = typing.cast(Activation, computed[0])
    if said.vision.activation not in (None, activation):
        notes.append(
            f"{where}: {said.by} says the activation {said.vision.activation}, its code computes "
            f"{activation}, which is taken"
        )
    return activation


def _tower(
    told: TowerConfig,
    script: Script,
    pattern: str,
    sizes: TowerSizes,
    where: str,
    activation: Activation | None,
) -> TowerConfig:
    head_dim = script.setting(pattern + r"transformer\..*\.attn\.head_dim")
    epsilons = sorted(script.epsilons.get(sizes.width, {told.epsilon}))
    if len(epsilons) > 1 or not 0 < epsilons[0] <= MOST_EPSILON:
        raise UserError(
            f"{where}: layer norms of {sizes.width} channels have the epsilon "
            f"{' and '.join(f'{x:g}' for x in epsilons)} in its code; supported is one, above 0 "
            f"and at most {MOST_EPSILON:g}"
        )
    return TowerConfig(
        head_dim if type(head_dim) is int and head_dim > 0 else told.head_dim,
        activation or told.activation,
        epsilons[0],
    )
