"""What a sweep runs: its file, read and checked with the spec of every run before the first one starts.

A run's spec is made from the outside in: the base, what the file sets for all, what the command sets for all, what the
run itself changes, and its seed. A later one wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lavcap_core import presets
from lavcap_core.component import Config
from lavcap_core.errors import LavcapError, Problem, SpecError
from lavcap_core.registry import suggest
from lavcap_core.spec import Spec, check_keys, check_node, merge, read_file
from lavcap_core.yaml import Node, flow, parse

__all__ = ["Row", "Run", "RunConfig", "Sweep", "SweepConfig", "find", "read", "text"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z")


class SweepConfig(Config):
    """What a sweep's file holds."""

    sweep: Literal[1] = Field(description="Version of the file's format.")
    title: str = Field("", description="What the table is called.")
    base: str = Field(description="The spec that every run starts from: a file, or the name of a preset.")
    source: str = Field("", description="Where published numbers are from.")
    set: dict[str, Any] = Field(default_factory=dict, description="Changes to the base, in all runs.")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (), description="Each run is repeated with each of these as train.seed."
    )
    columns: tuple[str, ...] = Field(
        (), description="What the table shows of summary.json; default: losses and metrics of the best validation."
    )
    runs: dict[str, Any] = Field(min_length=1, description="The runs by name, each with what it changes.")

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is there twice: its runs would be the same")
        return seeds


class RunConfig(Config):
    """What a sweep's file says of one run."""

    title: str = Field("", description="What the table calls it; default: its name.")
    set: dict[str, Any] = Field(default_factory=dict, description="Changes to the base.")
    published: dict[str, float] = Field(default_factory=dict, description="Numbers that others published, by name.")
    source: str = Field("", description="Where these are from; default: the file's source.")


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: of its folder.
        seed: of `Sweep.seeds`, or None.
        spec: checked.
        given: what of the spec is not a default, as plain data.
    """

    name: str
    seed: int | None
    spec: Spec
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of the table: runs that differ in nothing but the seed.

    Attributes:
        name: in the file.
        title: in the table.
        changes: dotted key to value, of this row alone.
        runs: one, or one per seed.
        published: name to number.
        source: of these.
    """

    name: str
    title: str
    changes: Mapping[str, Any]
    runs: tuple[Run, ...]
    published: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
        name: the file's, without its suffix.
        title: of the table.
        base: the base spec as it was named.
        shared: dotted key to value, of what the file and the command change in all runs.
        columns: what the table shows, or nothing for the default.
        rows: in the order of the file.
    """

    name: str
    title: str
    base: str
    shared: Mapping[str, Any]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def runs(self, only: Sequence[str] = ()) -> list[Run]:
        """All runs, or those of some rows.

        Raises:
            SpecError: C061 if there is no such row.
        """
        have = [row.name for row in self.rows]
        for name in only:
            if name not in have:
                help = suggest(name, have) or f"there are: {', '.join(have)}"
                raise SpecError("C061", f"the sweep has no run named '{name}'", help=help)
        return [run for row in self.rows if not only or row.name in only for run in row.runs]


def find(name: str) -> Path:
    """File of a sweep: an installed one's by its name, or any.

    Raises:
        SpecError: C062 if there is neither.
    """
    installed = presets.find(name, "sweep")
    if installed is not None:
        return installed
    if not Path(name).exists():
        stem, names = Path(name).stem, presets.names("sweep")
        help = suggest(stem, names) or f"installed are: {', '.join(names) or 'none'}"
        if stem in names:
            help = f"to have it here: lavcap init {stem}; or run the installed one: lavcap sweep {stem}"
        raise SpecError("C062", f"there is no file and no installed sweep named '{name}'", help=help)
    return Path(name)


def read(file: str | Path, base: str | None = None, overrides: Sequence[str] = ()) -> Sweep:
    """Reads a sweep's file and checks the spec of every run.

    Args:
        file: relative paths in it are relative to its folder.
        base: another base than the file's.
        overrides: ``KEY=VALUE`` texts for all runs; relative paths in them are relative to the current folder.

    Raises:
        SpecError: all that is wrong with the file, or with any run's spec.
    """
    path = Path(file)
    root, problems = parse(read_file(path), str(file))
    config = check_keys(SweepConfig, root, "", problems)
    rows = _check_rows(root, problems)
    if problems or not isinstance(config, SweepConfig):
        raise SpecError(_in_order(problems))
    named = root.value["base"] if base is None else Node(base, file="--base")
    maker = _Maker.of(named, Path() if base else path.parent, path, overrides)
    made: list[Row] = []
    for name, row in rows.items():
        changes = _child(root.value["runs"].value[name], "set")
        runs = tuple(maker.runs(name, _child(root, "set"), changes, config.seeds))
        made.append(Row(name, row.title or name, _plain(changes), runs, row.published, row.source or config.source))
    maker.finish(len(rows))
    command = dict(override.partition("=")[::2] for override in overrides)
    said = {key: parse(value)[0].plain() if value.strip() else None for key, value in command.items()}
    shared = _plain(_child(root, "set")) | said
    return Sweep(path.stem, config.title or path.stem, str(named.value), shared, config.columns, tuple(made))


def _check_rows(root: Node, problems: list[Problem]) -> dict[str, RunConfig]:
    found: dict[str, RunConfig] = {}
    for holder in (root, *_child(root, "runs").values()):
        for key, value in _child(holder, "set").items():
            if not all(key.split(".")):
                problems.append(value.problem("S006", f"{key!r} is not a key", help="such as aligner.epsilon"))
    for name, node in _child(root, "runs").items():
        if not _NAME.match(name):
            help = "letters, digits, - and _: it is the name of a folder"
            problems.append(node.problem("C060", f"a run can't be called {name!r}", help=help))
        node = replace(node, value={}) if node.value is None else node  # a run that changes nothing
        row = check_keys(RunConfig, node, f"runs.{name}", problems)
        if isinstance(row, RunConfig):
            found[name] = row
    return found


def _child(node: Node, name: str) -> Mapping[str, Node]:
    """The nodes under a key; nothing where it is missing or something else."""
    child = node.value.get(name) if isinstance(node.value, dict) else None
    return child.value if isinstance(child, Node) and isinstance(child.value, dict) else {}


def _plain(nodes: Mapping[str, Node]) -> dict[str, Any]:
    return {name: node.plain() for name, node in nodes.items()}


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0))


@dataclass
class _Maker:
    """Makes the specs of runs from one base, and gathers what is wrong with them."""

    root: Node
    file: Path
    folders: Mapping[str, Path]
    overrides: Sequence[str]
    problems: dict[Problem, list[str]]
    sweep: str

    @classmethod
    def of(cls, named: Node, folder: Path, sweep: Path, overrides: Sequence[str]) -> _Maker:
        """Reads the base that a node names."""
        name = str(named.value)
        file = presets.find(name) or folder / Path(name).expanduser()
        if not file.is_file():
            help = suggest(name, presets.names()) or f"installed presets are: {', '.join(presets.names())}"
            raise SpecError(named.problem("S007", f"no file and no preset is named '{name}'", help=help))
        root, problems = parse(read_file(file), str(file))
        if problems:
            raise SpecError(problems)
        folders = {f"--set {text}": Path().absolute() for text in overrides}
        return cls(root, file, {str(sweep): sweep.parent.absolute(), **folders}, overrides, {}, str(sweep))

    def runs(
        self, name: str, shared: Mapping[str, Node], own: Mapping[str, Node], seeds: Sequence[int]
    ) -> Iterator[Run]:
        """The runs of a row; none, with problems noted, if their spec is wrong."""
        node, problems = merge(_change(self.root, shared), self.overrides)
        node = _change(node, own)
        for seed in seeds or (None,):
            seeded = node if seed is None else _change(node, {"train.seed": Node(seed, file=self.sweep)})
            try:
                spec = check_node(seeded, str(self.file), self.file.parent, problems, self.folders)
            except LavcapError as error:
                for problem in error.problems:
                    self.problems.setdefault(problem, []).append(name)
                return
            yield Run(name if seed is None else f"{name}-seed{seed}", seed, spec, seeded.plain())

    def finish(self, rows: int) -> None:
        """Raises all problems together; one that not all rows have, and that isn't in the sweep's file, says whose."""
        if not self.problems:
            return
        told = [
            problem
            if len(whose) == rows or problem.file == self.sweep
            else replace(problem, message=f"{problem.message} (run {', '.join(whose)})")
            for problem, whose in self.problems.items()
        ]
        raise SpecError(_in_order(told))


def _change(node: Node, changes: Mapping[str, Node]) -> Node:
    for key, value in changes.items():
        node = _put(node, key.split("."), value)
    return node


def _put(node: Node, path: Sequence[str], value: Node) -> Node:
    """Puts a value at a path; keys and values go into what is there, unless they name a component."""
    if not path and (not isinstance(value.value, dict) or "use" in value.value):
        return value
    if isinstance(node.value, str):
        node = replace(node, value={"use": replace(node, key=None)})
    items = dict(node.value) if isinstance(node.value, dict) else {}
    children = {path[0]: value} if path else value.value
    for name, child in children.items():
        items[name] = _put(items.get(name, Node(None, file=child.file)), path[1:], child)
    return replace(node, value=items)


def text(sweep: Sweep, row: Row, run: Run) -> str:
    """The spec of a run as YAML: what it gives, with paths made absolute, without defaults."""
    named = row.title if run.seed is None else f"{row.title}, seed {run.seed}"
    title = " ".join(f"{sweep.title}: {named}".split())  # a title may have several lines, a comment has one
    lines = [f"# {title}", f"# {sweep.base}, changed:"]
    lines += [f"#   {key}: {flow(value)}" for key, value in {**sweep.shared, **row.changes}.items()] or ["#   nothing"]
    for key, value in _given(run.spec.filled(), run.given).items():
        block = isinstance(value, dict) and value
        lines += [f"{key}:", *(f"  {k}: {flow(v)}" for k, v in value.items())] if block else [f"{key}: {flow(value)}"]
    return "\n".join(lines) + "\n"


def _given(filled: Any, given: Any) -> Any:
    """What of a filled-in spec was given; names of components as they were."""
    if not isinstance(filled, dict):
        return filled
    if isinstance(given, str):  # a component's name alone, or a file's in the place of a component
        return {"use": given} if given.rpartition("/")[2] == filled["use"] else filled
    if not isinstance(given, dict):
        return filled
    return {
        name: given["use"] if name == "use" else _given(value, given[name])
        for name, value in filled.items()
        if name in given
    }
