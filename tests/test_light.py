"""Listing, checking and explaining never import torch; neither does importing the package or a plugin's descriptors."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from toys import TOY_SPEC

HEAVY = ("torch", "transformers", "peft", "timm", "ot", "accelerate", "onnx", "scipy")


def loaded_after(code, path=""):
    program = f"import sys\nsys.path[:0] = [{path!r}]\n{code}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


MODULES = sorted(
    {
        point.value.partition(":")[0]
        for group in (
            "audio_encoder",
            "visual_encoder",
            "transport",
            "aligner",
            "fuser",
            "decoder",
            "weights",
            "metric",
            "command",
        )
        for point in entry_points(group=f"lavcap.{group}")
    }
)


@pytest.mark.parametrize("module", ["lavcap_core", *MODULES])
def test_importing_is_light(module):
    assert loaded_after(f"import {module}") == "[]"


VERBS = [
    ["--help"],
    ["plugins", "list", "--known"],
    ["plugins", "doctor"],
    ["plugins", "info", "sinkhorn"],
    ["explain"],
    ["check", "lavcap"],
    ["show", "lavcap"],
    ["schema"],
    ["init", "--list"],
    ["data", "check", "--help"],
    ["evaluate", "--help"],
    ["sweep", "table3", "--dry-run"],
]


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_verb_is_light(words):
    code = f"from lavcap_core.cli import main\ntry:\n    main({words!r})\nexcept SystemExit:\n    pass"
    assert loaded_after(code) == "[]"


def test_listing_imports_no_plugin(site):
    site.add("lavcap-bad", {"lavcap.fuser": {"bad": "lavcap_bad:bad"}}, {"lavcap_bad.py": "raise SystemExit(3)"})
    done = site.run("plugins", "list", check=True)
    assert "lavcap-bad 1.0" in done.stdout


def test_checking_a_spec_is_light(toy, tmp_path):
    (tmp_path / "s.yaml").write_text(TOY_SPEC)
    code = f"from lavcap_core.spec import read\nread({str(tmp_path / 's.yaml')!r})"
    assert loaded_after(code, str(toy.folder)) == "[]"
