"""Descriptors: what a plugin's ``plugin.py`` says of its components, without importing what they need.

A plugin module holds one `Component` per entry point::

    # lavcap_ot/plugin.py: pydantic only, no torch
    sinkhorn = Component(
        kind="transport", name="sinkhorn", config=SinkhornConfig,
        factory="lavcap_ot.sinkhorn:build", summary="...", source="LAVCap eq. 2-3",
    )

`factory` names ``module:function``, imported only when the component is built and called as
``function(config, context)`` with the checked configuration and a `Context`. So does `skeleton`, for components that
read weights: it builds the same without them, for `lavcap show SPEC --cost`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from lavcap_core.errors import PortError

__all__ = [
    "API",
    "KINDS",
    "SLOT_MARK",
    "Component",
    "Config",
    "Context",
    "LocalPath",
    "ModelName",
    "Port",
    "Slot",
    "Tune",
    "Use",
    "require_equal_width",
]

API = 1
"""The version of the interfaces in this core. A plugin of this number or the one before is accepted."""

KINDS = (
    "audio_encoder",
    "visual_encoder",
    "transport",
    "aligner",
    "fuser",
    "decoder",
    "backend",
    "recipe",
    "dataset",
    "metric",
    "weights",
)
"""Kinds of component that a spec or another component may name; each is an entry-point group ``lavcap.<kind>``."""

SLOT_MARK = "x-lavcap-slot"

Modality = Literal["audio", "visual", "fused"]


class Config(BaseModel):
    """Base of every component's configuration: unknown keys are errors, instances don't change."""

    # Strict: YAML knows numbers from text, so "0.1" for a number is a mistake and not to be guessed at.
    # Lists of a spec arrive as tuples, so that a configuration can't change after it was checked.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )


class Tune(Config):
    """How much of a pretrained model is trained (LAVCap, Table IV)."""

    mode: Literal["freeze", "lora", "finetune"] = "freeze"
    rank: int = Field(default=8, ge=1, le=1024, description="Rank of the LoRA update.")
    alpha: float = Field(default=32.0, gt=0, description="The LoRA update is scaled by alpha / rank.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout on the input of the LoRA update.")
    targets: tuple[str, ...] | None = Field(
        default=None, description="Names of the linear layers that get LoRA; None: query and value, as in the paper."
    )


@dataclass(frozen=True)
class _PathMark:
    """Marks a configuration field whose text is resolved against the folder of the spec."""

    must_be_local: bool


LocalPath = Annotated[str, _PathMark(must_be_local=True)]
"""A file or folder; a relative one is relative to the spec's file."""

ModelName = Annotated[str, _PathMark(must_be_local=False)]
"""A model: a folder or file (relative to the spec's file), ``source:name`` of a weights plugin, or a hub name."""


@dataclass(frozen=True)
class Port:
    """What flows between two parts.

    Attributes:
        modality: ``audio``, ``visual`` or ``fused``.
        width: size of a token, or the name of a width that isn't known before weights are read (``clip.width``):
            two equal names are equal widths; a name and a number may or may not be.
        space: identity of the embedding space the tokens live in, if they make sense in no other; else None.
    """

    modality: Modality
    width: int | str
    space: str | None = None


@dataclass(frozen=True)
class Slot:
    """Marks a configuration field that holds a component: ``transport: Annotated[Use, Slot("transport")]``.

    Attributes:
        kind: kind of the component.
        file: what a file's name stands for in place of ``{use: NAME}``: a component and its field, such as
            ``("manifest", "file")``; or None.
    """

    kind: str
    file: tuple[str, str] | None = None

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        # What may stand here depends on what is installed: `lavcap_core.schema` puts it in the mark's place.
        return {SLOT_MARK: self.kind, **({"x-lavcap-file": True} if self.file else {})}


@dataclass(frozen=True)
class Use:
    """A component that a spec names, with its checked configuration: what stood behind ``use:``."""

    kind: str
    name: str
    distribution: str
    config: Any
    component: Component = field(repr=False, compare=False)


class Context(Protocol):
    """What a factory gets beside its configuration."""

    @property
    def inputs(self) -> Mapping[str, Port]:
        """What arrives at the component, by name (``audio``, ``visual``, ``tokens``), with real widths."""

    def build(self, use: Use, inputs: Mapping[str, Port] | None = None) -> Any:
        """Builds a component held in a slot of the configuration."""

    def locate(self, model: str) -> str:
        """Turns a `ModelName` into a local folder or file if it is one, asking weights plugins; else the hub name."""


Ports = Callable[[Any, Mapping[str, Port]], Mapping[str, Port]]


def _no_ports(config: Any, inputs: Mapping[str, Port]) -> Mapping[str, Port]:
    return {}


@dataclass(frozen=True)
class Component:
    """What the core knows of a component before it is built.

    Attributes:
        kind: one of `KINDS`.
        name: what a spec writes behind ``use:``.
        config: a `Config` class; its fields are the component's settings.
        factory: ``module:function`` to build it.
        summary: one line for lists.
        source: paper and equation that it implements, or "".
        ports: ``(config, inputs) -> outputs``, names to `Port`; raises `PortError` where inputs don't fit.
            Encoders get nothing and give ``audio`` or ``visual``; aligners get and give both; a fuser gets what there
            is of ``audio`` and ``visual`` and gives ``tokens``; a decoder gets ``tokens``.
        api: version of the interfaces it was written for.
        slots: recipes only: keys of the spec that hold components.
        sections: recipes only: keys of the spec that hold settings of the recipe, each a `Config` class.
        facts: weights plugins only: what is known of each model before it is there, such as width and space.
        skeleton: ``module:function``, called as `factory` is, on torch's meta device: builds the component with the
            parameters that its configuration says, reading no weights and asking no network. What it takes for granted
            is in the attribute ``assumes``, a sequence of texts, of what it builds. None: the factory is called, which
            serves components that read no weights.
        doctor: ``module:function`` for ``lavcap plugins doctor NAME --hardware``, or None: called without arguments, it
            gives the lines of a report on the device that the component is for, and raises `LavcapError` without one.
    """

    kind: str
    name: str
    config: type[Config]
    factory: str
    summary: str
    source: str = ""
    ports: Ports = _no_ports
    api: int = API
    slots: Mapping[str, RecipeSlot] = field(default_factory=dict)
    sections: Mapping[str, type[Config]] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skeleton: str | None = None
    doctor: str | None = None


@dataclass(frozen=True)
class RecipeSlot:
    """A key of the spec that holds a component.

    Slots are wired in the order in which a recipe declares them: each takes what earlier ones gave, by name, and what
    it gives replaces what was there under that name.

    Attributes:
        kind: kind of the component.
        required: whether a spec must have it.
        takes: names of the ports that it takes, of those that are there.
        needs_all: whether it is left out where one of them is missing, as an aligner with one modality is.
        default: what is used where a spec says nothing, as in the spec, or None for nothing.
        help: what to write where a required one is missing.
    """

    kind: str
    required: bool = False
    takes: tuple[str, ...] = ()
    needs_all: bool = False
    default: Mapping[str, Any] | None = None
    help: str | None = None


def require_equal_width(inputs: Mapping[str, Port], help: str) -> int | str:
    """Width that audio and visual tokens share; a number where one is known.

    A width that is still a name passes: it may turn out equal, and is checked again when the component is built.

    Raises:
        PortError: P001 if both are there and their widths differ.
    """
    widths = {name: port.width for name, port in inputs.items() if name in ("audio", "visual")}
    known = {width for width in widths.values() if isinstance(width, int)}
    if len(known) > 1:
        raise PortError(
            "P001",
            "needs audio and visual tokens of one width: "
            f"audio_encoder gives {widths['audio']}, visual_encoder gives {widths['visual']}",
            help=help,
        )
    return known.pop() if known else next(iter(widths.values()))
