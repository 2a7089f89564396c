"""FENSE and SPIDEr-FL: the published scores from published parts, and real, tiny models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lavcap_core.builder import build
from lavcap_core.errors import BuildError
from lavcap_metrics import fense, spider
from lavcap_metrics.plugin import FenseConfig

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a dog barks man speaks while rain falls on roof and"
CAPTIONS = ["a dog barks", "man speaks while rain falls on a roof", " a man ", "and", ""]
REFERENCES = [["a dog", "dog barks and barks"], ["rain falls"], ["a man", "man speaks", "dog"], ["roof"], ["a"]]


def test_scores_of_published_parts_are_the_published_ones(published, tmp_path, monkeypatch):
    corpus, clips = published["corpus"], published["clips"]
    monkeypatch.setattr(fense, "similarities", lambda *arguments: np.array(clips["SBERT"]))
    monkeypatch.setattr(fense, "errors", lambda *arguments: np.array(clips["error"]))
    monkeypatch.setattr(spider, "spice", lambda *arguments: (corpus["SPICE"], clips["SPICE"]))
    texts, folder = (published["candidates"], published["references"]), str(tmp_path)
    score = build("metric", "fense", model=folder, errors=folder)(*texts)
    assert score.corpus["FENSE"] == pytest.approx(corpus["FENSE"], abs=1e-6)  # published in single precision
    assert score.clips["FENSE"] == pytest.approx(clips["FENSE"], abs=1e-6)
    score = build("metric", "spider_fl", errors=folder, tokeniser="none")(*texts)
    assert score.corpus["SPIDEr-FL"] == pytest.approx(corpus["SPIDEr-FL"], abs=1e-9)
    assert score.clips["SPIDEr-FL"] == pytest.approx(clips["SPIDEr-FL"], abs=1e-9)
    score = build("metric", "fense", model=folder)(*texts)
    assert score.corpus["SBERT"] == pytest.approx(corpus["SBERT"], abs=1e-6)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of an encoder and a classifier with random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    (folder / "vocab.txt").write_text(WORDS.replace(" ", "\n"))
    tokenizer = transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(3)
    settings = transformers.BertConfig(vocab_size=16, initializer_range=1.0, num_labels=6, **sizes)
    for name, kind in (("encoder", "BertModel"), ("errors", "BertForSequenceClassification")):
        getattr(transformers, kind)(settings).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def vector(models, text, longest=None):
    """The mean of a text's tokens, without a batch, a mask or padding."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(models / "encoder")
    model = transformers.AutoModel.from_pretrained(models / "encoder").eval()
    with torch.inference_mode():
        inputs = tokenizer(text, return_tensors="pt", truncation=longest is not None, max_length=longest)
        mean = model(**inputs).last_hidden_state[0].mean(0).double().numpy()
    return mean / np.linalg.norm(mean)


def test_similarity_is_the_mean_cosine_of_mean_tokens(models):
    metric = build("metric", "fense", model=str(models / "encoder"), batch_size=3)
    score = metric(CAPTIONS, REFERENCES)
    told = [[vector(models, c) @ vector(models, r) for r in refs] for c, refs in zip(CAPTIONS, REFERENCES, strict=True)]
    assert score.clips["SBERT"] == pytest.approx([np.mean(values) for values in told], abs=1e-5)
    assert score.corpus["SBERT"] == pytest.approx(np.mean(score.clips["SBERT"]))
    assert score.facts["model"].startswith("encoder ")
    assert np.std(score.clips["SBERT"]) > 0.01  # the model does tell sentences apart


@pytest.fixture
def laid_out(models, tmp_path):
    """The encoder in the folders of sentence-transformers."""
    folder = tmp_path / "sentences"
    folder.mkdir()
    (folder / "0_Transformer").symlink_to(models / "encoder")
    (folder / "1_Pooling").mkdir()
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    parts = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    return folder


def test_the_layout_of_sentence_transformers(models, laid_out):
    alone = build("metric", "fense", model=str(models / "encoder"))(CAPTIONS, REFERENCES)
    score = build("metric", "fense", model=str(laid_out))(CAPTIONS, REFERENCES)
    assert score.clips == alone.clips


def test_texts_are_cut_where_the_model_says(models, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(models / "encoder", folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    (folder / "modules.json").write_text('[{"path": "", "type": "sentence_transformers.models.Transformer"}]')
    score = build("metric", "fense", model=str(folder))(["a dog barks"], [["a man speaks"]])
    expected = vector(models, "a dog barks", 4) @ vector(models, "a man speaks", 4)
    assert score.clips["SBERT"] == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'),
        ("modules.json", '[{"path": "", "type": "sentence_transformers.models.Dense"}]'),
        ("modules.json", "{"),
    ],
    ids=["first token", "another part", "no JSON"],
)
def test_other_sentence_models_are_refused(laid_out, file, content):
    (laid_out / file).write_text(content)
    with pytest.raises(BuildError) as error:
        build("metric", "fense", model=str(laid_out))(CAPTIONS, REFERENCES)
    assert error.value.code == "E051"


def test_captions_with_errors_lose_nine_tenths(models):
    import torch
    import transformers

    config = FenseConfig(errors=str(models / "errors"), batch_size=2)
    found = fense.errors(models / "errors", CAPTIONS, config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(models / "errors")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(models / "errors").eval()
    with torch.inference_mode():
        alone = [float(model(**tokenizer(text, return_tensors="pt")).logits[0, -1].sigmoid()) for text in CAPTIONS]
    assert found == pytest.approx(alone, abs=1e-5)
    shouted = [f'"{text.upper()}!"' for text in CAPTIONS]  # case and punctuation are nothing to it
    assert fense.errors(models / "errors", shouted, config) == pytest.approx(alone, abs=1e-5)
    middle = float(np.median(found))
    settings = {"model": str(models / "encoder"), "threshold": middle}
    score = build("metric", "fense", errors=str(models / "errors"), **settings)(CAPTIONS, REFERENCES)
    similar = build("metric", "fense", **settings)(CAPTIONS, REFERENCES)
    factors = np.where(found > middle, 0.1, 1.0)
    assert sorted(factors) == pytest.approx([0.1, 0.1, 1, 1, 1])
    assert score.clips["FENSE"] == pytest.approx(factors * similar.clips["SBERT"])
    assert score.facts["penalty"].startswith("0.9 above ")


@pytest.mark.parametrize(("name", "key"), [("fense", "model"), ("spider_fl", "errors")])
def test_without_a_model_it_is_unavailable(name, key, tmp_path):
    with pytest.raises(BuildError) as error:
        build("metric", name)(["a"], [["b"]])
    assert (error.value.code, f"set {key}: FOLDER" in str(error.value)) == ("E050", True)
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(BuildError) as error:
            build("metric", name, **{key: str(folder)})(["a"], [["b"]])
        assert error.value.code == "E051"


def test_without_torch_it_says_so(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from lavcap_core.builder import build\n"
        f"build('metric', 'fense', model={str(tmp_path)!r})(['a'], [['b']])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "B001 sentence models can't be run" in done.stderr
    assert "pip install 'lavcap-metrics[fense]'" in done.stderr
