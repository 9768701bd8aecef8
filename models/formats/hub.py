"""Uploading a folder to the HuggingFace hub, by `huggingface_hub` and its own rules of tokens."""

from __future__ import annotations

import os
from pathlib import Path

from codesign.errors import RunError, UserError
from codesign.models.formats.files import hub_repository
from codesign.runs import METRICS

# What lies in a folder and is nobody's: locks, and what a kill left half written.
_LEFT_OUT = ["*.tmp", "*.tmp/**", "*.lock", "*.lock.owner", "*.partial"]


def push_to_hub(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Uploads a folder, such as a checkpoint with its model card, as a model of the hub.

        cd.save_clip(clip, "small", "hf")
        cd.push_to_hub("small", "OWNER/small", private=True)

    Args:
      folder: all its files are uploaded; others of the repository are left.
      repository: "OWNER/NAME", made where it is missing.
      private: whether a new repository is.
      revision: branch, made where it is missing; default: the main one. "OWNER/NAME@BRANCH" says
        the same.
      message: of the commit.

    Returns:
      The address of the commit.

    Raises:
      UserError: no such folder, or the folder of a whole run; no hub name; no token, or no network.
      RunError: the hub refuses.
    """
    from huggingface_hub import HfApi, constants, errors, get_token

    path = Path(os.path.expanduser(folder))
    if not path.is_dir():
        raise UserError(f"{path} is no folder; give the one to upload")
    if (path / METRICS).exists():
        raise UserError(
            f"{path} is the folder of a whole run; push what it delivers, such as {path}/clip"
        )
    named = hub_repository(repository, revision)
    if named is None:
        raise UserError(f"'{repository}' is no name of the hub; one looks like OWNER/NAME")
    repo, branch = named
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set: nothing is uploaded; unset it")
    if get_token() is None:
        raise UserError("the hub wants a token: `hf auth login`, or HF_TOKEN in the environment")
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo,
            folder_path=path,
            revision=branch,
            commit_message=message or f"Upload {path.resolve().name} by codesign",
            ignore_patterns=_LEFT_OUT,
        )
    except errors.HFValidationError as error:
        raise UserError(f"'{repo}': {_line(error)}") from None
    except errors.HfHubHTTPError as error:
        raise RunError(f"the hub refuses {repo}: {_line(error)}") from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise UserError(f"cannot reach the hub at {api.endpoint}: {_line(error)}") from None
    return str(done.commit_url)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
