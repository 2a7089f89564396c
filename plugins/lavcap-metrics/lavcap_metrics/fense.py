"""FENSE: how near sentences are in meaning, and whether they are sentences. Torch is imported when a model is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lavcap_core.component import Context
from lavcap_core.errors import BuildError
from lavcap_core.scores import Score
from lavcap_metrics.memo import Memo
from lavcap_metrics.plugin import FenseConfig, SentenceConfig

__all__ = ["Fense", "build", "errors", "fluency", "similarities"]

Array = NDArray[np.float64]

_ERROR_TOKENS = 64
"""Where FENSE cuts captions for the classifier of errors."""
_MODULES = ("Transformer", "Pooling", "Normalize")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_HELP = "name a folder that save_pretrained of transformers, or sentence-transformers, wrote"


class Fense:
    """FENSE (Zhou et al. 2022): mean cosine with the references, a tenth of it for captions with errors of fluency.

    Without a model of errors it is the similarity alone, and called SBERT.
    """

    def __init__(self, config: FenseConfig) -> None:
        self._config = config

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """Scores captions; see `lavcap_core.scores.Metric`.

        Raises:
            BuildError: E050 if no model is named, E051 if one is none, B001 if torch or transformers is missing.
        """
        folder = _folder(self._config.model, "model", "a sentence model")
        clips, name, facts = (
            similarities(folder, candidates, references, self._config),
            "SBERT",
            _facts("model", folder),
        )
        if self._config.errors is not None:
            factors, more = fluency(candidates, self._config)
            clips, name, facts = clips * factors, "FENSE", facts | more
        return Score({name: float(clips.mean())}, {name: clips.tolist()}, facts=facts)


def fluency(candidates: Sequence[str], config: SentenceConfig) -> tuple[Array, dict[str, str]]:
    """What each caption's score is multiplied with, [N], and what scores that are compared must have in common.

    Raises:
        BuildError: E050 if no model of errors is named, E051 if it is none, B001 if torch or transformers is missing.
    """
    folder = _folder(config.errors, "errors", "a model of errors of fluency")
    factors = np.where(errors(folder, candidates, config) > config.threshold, 1 - config.penalty, 1.0)
    return factors, {**_facts("errors", folder), "penalty": f"{config.penalty:g} above {config.threshold:g}"}


_known: Memo[Array] = Memo()


def errors(folder: Path, candidates: Sequence[str], config: SentenceConfig) -> Array:
    """Probability that each caption has an error, [N]: the last class of the model; the last results are remembered.

    Raises:
        BuildError: E051, B001; see `fluency`.
    """
    return _known.get((folder, tuple(candidates)), lambda: _errors(folder, candidates, config))


def _errors(folder: Path, candidates: Sequence[str], config: SentenceConfig) -> Array:
    torch, tokenizer, model = _load(folder, "AutoModelForSequenceClassification", config.device)
    # One class, or classes that don't exclude each other, as in FENSE's own models.
    alone = model.config.problem_type != "single_label_classification"
    found = []
    # The classifiers were trained on, and are given, lower case without punctuation; the encoder of sentences is not.
    plain = [re.sub(r"[^\w\s]", "", text).lower() for text in candidates]
    for inputs in _batches(torch, tokenizer, plain, _ERROR_TOKENS, config):
        logits = model(**inputs).logits.double()
        found.append((logits.sigmoid() if alone else logits.softmax(-1))[:, -1].cpu().numpy())
    return np.concatenate(found)


def similarities(
    folder: Path, candidates: Sequence[str], references: Sequence[Sequence[str]], config: SentenceConfig
) -> Array:
    """Mean cosine of each caption and its references, [N].

    Raises:
        BuildError: E051, B001; see `Fense`.
    """
    flat = [text for told in references for text in told]
    vectors = _vectors(folder, [*candidates, *flat], config)
    own, others = vectors[: len(candidates)], vectors[len(candidates) :]
    ends = np.cumsum([len(told) for told in references])[:-1]
    return np.array([(told @ vector).mean() for vector, told in zip(own, np.split(others, ends), strict=True)])


def _vectors(folder: Path, texts: Sequence[str], config: SentenceConfig) -> Array:
    """Unit vectors of texts, [N, D]: the mean of their tokens (Reimers and Gurevych 2019)."""
    inner, longest = _layout(folder)
    torch, tokenizer, model = _load(inner, "AutoModel", config.device)
    found = []
    for inputs in _batches(torch, tokenizer, texts, longest, config):
        mask = inputs["attention_mask"][:, :, None].to(torch.float32)
        means = (model(**inputs).last_hidden_state.float() * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        found.append(torch.nn.functional.normalize(means, dim=1).double().cpu().numpy())
    return np.concatenate(found)


def _batches(
    torch: Any, tokenizer: Any, texts: Sequence[str], longest: int | None, config: SentenceConfig
) -> Iterator[Any]:
    longest = min(longest or tokenizer.model_max_length, 512)
    with torch.inference_mode():
        for i in range(0, len(texts), config.batch_size):
            some = [text.strip() for text in texts[i : i + config.batch_size]]
            inputs = tokenizer(some, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            yield inputs.to(config.device)


def _layout(folder: Path) -> tuple[Path, int | None]:
    """Folder of the encoder, and where texts are cut, as sentence-transformers writes them.

    Raises:
        BuildError: E051 if vectors are made by something else than a mean of tokens.
    """
    modules = _json(folder / "modules.json", [])
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    pooling = [folder / modules[i]["path"] / "config.json" for i, kind in enumerate(kinds) if kind == "Pooling"]
    if not (set(kinds) <= set(_MODULES) and all(_is_mean(_json(file, {})) for file in pooling)):
        made = ", ".join(kinds)
        raise BuildError("E051", f"{folder} doesn't take the mean of tokens: its parts are {made}", help=_HELP)
    inner = folder / modules[0]["path"] if modules else folder
    return inner, _json(inner / "sentence_bert_config.json", {}).get("max_seq_length")


def _is_mean(settings: Mapping[str, Any]) -> bool:
    on = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    return on == ["pooling_mode_mean_tokens"]


def _json(path: Path, default: Any) -> Any:
    """What a file holds, or the default where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default
    except ValueError as error:
        raise BuildError("E051", f"{path} can't be read: {error}", help=_HELP) from None


def _load(folder: Path, kind: str, device: str) -> tuple[Any, Any, Any]:
    """torch, a tokeniser and a model of transformers, ready to be used.

    Raises:
        BuildError: B001 if torch or transformers is missing, E051 if the folder holds no such model.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        help = "pip install 'lavcap-metrics[fense]'"
        raise BuildError("B001", f"sentence models can't be run: {error}", help=help) from None
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **local)
        model = getattr(transformers, kind).from_pretrained(str(folder), **local)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BuildError("E051", f"{folder} holds no model for {kind}: {reason}", help=_HELP) from None
    return torch, tokenizer, model.eval().to(device)


def _folder(named: str | None, key: str, what: str) -> Path:
    if named is None:
        raise BuildError("E050", f"no folder of {what} is named", help=f"set {key}: FOLDER; none is downloaded")
    folder = Path(named)
    if not folder.is_dir():
        raise BuildError("E051", f"{folder} is no folder of {what}", help=_HELP)
    return folder


def _facts(key: str, folder: Path) -> dict[str, str]:
    """Name and contents of a model, so that scores of two models are not compared."""
    file = next((path for name in _WEIGHTS for path in sorted(folder.rglob(name))), None)
    if file is None:
        return {key: folder.name}
    with file.open("rb") as weights:
        return {key: f"{folder.name} {hashlib.file_digest(weights, 'sha256').hexdigest()[:16]}"}


def build(config: FenseConfig, context: Context) -> Fense:
    """Builds `fense`."""
    return Fense(config)
