"""Sounds and pictures that were never recorded: what the two classifiers would have said of a caption.

AudioCaps' captions are public, its clips are not. So the adapters are trained on text alone: a caption is split into
clauses (`split`), each clause is matched to sound classes (`Matcher`), the classes are painted over stretches of the
twenty windows of a clip as the tagger would have reported them (`Painter`), and the decoder learns to write the caption
back. Three things make what it learns hold for real clips:

- *confusions*: the rows of a classifier's last layer say which classes it mixes up (`confusion`), so a painted duck
  comes with a goose and a quack, as a heard one does;
- *other sources*: clauses are replaced by ones about any animal, instrument, machine or class (`Sources`), so that
  the decoder learns to copy names that AudioCaps hardly uses;
- *pictures* that belong to the caption, have nothing to do with it, or are missing; some tell which animal the vague
  sound of an animal is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lavcap_starter.classes import Classes

__all__ = [
    "Clause",
    "Example",
    "Matcher",
    "Painter",
    "Scene",
    "Simulator",
    "Source",
    "Sources",
    "confusion",
    "pictures_of",
    "related",
    "split",
    "stem",
]

Floats = NDArray[np.float32]
Form = Literal["finite", "gerund"]

WINDOWS = 20
"""Windows of the sound encoder in a clip of ten seconds."""

# --- captions to clauses ---------------------------------------------------------------------------------------------

_THEN = (
    r",?\s*(?:and\s+)?(?:(?:is|are)\s+)?"
    r"(?:followed\s+(?:shortly\s+|closely\s+)?by|(?:and\s+)?then|before|after which)\s+"
)
_ALSO = (
    r",\s*(?:and\s+|while\s+|as\s+|with\s+)?"
    r"|\s+(?:as well as|along with|together with|accompanied by|alongside|while|and|as|with|over)\s+"
)
_JOINT = re.compile(f"(?P<then>{_THEN})|(?P<also>{_ALSO})", re.IGNORECASE)
_GERUND_AFTER = re.compile(r"\b(?:by|with|of|and|over|to)\s*$|,\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Clause:
    """A part of a caption that says one thing.

    Attributes:
        text: the words.
        step: place in time: clauses of one step sound together, a higher step later.
        start: position of the first character in the caption.
        end: position after the last.
        form: whether a substitute should be a sentence ("a dog barks") or a phrase ("a dog barking").
    """

    text: str
    step: int
    start: int
    end: int
    form: Form


def split(caption: str) -> tuple[Clause, ...]:
    """Splits a caption where it joins events: "followed by" and "then" order them, "and" and "while" overlap them."""
    clauses: list[Clause] = []
    start, step, joint = 0, 0, ""
    for match in [*_JOINT.finditer(caption), None]:
        end = match.start() if match else len(caption)
        if caption[start:end].strip().rstrip(".").strip():
            clauses.append(_clause(caption, start, end, step, joint))
        if match:
            step += match.lastgroup == "then" and bool(clauses)
            start, joint = match.end(), match.group()
    return tuple(clauses)


def _clause(caption: str, start: int, end: int, step: int, joint: str) -> Clause:
    text = caption[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip().rstrip(".").rstrip()
    words = text.split()
    gerund = bool(_GERUND_AFTER.search(joint)) and any(word.endswith("ing") for word in words)
    gerund = gerund or joint.strip().lower().endswith((" by", "with")) or (not joint and words[-1].endswith("ing"))
    return Clause(text, step, start, start + len(text), "gerund" if gerund else "finite")


# --- clauses to classes ----------------------------------------------------------------------------------------------

_SAME = {
    word: kind
    for kind, words in {
        "speech": "speak talk speech voice convers spoken spoke say narrat man men woman women male female person "
        "people girl boy lady announc dialogue",
        "child": "child children kid toddler",
        "baby": "baby infant",
        "laughter": "laugh laughter giggl chuckl",
        "cry": "cry cries sob weep",
        "car": "car automobile",
        "train": "train locomotive railroad",
        "siren": "siren",
        "applause": "applause applaud clap",
        "gunshot": "gun gunshot gunfire shot rifle",
        "tap": "tap",
        "water tap": "faucet",
        "stream": "stream flow creek",
        "birds": "bird",
        "chirp": "chirp tweet",
        "vehicle": "vehicle",
        "boat": "boat motorboat speedboat",
        "computer keyboard": "keyboard",
        "fire crackling": "crackl",
    }.items()
    for word in words.split()
}


def stem(word: str) -> str:
    """A word without its ending and, for the commonest words of captions, the name of its group."""
    word = word.lower()
    word = _SAME.get(word, word)
    for ending in ("ing", "ies", "es", "ed", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    word = word.removesuffix("e") if len(word) > 3 else word
    return _SAME.get(word, word)


def _stems(text: str) -> frozenset[str]:
    return frozenset(stem(word) for word in re.findall(r"[a-z]+", text.lower())) - _IDLE


_IDLE = frozenset(
    re.findall("[a-z]+", "a an the of on in is ar to at by it some loud loudly nearby distant background")
)


class Matcher:
    """Finds the classes that a clause is about: by its words, and by what it means.

    Args:
        classes: the sound classes.
        vectors: [C, D] unit sentence embeddings of their names.
        rule: how much a fully named class counts beside the cosine.
    """

    def __init__(self, classes: Classes, vectors: Floats, rule: float = 0.5) -> None:
        self._stems = [_stems(name) for name in classes.names]
        self._weights = np.asarray(classes.weights, np.float32)
        self._vectors = vectors
        self._rule = rule
        self._speech, self._talk = classes.names.index("speech"), classes.names.index("people talking")

    def __call__(self, clause: str, vector: Floats, floor: float = 0.5, margin: float = 0.12) -> tuple[int, ...]:
        """The classes, best first, at most three; none where the clause says nothing that is heard.

        Args:
            clause: its text.
            vector: [D] its unit sentence embedding.
            floor: the lowest score that counts.
            margin: how much worse than the best another may be.
        """
        scores = self._vectors @ vector + self._rule * self._named(clause)
        scores = np.where(self._weights > 0, scores, 0) - 0.1 * (self._weights < 1)
        order = np.argsort(-scores)[:3]
        found = [int(index) for index in order if scores[index] >= max(floor, scores[order[0]] - margin)]
        if self._one_voice(clause):
            found = [self._speech if index == self._talk else index for index in found]
        return tuple(dict.fromkeys(found))

    @staticmethod
    def _one_voice(clause: str) -> bool:
        """Whether what is said to be speech is not a conversation, which taggers hear only between several people."""
        return not re.search(r"\b(people|men|women|crowd|group|conver\w+|together|another|several)\b", clause.lower())

    def _named(self, clause: str) -> Floats:
        said = _stems(clause)
        whole = [len(name) * 0.25 + 0.75 if name and name <= said else 0.0 for name in self._stems]
        return np.asarray(whole, np.float32)


def confusion(weight: Floats) -> Floats:
    """How alike a classifier finds its classes: [C, C] cosines of the centred rows of its last layer [C, D]."""
    centred = weight - weight.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T, np.float32)


# --- sources: clauses that are made, with what is heard and seen -----------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Something that can be heard and, mostly, seen.

    Attributes:
        finite: ways to say it as a sentence without a full stop.
        gerund: ways to say it as a phrase.
        sounds: classes of the sound, the most telling first.
        pictures: classes of pictures of it.
        unheard: no sound class names it, so that only a picture can tell it.
    """

    finite: tuple[str, ...]
    gerund: tuple[str, ...]
    sounds: tuple[int, ...]
    pictures: tuple[int, ...]
    unheard: bool = False


def related(names: Sequence[str], word: str) -> tuple[int, ...]:
    """Classes whose name is a word or one of its kinds: "dog" finds "pug dog" and "dog barking", not "hot dog"."""
    first, last = f"{word} ", f" {word}"
    tails = ("bird", "parrot", "monkey", "boat", "ship")
    return tuple(
        index
        for index, name in enumerate(names)
        if name != "hot dog" and (name == word or name.endswith(last) or name in [first + tail for tail in tails])
    )


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def _rows(name: str) -> list[list[str]]:
    text = files("lavcap_starter").joinpath("frames", name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if line]


_NO_INSTRUMENT = (
    "guitar tapping",
    "guitar strumming",
    "violin pizzicato",
    "bells ringing",
    "tubular bells",
    "bagpipes",
    "sampler",
    "drum roll",
    "rimshot",
    "string section",
    "bicycle bell",
    "church bell",
    "wind chime",
)
"""Names that don't fit "someone plays a ...": they are told in other ways, or not at all."""


class Sources:
    """All sources by family, made from the two lists of classes and the tables in ``frames``.

    Args:
        sound: the sound classes.
        picture: the picture classes.
    """

    def __init__(self, sound: Classes, picture: Classes) -> None:
        self._sound, self._picture = sound, picture
        self.families: Mapping[str, tuple[Source, ...]] = {
            "animals": tuple(self._acting(row) for row in _rows("animals.tsv")),
            "machines": tuple(self._acting(row) for row in _rows("machines.tsv")),
            "instruments": tuple(self._instruments()),
            "genres": tuple(self._genres()),
            "others": tuple(self._others()),
        }

    def _first(self, words: str, names: Sequence[str]) -> tuple[int, ...]:
        found = [names.index(word) for word in words.split(",") if word in names]
        return tuple(found)

    def _pictures(self, words: str) -> tuple[int, ...]:
        found = [index for word in words.split(",") for index in related(self._picture.names, word)]
        return tuple(dict.fromkeys(found))

    def _acting(self, row: list[str]) -> Source:
        noun, verb, acting, sounds, pictures, known = row
        subject = _article(noun)
        finite = (f"{subject} {verb}", f"{subject} {verb}", f"{subject} is {acting}")
        heard = self._first(sounds, self._sound.names)
        return Source(finite, (f"{subject} {acting}",), heard, self._pictures(pictures), known == "seen")

    def _span(self, first: str, last: str) -> range:
        return range(self._sound.names.index(first), self._sound.names.index(last) + 1)

    def _instruments(self) -> list[Source]:
        span = self._span("guitar", "singing bowl")
        heard = [i for i in span if self._sound.weights[i] == 1 and self._sound.names[i] not in _NO_INSTRUMENT]
        made = [self._instrument(self._sound.names[index], (index,)) for index in heard]
        wind = self._first("wind instrument", self._sound.names)
        # Instruments that only the picture network names, heard as their family.
        unheard = [self._instrument(name, wind) for name in ("bassoon", "oboe", "ocarina", "pan flute")]
        return [*made, *(replace(source, unheard=True) for source in unheard)]

    def _instrument(self, name: str, sounds: tuple[int, ...]) -> Source:
        thing = _article(name)
        finite = (
            f"{thing} plays",
            f"{thing} is playing",
            f"{thing} is being played",
            f"someone plays {thing}",
            f"a person plays the {name}",
            f"a man plays {thing}",
            f"music plays on {thing}",
            f"{thing} plays a melody",
        )
        gerund = (f"{thing} playing", f"{thing} being played", f"someone playing {thing}")
        return Source(finite, gerund, sounds, self._pictures(name))

    def _genres(self) -> list[Source]:
        span = [index for index in self._span("pop music", "wedding music") if self._sound.weights[index] == 1]
        names = [self._sound.names[index] for index in span]
        stage = self._pictures("stage,electric guitar,loudspeaker")
        return [
            Source((f"{name} plays", f"{name} is playing"), (f"{name} playing",), (index,), stage)
            for name, index in zip(names, span, strict=True)
        ]

    def _others(self) -> list[Source]:
        skip = set(self._span("music", "scary music"))
        plain = [i for i, weight in enumerate(self._sound.weights) if weight == 1 and i not in skip]
        return [self._other(index) for index in plain]

    def _other(self, index: int) -> Source:
        name = self._sound.names[index]
        pictures = self._pictures(name)
        if name.endswith("ing"):
            return Source((f"{name} occurs", f"there is {name}"), (name,), (index,), pictures)
        thing = name if name.endswith("s") or name in _UNCOUNTED else _article(name)
        return Source((f"the sound of {thing}", f"{thing} can be heard"), (thing,), (index,), pictures)


_UNCOUNTED = (
    "speech",
    "laughter",
    "applause",
    "chatter",
    "traffic",
    "rain",
    "wind",
    "thunder",
    "fire",
    "steam",
    "static",
    "white noise",
    "pink noise",
    "wind noise",
    "crowd murmur",
    "gunfire",
    "artillery fire",
    "cutlery",
    "narration",
    "vibration",
    "electric hum",
)
"""Names without an article."""


def pictures_of(sound: Classes, picture: Classes, sources: Sources) -> list[tuple[int, ...]]:
    """For each sound class the picture classes that show it: of the sources that make it, or named alike."""
    found: list[dict[int, None]] = [{} for _ in sound.names]
    for source in (source for family in sources.families.values() for source in family):
        for index in source.sounds[:1]:
            found[index].update(dict.fromkeys(source.pictures))
    for index, name in enumerate(sound.names):
        found[index].update(dict.fromkeys(related(picture.names, name)))
    return [tuple(indices) for indices in found]


# --- scenes to posteriors --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """A class that sounds for a while: windows ``start`` to ``stop``, with the logit ``peak`` where it is clear."""

    sound: int
    start: int
    stop: int
    peak: float


@dataclass(frozen=True)
class Scene:
    """What is to be painted: events over a number of windows, and what is seen.

    Attributes:
        windows: number of windows.
        events: what sounds when.
        pictures: picture classes, one of which is shown; empty: there is no picture.
        clear: whether pictures are of what they are said to be of.
    """

    windows: int
    events: tuple[Event, ...]
    pictures: tuple[int, ...] = ()
    clear: bool = True


class Painter:
    """Posteriors of scenes, as noisy as real ones.

    Args:
        sound: the sound classes.
        alike: [C, C] `confusion` of the sound network.
        alike_pictures: [P, P] `confusion` of the picture network.
        slope: logits that a class is below the painted one per unit of cosine (measured on real sounds: about 19 near
            1, with a spread of 2 to 3).
    """

    def __init__(self, sound: Classes, alike: Floats, alike_pictures: Floats, slope: float = 19.0) -> None:
        self._alike, self._pictures, self._slope = alike, alike_pictures, slope
        self._above: list[list[int]] = [[] for _ in sound.names]
        self._below: list[list[int]] = [[] for _ in sound.names]
        for above, below in sound.links:
            self._above[below].append(above)
            self._below[above].append(below)

    def sounds(self, scene: Scene, rng: np.random.Generator) -> Floats:
        """[windows, C] posteriors of what is heard."""
        count = len(self._above)
        logits = rng.normal(-9.0, 1.0, (scene.windows, count))
        for event in scene.events:
            profile = self._profile(event, rng)
            active = np.arange(event.start, event.stop)
            level = self._envelope(len(active), rng)
            logits[active] = np.maximum(logits[active], profile + level[:, None])
        logits += rng.normal(0.0, 0.8, logits.shape)
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)

    @property
    def pictures(self) -> int:
        """Number of picture classes."""
        return len(self._pictures)

    def above(self, sound: int) -> Sequence[int]:
        """The classes that a class is a kind of."""
        return self._above[sound]

    def near(self, sound: int, rng: np.random.Generator) -> int:
        """A class that is easily taken for a class."""
        return int(rng.choice(np.argsort(-self._alike[sound])[1:10]))

    def below(self, sound: int) -> Sequence[int]:
        """The kinds of a class."""
        return self._below[sound]

    def _profile(self, event: Event, rng: np.random.Generator) -> NDArray[np.float64]:
        """[C] logits of everything that answers to an event: what sounds alike, what is more general, and errors."""
        alike = self._alike[event.sound]
        profile = event.peak - self._slope * (1 - alike) + rng.normal(0.0, 2.2, len(alike))
        profile[event.sound] = event.peak
        for above in self._above[event.sound]:
            profile[above] = max(profile[above], event.peak + rng.normal(-0.2, 1.8))
        if rng.random() < 0.5:
            near = np.argsort(-alike)[1:25]
            profile[rng.choice(near)] = event.peak - rng.exponential(1.5)
        return np.asarray(profile)

    @staticmethod
    def _envelope(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """[length] logits added over time: steady, or coming and going."""
        level = rng.normal(0.0, 0.8, length)
        if length > 2 and rng.random() < 0.5:
            period = int(rng.integers(2, 7))
            level[(np.arange(length) + int(rng.integers(period))) % period >= max(1, period // 2)] -= 6.0
        return level

    def seen(self, scene: Scene, frames: int, rng: np.random.Generator) -> Floats:
        """[frames, P] posteriors of what is seen: one still picture, or one that changes a little."""
        count = len(self._pictures)
        shown = int(rng.choice(scene.pictures))
        # Pictures of nothing that is known (badges, curves, scenes) look a little like many things.
        sharp = rng.uniform(5.0, 20.0) if scene.clear else rng.uniform(3.0, 12.0)
        logits = sharp * self._pictures[shown] + rng.normal(0.0, 1.0, count)
        if rng.random() < 0.25:  # a drawing, or a bad angle: something else may win
            logits[rng.choice(np.argsort(-self._pictures[shown])[:30])] += sharp * rng.uniform(0.2, 1.0)
            logits[int(rng.integers(count))] += sharp * rng.uniform(0.4, 1.2)
        jitter = 0.0 if rng.random() < 0.5 else rng.uniform(0.2, 1.5)
        moving = logits + jitter * rng.normal(0.0, 1.0, (frames, count))
        grown = np.exp(moving - moving.max(axis=1, keepdims=True))
        return np.asarray(grown / grown.sum(axis=1, keepdims=True), np.float32)


# --- captions to examples --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matched:
    """A caption whose clauses are matched to sound classes (one tuple per clause)."""

    caption: str
    clauses: tuple[Clause, ...]
    sounds: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Example:
    """What the decoder is trained on: posteriors of sound [T, C] and pictures [F, P], or None, and the caption."""

    caption: str
    sound: Floats | None
    picture: Floats | None


@dataclass(frozen=True)
class Chances:
    """How often what happens to a caption.

    Attributes:
        swap: a clause of it is replaced by one about another source.
        made: the whole caption is made of sources.
        told: the picture alone tells the source; the sound is vague (of those with a picture of the source).
        unrelated: the picture is of something else.
        blind: there is no picture.
        silent: there is no sound (of clips with one source, seen).
        noise: something else sounds that the caption leaves out.
        families: weights of the families of sources.
    """

    swap: float = 0.2
    made: float = 0.4
    told: float = 0.4
    unrelated: float = 0.3
    blind: float = 0.3
    silent: float = 0.1
    noise: float = 0.35
    families: Mapping[str, float] = field(
        default_factory=lambda: {"animals": 0.36, "instruments": 0.27, "machines": 0.24, "others": 0.08, "genres": 0.05}
    )


@dataclass(frozen=True)
class _Part:
    """What a clause stands for.

    Its classes, its step in time, pictures of it, whether only they tell it, and whether it is heard badly.
    """

    sounds: tuple[int, ...]
    step: int
    pictures: tuple[int, ...]
    unheard: bool = False
    faint: bool = False

    @classmethod
    def of(cls, source: Source, step: int) -> _Part:
        return cls(source.sounds, step, source.pictures, source.unheard)


class Simulator:
    """Draws training examples.

    Args:
        captions: matched captions.
        sources: what can stand in for a clause.
        painter: makes posteriors of scenes.
        pictures: for each sound class, the picture classes that show it.
        frames: pictures per clip.
        chances: how often what happens.
    """

    def __init__(
        self,
        captions: Sequence[Matched],
        sources: Sources,
        painter: Painter,
        pictures: Sequence[tuple[int, ...]],
        frames: int = 5,
        chances: Chances | None = None,
    ) -> None:
        self._captions, self._sources, self._painter = captions, sources, painter
        self._pictures, self._frames = pictures, frames
        sounding = {index for family in sources.families.values() for source in family for index in source.pictures}
        self._sounding = np.asarray(sorted(sounding))
        # The first 398 classes of ImageNet are animals.
        self._mute = np.asarray([index for index in range(398, painter.pictures) if index not in sounding])
        self._chances = chances or Chances()

    def __call__(self, rng: np.random.Generator) -> Example:
        """One example."""
        draw = rng.random()
        if draw < self._chances.made:
            caption, parts = self._made(rng)
        else:
            matched = self._captions[int(rng.integers(len(self._captions)))]
            caption, parts = self._said(matched, draw < self._chances.made + self._chances.swap, rng)
        return self.example(caption, parts, rng)

    def source(self, rng: np.random.Generator) -> Source:
        """A source of any family."""
        weights = np.asarray(list(self._chances.families.values()))
        family = list(self._chances.families)[int(rng.choice(len(weights), p=weights / weights.sum()))]
        choices = self._sources.families[family]
        return choices[int(rng.integers(len(choices)))]

    def _made(self, rng: np.random.Generator) -> tuple[str, list[_Part]]:
        first = self.source(rng)
        caption, parts = str(rng.choice(first.finite)), [_Part.of(first, 0)]
        if rng.random() < 0.35:
            second = self.source(rng)
            joint, form, step = _JOINTS[int(rng.integers(len(_JOINTS)))]
            ways = second.gerund if form == "gerund" else second.finite
            caption += joint + str(rng.choice(ways))
            parts.append(_Part.of(second, step))
        elif rng.random() < 0.3:
            caption += str(rng.choice(_ENDINGS))
        return _sentence(caption), parts

    def _said(self, matched: Matched, swap: bool, rng: np.random.Generator) -> tuple[str, list[_Part]]:
        parts = [
            _Part(sounds, clause.step, self._shown(sounds))
            for clause, sounds in zip(matched.clauses, matched.sounds, strict=True)
        ]
        if not swap:
            return _sentence(matched.caption), parts
        which = int(rng.integers(len(parts)))
        clause, source = matched.clauses[which], self.source(rng)
        words = str(rng.choice(source.gerund if clause.form == "gerund" else source.finite))
        parts[which] = _Part.of(source, clause.step)
        caption = matched.caption[: clause.start] + words + matched.caption[clause.end :]
        return _sentence(caption), parts

    def _shown(self, sounds: Sequence[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(index for sound in sounds[:2] for index in self._pictures[sound]))

    def example(self, caption: str, parts: Sequence[_Part], rng: np.random.Generator) -> Example:
        """Paints what a caption stands for, with or without a picture."""
        shown, told = self._show(parts, rng)
        if told is not None and not told.unheard and rng.random() < self._chances.told:
            parts = [self._vague(part, rng) if part is told else part for part in parts]
        scene = replace(self._scene(parts, rng), pictures=shown, clear=told is not None)
        picture = self._painter.seen(scene, self._frames, rng) if shown else None
        silent = told is not None and len(parts) == 1 and rng.random() < self._chances.silent
        return Example(caption, None if silent else self._painter.sounds(scene, rng), picture)

    def _show(self, parts: Sequence[_Part], rng: np.random.Generator) -> tuple[tuple[int, ...], _Part | None]:
        """The pictures to choose from, and the part that they tell, if any."""
        must = [part for part in parts if part.unheard and part.pictures]
        can = must or [part for part in parts if part.pictures]
        draw = rng.random()
        if not must and draw < self._chances.blind:
            return (), None
        if not must and (draw < self._chances.blind + self._chances.unrelated or not can):
            return (self._elsewhere(rng),), None
        told = can[int(rng.integers(len(can)))]
        return told.pictures, told

    def _vague(self, part: _Part, rng: np.random.Generator) -> _Part:
        """The same part, heard as something more general, as what is easily taken for it, or as any of its family."""
        if not part.sounds or not (above := self._painter.above(part.sounds[0])):
            return part
        draw = rng.random()
        if draw < 0.4:
            return replace(part, sounds=(int(rng.choice(above)),))
        if draw < 0.8:
            return replace(part, sounds=(self._painter.near(part.sounds[0], rng),), faint=True)
        return replace(part, sounds=(int(rng.choice(self._painter.below(above[0]))),), faint=True)

    def _elsewhere(self, rng: np.random.Generator) -> int:
        """A picture that has nothing to do with the sound: mostly of a thing that makes none."""
        draw = rng.random()
        if draw < 0.55:
            return int(rng.choice(self._mute))
        return int(rng.choice(self._sounding) if draw < 0.85 else rng.integers(self._painter.pictures))

    def _scene(self, parts: Sequence[_Part], rng: np.random.Generator) -> Scene:
        windows = WINDOWS if rng.random() < 0.6 else int(rng.integers(1, WINDOWS + 1))
        steps = sorted({part.step for part in parts})
        edges = _edges(windows, len(steps), rng)
        events: list[Event] = []
        for part in parts:
            place = steps.index(part.step)
            first, last = edges[place], max(edges[place + 1], edges[place] + 1)
            # Sounds often start before the ones that a caption tells first have ended.
            last = min(windows, last + int(rng.integers(0, 3)))
            events += _sounding(part.sounds, first, last, 0.2 if part.faint else 1.7, rng)
        if rng.random() < self._chances.noise:
            # Speech (class 0) is what a tagger hears most readily where there is none.
            sound = 0 if rng.random() < 0.25 else int(rng.integers(len(self._pictures)))
            first = int(rng.integers(windows))
            events.append(Event(sound, first, int(rng.integers(first, windows)) + 1, float(rng.normal(-1.8, 1.2))))
        return Scene(windows, tuple(events))


_JOINTS: tuple[tuple[str, Form, int], ...] = (
    (" followed by ", "gerund", 1),
    (" and then ", "finite", 1),
    (", then ", "finite", 1),
    (" as ", "finite", 0),
    (" while ", "finite", 0),
    (" and ", "finite", 0),
    (" with ", "gerund", 0),
)
_ENDINGS = (
    " nearby",
    " in the distance",
    " loudly",
    " repeatedly",
    " several times",
    " in the background",
    " and then stops",
)


def _sentence(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip().rstrip(".")
    return text[:1].upper() + text[1:]


def _edges(windows: int, steps: int, rng: np.random.Generator) -> list[int]:
    """Where steps in time begin and end: ``steps + 1`` windows from 0 up, every step at least one long if it fits."""
    if steps > windows:
        return [min(step, windows - 1) for step in range(steps)] + [windows]
    cuts = np.sort(rng.choice(np.arange(1, windows), steps - 1, replace=False)) if steps > 1 else np.empty(0, int)
    return [0, *(int(cut) for cut in cuts), windows]


def _sounding(sounds: Sequence[int], first: int, last: int, peak: float, rng: np.random.Generator) -> list[Event]:
    """Events of a clause's classes inside a stretch of windows; the first is as clear as told, others may be."""
    events = []
    length = last - first
    for rank, sound in enumerate(sounds):
        if rank and rng.random() < 0.45:
            continue
        start = first + int(rng.integers(0, length // 3 + 1))
        stop = max(start + 1, last - int(rng.integers(0, length // 3 + 1)))
        height = float(np.clip(rng.normal(peak, 1.8), -2.5, 5.0)) - rank * rng.uniform(0.0, 2.0)
        events.append(Event(sound, start, stop, height))
    return events
