"""How much of a pretrained model is trained: frozen, LoRA or all of it (LAVCap, Table IV), and what is stored of it.

peft is imported only where LoRA is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lavcap_core.component import Tune
from lavcap_core.errors import BuildError, WeightsError

__all__ = ["apply_tune", "keep_eval", "load_trained", "trained_state", "trained_tensors"]


def apply_tune(module: nn.Module, tune: Tune, targets: Sequence[str]) -> nn.Module:
    """Makes trainable of ``module`` what ``tune`` says, in place.

    LoRA (Hu et al. 2021, arXiv 2106.09685) replaces the linear layers whose names end in a target by
    W x + (alpha / rank) B A x, where A and B are trained in float32 whatever W's precision, and B starts at 0.

    Args:
        module: the pretrained model.
        tune: mode, and rank, alpha, dropout and targets of LoRA.
        targets: names of the linear layers that get LoRA where ``tune`` names none.

    Returns:
        The same module; what is not trained is frozen and stays in eval mode (see `keep_eval`).

    Raises:
        BuildError: B030 if LoRA is asked for and peft is not installed; B031 if a target names no linear layer.
    """
    if tune.mode == "finetune":
        return module.requires_grad_(True)
    module.requires_grad_(False)
    if tune.mode == "lora":
        _inject(module, tune, tuple(tune.targets or targets))
    return keep_eval(module)


def _inject(module: nn.Module, tune: Tune, targets: Sequence[str]) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise BuildError(
            "B030", f"LoRA needs peft, which can't be imported ({error})", help="pip install 'peft>=0.14'"
        ) from error
    _require_targets(module, targets)
    config = LoraConfig(
        r=tune.rank, lora_alpha=tune.alpha, lora_dropout=tune.dropout, target_modules=list(targets), bias="none"
    )
    inject_adapter_in_model(config, module)
    # In bfloat16 an update at the usual learning rates is below the rounding of the weight and would be lost.
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _require_targets(module: nn.Module, targets: Sequence[str]) -> None:
    # peft is content when one of several targets exists; the others would silently stay untrained.
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names})) or "none"
            raise BuildError(
                "B031", f"no linear layer is named '{target}'", help=f"tune.targets: names of linear layers are {known}"
            )


def keep_eval(module: nn.Module) -> nn.Module:
    """Keeps a frozen module in eval mode even when a parent is set to train: no dropout, no drift of BatchNorm.

    Two things in it still follow the parent: the dropout of LoRA layers, which belongs to what is trained, and the
    switch of layers that recompute their activations (`gradient_checkpointing` of transformers), which is no dropout.

    Returns:
        The same module, in eval mode.
    """
    module.train = MethodType(_train_frozen, module)  # type: ignore[method-assign]
    module.train(False)
    return module


def _train_frozen(module: nn.Module, mode: bool = True) -> nn.Module:
    type(module).train(module, False)
    for part in module.modules():
        dropout = getattr(part, "lora_dropout", None)
        if isinstance(dropout, nn.Module):
            dropout.train(mode)
        if getattr(part, "gradient_checkpointing", False) is True:
            part.training = mode
    return module


def _is_kept(module: nn.Module) -> bool:
    return isinstance(module.__dict__.get("train"), MethodType)


def _live_modules(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the modules that follow train()."""
    if _is_kept(module):
        return
    yield prefix
    for name, child in module.named_children():
        yield from _live_modules(child, f"{prefix}{name}.")


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Views of what training changes: trainable parameters, and buffers of modules that follow train()."""
    state = {name: parameter.data for name, parameter in module.named_parameters() if parameter.requires_grad}
    live = set(_live_modules(module))
    stored: Mapping[str, Any] = module.state_dict()
    for name, buffer in module.named_buffers():
        owner = name[: name.rfind(".") + 1]
        if name in stored and owner in live:
            state[name] = buffer
    return state


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a module: trainable parameters, and buffers that training changes.

    Buffers are those that the module stores (BatchNorm's statistics) outside frozen parts. Tensors are detached copies
    on the CPU.
    """
    return {name: value.detach().cpu().clone() for name, value in trained_tensors(module).items()}


def load_trained(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts `trained_state` back into a module that was built alike; nothing is changed if anything doesn't fit.

    Raises:
        WeightsError: W030 that lists what is missing, unexpected or of another shape.
    """
    own = trained_tensors(module)
    wrong = [
        f"{name} {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    lists = {"missing": own.keys() - state.keys(), "unexpected": state.keys() - own.keys(), "of another shape": wrong}
    said = [f"{title}: {_first(sorted(names))}" for title, names in lists.items() if names]
    if said:
        raise WeightsError(
            "W030",
            f"the trained weights don't fit the model: {'; '.join(said)}",
            help="build the model with the spec that is stored beside the weights",
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])


def _first(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
