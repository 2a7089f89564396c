"""What the metrics find on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

from lavcap_core.errors import LavcapError

__all__ = ["report"]


def report() -> Iterator[tuple[str, bool, str]]:
    """What is looked at, whether it is fine, and what was found; what is missing comes with what to do."""
    for name, check in _CHECKS.items():
        try:
            yield name, True, check()
        except LavcapError as error:
            problem = error.problems[0]
            yield name, False, f"{problem.message}\n{problem.help}" if problem.help else problem.message


def _java() -> str:
    from lavcap_metrics import java

    found = java.find()
    return f"{found.version}, from {found.source}: {found.program}"


def _tokeniser() -> str:
    from lavcap_metrics import tokens

    words = tokens.tokenise(["It's a dog's bark, isn't it?"])[0]
    return f"PTBTokenizer of {tokens.jar().name}: “{words}”"


def _meteor() -> str:
    from lavcap_metrics.meteor import Meteor, jar
    from lavcap_metrics.plugin import MeteorConfig

    score = Meteor(MeteorConfig(tokeniser="none"))(["a dog barks"], [["a dog is barking"]])
    return f"{jar().name} scores “a dog barks” against “a dog is barking” with {score.corpus['METEOR']:.3f}"


def _spice() -> str:
    from lavcap_metrics import corenlp, java
    from lavcap_metrics.spice import NEWEST, OLDEST

    jars, found = corenlp.find(), java.oldest_fitting(OLDEST, NEWEST)
    rows = corenlp.installed().values() if jars[0].parent == corenlp.folder() else []
    checked = {row.checked for row in rows} or {"what it must hold only"}
    lines = [f"jars in {jars[0].parent}", f"Java {found.version}, from {found.source}: {found.program}"]
    return "\n".join([*lines, *(f"compared with: {text}" for text in sorted(checked))])


def _sentences() -> str:
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise LavcapError("B001", f"{' and '.join(missing)} not installed", help="pip install 'lavcap-metrics[fense]'")
    return "torch and transformers are installed; models are named in the settings of fense and spider_fl"


_CHECKS: dict[str, Callable[[], str]] = {
    "Java": _java,
    "tokeniser": _tokeniser,
    "METEOR": _meteor,
    "SPICE": _spice,
    "sentence models": _sentences,
}
