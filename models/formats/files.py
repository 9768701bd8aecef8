"""Finding the files of a checkpoint, here or on the hub, and reading their tensors."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.models.formats.safetensors_file import looks_like_safetensors, read_safetensors
from codesign.models.formats.tensor import Tensor
from codesign.models.formats.torch_file import looks_like_torch, read_torch
from codesign.runs import read_json

HF_CONFIG = "config.json"
OPENCLIP_CONFIG = "open_clip_config.json"
NATIVE_CONFIG = "architecture.json"
NATIVE_WEIGHTS = "weights"

_HF_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPENCLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
# Small files that travel with weights.
_SIDE_FILES = (HF_CONFIG, OPENCLIP_CONFIG, "preprocessor_config.json", *TOKENIZER_FILES)
_HUB_NAME = re.compile(r"(?:hf-hub:)?([\w.-]+/[\w.-]+)")
# How a state dict is wrapped by training programs.
_WRAPPERS = ("state_dict", "model", "model_state_dict")


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint found.

    Attributes:
      name: as the user called it, for messages.
      folder: where configs beside the weights are looked for.
      weights: the file (or index of shards) with the tensors; the Orbax folder of a native
        checkpoint.
    """

    name: str
    folder: Path
    weights: Path


@dataclasses.dataclass(frozen=True)
class Tensors:
    """What a checkpoint's files hold: tensors by name, and whether TorchScript held them."""

    tensors: dict[str, Tensor]
    script: bool = False


def locate(path: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Finds a checkpoint: a file, a folder, or the name of a hub repository.

    Raises:
      UserError: nothing there, or nothing of ours in it.
    """
    name, local = os.fspath(path), Path(path).expanduser()
    if local.is_dir():
        return Source(name, local, _weights_in(local))
    if local.is_file():
        return Source(name, local.parent, local)
    match = _HUB_NAME.fullmatch(name)
    if match is None or local.suffix in _SUFFIXES:
        raise UserError(
            f"there is no file or folder {name}; a hub name looks like openai/clip-vit-base-patch16"
        )
    folder = _from_hub(match[1], revision, [*_HF_WEIGHTS, *_OPENCLIP_WEIGHTS])
    return Source(name, folder, _weights_in(folder))


def locate_side_files(path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder with a checkpoint's configs and tokenizer; weights are not fetched.

    Raises:
      UserError: nothing there.
    """
    match = _HUB_NAME.fullmatch(os.fspath(path))
    if not Path(path).expanduser().exists() and match and Path(path).suffix not in _SUFFIXES:
        return _from_hub(match[1], revision, [])
    local = Path(path).expanduser()
    if not local.exists():
        return locate(path).folder  # raises
    return local if local.is_dir() else local.parent


def _weights_in(folder: Path) -> Path:
    if (folder / NATIVE_CONFIG).is_file() and (folder / NATIVE_WEIGHTS).is_dir():
        return folder / NATIVE_WEIGHTS
    for name in (*_HF_WEIGHTS, *_OPENCLIP_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    others = sorted(f for f in folder.iterdir() if f.suffix in _SUFFIXES)
    if len(others) == 1:
        return others[0]
    if others:
        raise UserError(
            f"{folder} holds {len(others)} checkpoints, such as {others[0].name}; name one"
        )
    raise UserError(f"{folder} holds no checkpoint: no .safetensors, .bin or .pt file")


def _from_hub(repo: str, revision: str | None, weights: list[str]) -> Path:
    """Downloads one repository's checkpoint, or finds it in the hub's cache; its folder.

    File by file, because repositories hold the same weights in several formats.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download

    no_such = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    no_network = (errors.HTTPError, OSError)  # HTTPError: of whichever client the hub uses
    listed: set[str] | None = None  # None: no network, so whatever the cache has
    try:
        info = HfApi().model_info(repo, revision=revision)
        listed = {sibling.rfilename for sibling in info.siblings or []}
    except (*no_such, errors.HFValidationError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"'{repo}' is no path here, and the hub says: {reason}") from None
    except no_network:
        pass

    def fetch(file: str) -> Path | None:
        if listed is not None and file not in listed:
            return None
        try:
            offline = listed is None
            return Path(hf_hub_download(repo, file, revision=revision, local_files_only=offline))
        except errors.EntryNotFoundError:
            return None
        except no_network as e:
            raise UserError(
                f"cannot fetch {file} of '{repo}': {' '.join(str(e).split())}"
            ) from None

    found = [fetch(file) for file in _SIDE_FILES]
    for file in weights:
        path = fetch(file)
        if path is not None:
            found.append(path)
            if file.endswith(".index.json"):
                found += [fetch(shard) for shard in _shards(path)]
            break
    folders = [path.parent for path in found if path is not None]
    if not folders:
        place = "on the hub" if listed is not None else "in the hub's cache, and no network"
        raise UserError(f"'{repo}' is no path here, and holds no CLIP checkpoint {place}")
    return folders[0]


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file, or of the shards an index names, by their names.

    Raises:
      UserError: an unreadable, damaged or foreign file.
    """
    if path.name.endswith(".index.json"):
        return Tensors(_read_shards(path))
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if looks_like_safetensors(start):
            return Tensors(read_safetensors(path))
        if looks_like_torch(start):
            obj, script = read_torch(path)
            return Tensors(_flat(obj) if script else _state_dict(obj, path), script)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-lfs pointer, not the weights; run `git lfs pull`")
    size = path.stat().st_size
    kind = "an empty file" if size == 0 else "neither a safetensors nor a torch file"
    raise UserError(f"{path} is {kind}; is it the right one, and whole?")


def _shards(index: Path) -> list[str]:
    """Names of the files an index of shards lists."""
    listed = read_json(index)
    names = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(names, dict):
        raise UserError(f"{index} has no weight_map; is it an index of shards?")
    shards = sorted(set(map(str, names.values())))
    for shard in shards:
        if Path(shard).name != shard:
            raise UserError(f"{index} points to {shard}, outside its folder; refused")
    return shards


def _read_shards(index: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for shard in _shards(index):
        path = index.parent / shard
        if not path.is_file():
            raise UserError(f"{index} names the shard {shard}, which is missing; fetch it too")
        tensors |= read_tensors(path).tensors
    for name, shard in read_json(index)["weight_map"].items():
        if name not in tensors:
            raise UserError(f"{index.parent / shard} lacks the tensor '{name}' of {index.name}")
    return tensors


def _state_dict(obj: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what a program saved, which may be a whole training checkpoint."""
    if isinstance(obj, Mapping):
        if any(isinstance(value, Tensor) for value in obj.values()):
            return {
                str(name): value.renamed(str(name))
                for name, value in obj.items()
                if isinstance(value, Tensor)
            }
        for key in _WRAPPERS:
            if isinstance(obj.get(key), Mapping):
                return _state_dict(obj[key], path)
        keys = ", ".join(map(str, list(obj)[:5]))
        raise UserError(f"{path} holds no state dict: its entries are {keys or 'none'}")
    raise UserError(f"{path} holds a {type(obj).__name__}, not a state dict")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, Tensor):
            flat[prefix + key] = value.renamed(prefix + key)
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
    return flat
