"""What every part that loads a model through transformers shares: clear errors, no bars, no waiting for a hub.

transformers and huggingface_hub are imported only when a model is loaded; the core doesn't require them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lavcap_core.errors import BuildError, WeightsError

__all__ = ["fetch_options", "quiet", "reading", "require_complete", "unknown_size"]


def fetch_options(name: str) -> dict[str, Any]:
    """Options of ``from_pretrained`` that say whether the hub may be asked.

    It may not where ``name`` is a folder or file, nor where the hub doesn't answer within some seconds: its client
    would try for a minute, file by file, even where all files were fetched before.
    """
    return {"local_files_only": Path(name).exists() or not _hub_answers()}


def _hub_answers(seconds: float = 10) -> bool:
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        # Through the hub's own session, which knows of proxies. Any answer will do.
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=seconds)
    except Exception:
        # Its client is requests or httpx, depending on its version, and they share no exception class.
        return False
    return True


@contextlib.contextmanager
def reading(name: str, files: str, unreachable: str, broken: str) -> Iterator[None]:
    """Turns what transformers raises while it reads a model into one line.

    Args:
        name: folder, file or hub name of the model.
        files: the files that it should consist of.
        unreachable: code of the error where the hub doesn't give it.
        broken: code of the error where local files can't be read.

    Raises:
        WeightsError: with one of the codes.
    """
    try:
        yield
    except Exception as error:
        # transformers, huggingface_hub, safetensors and gguf share no exception class for files that can't be read.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if Path(name).exists():
            raise WeightsError(broken, f"{name} can't be read: {reason}", help=f"it should hold {files}") from error
        raise WeightsError(
            unreachable,
            f"can't get {name} from the hub: {reason}",
            help=f"put {files} of {name} into a folder and write `model: FOLDER`",
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers: a pipeline shows its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def require_complete(name: str, report: Mapping[str, Any], code: str) -> None:
    """Refuses a model that lacks weights: transformers fills them with random numbers and only logs it.

    Args:
        name: of the model.
        report: what ``from_pretrained(output_loading_info=True)`` gives beside the model.
        code: of the error.

    Raises:
        WeightsError: with that code.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(code, f"{name} lacks weights: {missing[0]}{more}", help="fetch the model's files again")


def unknown_size(name: str, known: Mapping[str, Any]) -> BuildError:
    """What a skeleton raises where neither a local folder nor the plugin's table tells how large a model is.

    Args:
        name: of the model.
        known: the table, by hub name.
    """
    help = f"name a folder that holds it, or one of: {', '.join(known)}"
    return BuildError("B050", f"the size of {name} is not known without its files", help=help)
