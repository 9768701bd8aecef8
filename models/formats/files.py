"""Finding the files of a checkpoint, here or on the hub, and reading their tensors."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

from codesign.architecture import TOWERS
from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.model_card import CARD
from codesign.models.formats.safetensors_file import looks_like_safetensors, read_safetensors
from codesign.models.formats.script import Script
from codesign.models.formats.state_dicts import state_dicts
from codesign.models.formats.tensor import Tensor
from codesign.models.formats.torch_file import looks_like_torch, read_torch
from codesign.openers import unwaiting

HF_CONFIG = "config.json"
OPENCLIP_CONFIG = "open_clip_config.json"
HF_PREPROCESSOR = "preprocessor_config.json"
HF_PROCESSOR = "processor_config.json"  # since transformers 5, for pictures and captions
ADAPTER_CONFIG = "adapter_config.json"  # of peft
NATIVE_CONFIG = "architecture.json"
NATIVE_WEIGHTS = "weights"

_HF_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OPENCLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
# Small files that travel with weights; the model card has their licence.
_SIDE_FILES = (
    HF_CONFIG,
    OPENCLIP_CONFIG,
    HF_PREPROCESSOR,
    HF_PROCESSOR,
    *TOKENIZER_FILES,
    ADAPTER_CONFIG,
    CARD,
)
_HUB_NAME = re.compile(r"(?:hf-hub:)?([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?")
# Beginnings of the tensors' names of each tower, whatever stands before them.
_TOWERS = (r"(^|\.)(visual|vision_model)\.", r"(^|\.)(text|text_model|transformer)\.")


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
    """What a checkpoint's files hold.

    Attributes:
      dicts: tensors by name, of every state dict in a file by its place there; "": the whole.
      script: of a TorchScript archive, what it tells beside its tensors.
      lists: tensors without names, likewise by their place.
    """

    dicts: dict[str, dict[str, Tensor]]
    script: Script | None = None
    lists: Mapping[str, list[Tensor]] = dataclasses.field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of the first state dict."""
        return next(iter(self.dicts.values()))


def locate(path: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Finds a checkpoint: a file, a folder, or the name of a hub repository.

    Args:
      path: of a repository "owner/name", or "owner/name@revision".
      revision: likewise, a branch, tag or commit.

    Raises:
      UserError: nothing there, or nothing of ours in it.
    """
    name, local = os.fspath(path), Path(os.path.expanduser(path))
    if local.is_dir():
        return Source(name, local, _weights_in(local))
    if local.is_file():
        return Source(name, local.parent, local)
    repository = hub_repository(name, revision)
    if repository is None:
        raise UserError(
            f"there is no file or folder {name}; a hub name looks like openai/clip-vit-base-patch16"
        )
    folder = _from_hub(*repository, weights=True)
    return Source(name, folder, _weights_in(folder))


def hub_repository(name: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """The repository and revision that a name means on the hub; None: it is no hub name.

    Raises:
      UserError: two revisions.
    """
    match = _HUB_NAME.fullmatch(name)
    if match is None or Path(match[1]).suffix in _SUFFIXES:
        return None
    if match[2] is not None and revision not in (None, match[2]):
        raise UserError(f"{name} and the revision {revision} contradict each other; give one")
    return match[1], match[2] or revision


def locate_side_files(path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder with a checkpoint's configs and tokenizer; weights are not fetched.

    Raises:
      UserError: nothing there.
    """
    local = Path(os.path.expanduser(path))
    if not local.exists():
        repository = hub_repository(os.fspath(path), revision)
        if repository is None:
            return locate(path).folder  # raises
        return _from_hub(*repository, weights=False)
    return local if local.is_dir() else local.parent


def _weights_in(folder: Path) -> Path:
    if (folder / NATIVE_CONFIG).is_file() and (folder / NATIVE_WEIGHTS).is_dir():
        return folder / NATIVE_WEIGHTS
    known = [folder / name for name in _weights_beside(folder) if (folder / name).is_file()]
    if len(known) > 1:
        return next((file for file in known if _may_hold_a_clip(file)), known[0])
    if known:
        return known[0]
    others = sorted(f for f in folder.iterdir() if f.suffix in _SUFFIXES)
    if len(others) == 1:
        return others[0]
    if others:
        raise UserError(
            f"{folder} holds {len(others)} checkpoints, such as {others[0].name}; name one"
        )
    raise UserError(f"{folder} holds no checkpoint: no .safetensors, .bin or .pt file")


def _weights_beside(folder: Path) -> tuple[str, ...]:
    """Names of weights in order of preference.

    timm keeps the image tower alone in HuggingFace's file names, beside OpenCLIP's file.
    """
    config = folder / HF_CONFIG
    try:
        foreign = config.is_file() and not is_clip_config(read_json(config))
    except UserError:  # told when the weights are loaded, if they are those it describes
        foreign = False
    return (*_OPENCLIP_WEIGHTS, *_HF_WEIGHTS) if foreign else (*_HF_WEIGHTS, *_OPENCLIP_WEIGHTS)


def is_clip_config(config: object) -> bool:
    """Whether the JSON of a config.json is that of HuggingFace's CLIP."""
    return (
        isinstance(config, dict)
        and config.get("model_type", "clip") == "clip"
        and any(f"{tower}_config{old}" in config for tower in TOWERS for old in ("", "_dict"))
    )


def _may_hold_a_clip(file: Path) -> bool:
    """Whether both towers are there by name; a file that cannot be read tells so when loaded."""
    try:
        names = [name for tensors in read_tensors(file).dicts.values() for name in tensors]
    except UserError:
        return True
    return all(any(re.search(tower, name) for name in names) for tower in _TOWERS)


def in_openclips_names(checkpoint: Path) -> bool:
    """Whether the image tower is called as in OpenCLIP; False also where no weights can be read.

    Args:
      checkpoint: a file, or a folder.
    """
    try:
        weights = checkpoint if checkpoint.is_file() else _weights_in(checkpoint)
        names = [name for tensors in read_tensors(weights).dicts.values() for name in tensors]
    except UserError:
        return False
    return any(re.search(r"(^|\.)visual\.", name) for name in names)


def _from_hub(repo: str, revision: str | None, weights: bool) -> Path:
    """Downloads one repository's checkpoint, or finds it in the hub's cache; its folder.

    File by file, because repositories hold the same weights in several formats.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

    no_such = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    # Of whichever client the hub uses.
    no_network = (errors.HTTPError, OSError)  # type: ignore[attr-defined]
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
    native = fetch(NATIVE_CONFIG) if weights else None
    if native is not None:
        if listed is not None:
            try:
                wanted = [NATIVE_CONFIG, f"{NATIVE_WEIGHTS}/*", *_SIDE_FILES]
                snapshot_download(repo, revision=revision, allow_patterns=wanted)
            except no_network as e:
                reason = " ".join(str(e).split())
                raise UserError(f"cannot fetch {NATIVE_WEIGHTS}/ of '{repo}': {reason}") from None
        return native.parent
    config = next((path.parent for path in found if path is not None), None)
    order = (*_HF_WEIGHTS, *_OPENCLIP_WEIGHTS) if config is None else _weights_beside(config)
    for file in order if weights else ():
        path = fetch(file)
        if path is not None:
            found.append(path)
            if file.endswith(".index.json"):
                found += [fetch(shard) for shard in _shards(path)]
            break
    folders = [path.parent for path in found if path is not None]
    if not folders:
        place = "on the hub" if listed is not None else "in the hub's cache, and no network"
        what = "CLIP checkpoint" if weights else "tokenizer or config"
        raise UserError(f"'{repo}' is no path here, and holds no {what} {place}")
    return folders[0]


def read_tensors(path: Path) -> Tensors:
    """The tensors of a file, or of the shards an index names, by their names.

    Raises:
      UserError: an unreadable, damaged or foreign file.
    """
    if path.name.endswith(".index.json"):
        return Tensors({"": _read_shards(path)})
    try:
        with open(path, "rb", opener=unwaiting) as file:
            start = file.read(64)
        if looks_like_safetensors(start):
            return Tensors({"": read_safetensors(path)})
        if looks_like_torch(start):
            saved = read_torch(path)
            if isinstance(saved, Script):
                return Tensors({"": saved.tensors}, saved)
            found = state_dicts(saved, path)
            return Tensors(found.dicts, lists=found.lists)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
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
    shards: dict[str, dict[str, Tensor]] = {}
    for shard in _shards(index):
        path = index.parent / shard
        if not path.is_file():
            raise UserError(f"{index} names the shard {shard}, which is missing; fetch it too")
        shards[shard] = read_tensors(path).tensors
    tensors = {name: tensor for there in shards.values() for name, tensor in there.items()}
    # One that several shards hold is that of the shard which the index names.
    for name, shard in read_json(index)["weight_map"].items():
        if name not in shards[shard]:
            raise UserError(f"{index.parent / shard} lacks the tensor '{name}' of {index.name}")
        tensors[name] = shards[shard][name]
    return tensors
