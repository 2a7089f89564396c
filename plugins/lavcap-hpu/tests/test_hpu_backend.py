import subprocess
import sys
from itertools import pairwise

import pytest
from pydantic import ValidationError

from lavcap_core.cli import main
from lavcap_core.errors import BuildError
from lavcap_core.spec import read_text
from lavcap_hpu import habana
from lavcap_hpu.backend import padded
from lavcap_hpu.plugin import BUCKETS, HpuConfig

SPEC = """\
lavcap: 1
audio_encoder: {use: ced, size: tiny, seed: 0}
fuser: audio_only
decoder: {use: llama, model: m}
backend: {use: hpu}
"""


@pytest.mark.parametrize("buckets", [(3, 2), (2, 2), (0, 4), (-1,)])
def test_buckets_rise(buckets):
    with pytest.raises(ValidationError, match="not rising lengths above 0"):
        HpuConfig(buckets=buckets)


def test_graphs_need_lazy_mode():
    with pytest.raises(ValidationError, match="graphs: true needs mode: lazy"):
        HpuConfig(graphs=True, mode="eager")


def test_padded_lengths():
    assert [padded(length, (4, 6)) for length in (1, 4, 5, 6, 7, 12, 13)] == [4, 4, 6, 6, 12, 12, 18]
    assert max(larger / smaller for smaller, larger in pairwise(BUCKETS)) == 1.5
    assert {padded(length, BUCKETS) for length in range(1, 6000)} == set(BUCKETS)


# --- where Habana's software is not installed -------------------------------------------------------------------------


def test_a_spec_checks():
    spec = read_text(SPEC)
    assert spec.pipeline.backend.name == "hpu"
    assert spec.pipeline.backend.config.dtype == "auto"


def test_listing_says_what_is_missing(capsys):
    assert main(["plugins", "list", "--kind", "backend"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if " hpu " in line)
    assert row.endswith(" needs habana_frameworks")


def test_running_says_in_one_line_what_is_missing(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(SPEC)
    (tmp_path / "a.wav").touch()
    for words in (
        ["caption", "--spec", str(tmp_path / "s.yaml"), str(tmp_path / "a.wav")],
        ["train", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "run")],
        ["plugins", "doctor", "lavcap-hpu", "--hardware"],
    ):
        assert main(words) == 2
        message, help = capsys.readouterr().err.splitlines()
        assert message == "B001 backend 'hpu' can't be built: it needs habana_frameworks"
        assert "Gaudi's PyTorch images" in help
    assert not (tmp_path / "run").exists()


def test_loading_says_what_is_missing():
    with pytest.raises(BuildError, match="B110 backend 'hpu' needs habana_frameworks, which is not installed"):
        habana.load()


def test_the_descriptor_imports_neither_torch_nor_habana():
    code = "import sys, lavcap_hpu.plugin; print({'torch', 'habana_frameworks', 'accelerate'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
