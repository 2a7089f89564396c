"""The conformance kit: what every component of a kind must hold, for authors of plugins.

In a plugin's tests::

    from lavcap_core.testing.checks import from_component, parametrize_with_checks
    from lavcap_gate.plugin import mean_add

    @parametrize_with_checks("fuser", from_component(mean_add))
    def test_conformance(check):
        check()

Each check is one test with its own name. A component that can't hold one says so, with the reason::

    @parametrize_with_checks("fuser", make, expected={"check_times_in_clip": "times are relative here"})

and such a check must then fail, so that the reason doesn't outlive the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lavcap_core.testing import aligners, backends, decoders, encoders, fusers, transports
from lavcap_core.testing.samples import Make, TestContext, from_component

if TYPE_CHECKING:
    import pytest

__all__ = ["Check", "Make", "Result", "TestContext", "checks_for", "from_component", "parametrize_with_checks", "run"]

_CHECKS: Mapping[str, tuple[Callable[[Make], None], ...]] = {
    "aligner": aligners.CHECKS,
    "audio_encoder": encoders.AUDIO_CHECKS,
    "backend": backends.CHECKS,
    "decoder": decoders.CHECKS,
    "fuser": fusers.CHECKS,
    "transport": transports.CHECKS,
    "visual_encoder": encoders.VISUAL_CHECKS,
}


@dataclass(frozen=True)
class Check:
    """One thing that every component of a kind must hold.

    Attributes:
        kind: kind of the component, such as ``fuser``.
        function: takes a `Make`; raises AssertionError where the component doesn't hold it.
    """

    kind: str
    function: Callable[[Make], None]

    @property
    def name(self) -> str:
        """Name of the check, such as ``check_padding_invariance``."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """What must hold, in a sentence."""
        return (self.function.__doc__ or "").strip()

    def __call__(self, make: Make) -> None:
        """Runs the check.

        Raises:
            AssertionError: if what ``make`` builds doesn't hold it.
            RuntimeError: under ``python -O``, where assertions are left out and everything would seem to hold.
        """
        if not __debug__:
            raise RuntimeError("the conformance kit needs assertions: run Python without -O")
        self.function(make)


@dataclass(frozen=True)
class Result:
    """What a check found: ``error`` is what it raised, or None if the component holds it."""

    check: Check
    error: Exception | None


def checks_for(kind: str) -> tuple[Check, ...]:
    """All checks of a kind of component.

    Raises:
        ValueError: if the kit has none for that kind.
    """
    if kind not in _CHECKS:
        raise ValueError(f"no checks for {kind!r}: the kit knows {', '.join(sorted(_CHECKS))}")
    return tuple(Check(kind, function) for function in _CHECKS[kind])


def run(kind: str, make: Make) -> list[Result]:
    """Runs all checks of a kind, without pytest; what one raises is its result and doesn't stop the others."""
    results = []
    for check in checks_for(kind):
        try:
            check(make)
        except Exception as error:  # a broken component may raise anything, and the next check is still of interest
            results.append(Result(check, error))
        else:
            results.append(Result(check, None))
    return results


def parametrize_with_checks(
    kind: str, make: Make, *, expected: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """A pytest decorator that turns all checks of a kind into tests of a function with the argument ``check``.

    Args:
        kind: kind of the component.
        make: builds a fresh component for given inputs; see `from_component`.
        expected: checks that must fail, by name, with the reason.

    Raises:
        ValueError: if there are no checks for the kind, or none of a name in ``expected``.
    """
    import pytest

    expected = dict(expected or {})
    checks = checks_for(kind)
    if unknown := expected.keys() - {check.name for check in checks}:
        raise ValueError(f"no checks of {kind} named {', '.join(sorted(unknown))}")

    def marks(name: str) -> list[pytest.MarkDecorator]:
        return [pytest.mark.xfail(reason=expected[name], strict=True)] if name in expected else []

    cases = [pytest.param(partial(check, make), id=check.name, marks=marks(check.name)) for check in checks]
    return pytest.mark.parametrize("check", cases)
