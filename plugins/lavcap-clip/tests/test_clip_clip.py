import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from lavcap_clip.clip import MEAN, STD, ClipEncoder, build
from lavcap_clip.plugin import ClipConfig
from lavcap_core.component import Port, Tune
from lavcap_core.data import Padded, collate
from lavcap_core.errors import BuildError, MediaError, WeightsError
from lavcap_core.interfaces import VisualEncoder
from lavcap_core.media import Clip
from lavcap_core.tuning import trained_state

Make = Callable[..., ClipEncoder]
SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "projection_dim": 12,
}  # fmt: skip


@dataclass
class Place:
    """What a factory gets, without a pipeline."""

    inputs: Mapping[str, Port] = field(default_factory=dict)

    def build(self, use: Any, inputs: Any = None) -> Any:
        raise AssertionError("the encoder holds no components")

    def locate(self, model: str) -> str:
        return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP image encoder, as transformers saves it."""
    place = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, initializer_range=0.3)).save_pretrained(place)
    return place


@pytest.fixture
def make(folder: Path) -> Make:
    return lambda **settings: build(ClipConfig(model=str(folder), **settings), Place())


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return CLIPVisionModelWithProjection.from_pretrained(folder).eval()


def clip(count: int, size: int = 32, seed: int = 0) -> Clip:
    frames = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Clip(None, None, frames)


def pixels(clip: Clip) -> torch.Tensor:
    """What CLIP's published preprocessing makes of frames of the right size."""
    mean, std = np.array(MEAN, dtype=np.float32), np.array(STD, dtype=np.float32)
    return torch.from_numpy(((clip.frames.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))


def encode(encoder: ClipEncoder, *clips: Clip | None) -> Any:
    batch = collate([None if one is None else encoder.prepare(one) for one in clips])
    assert batch is not None
    with torch.no_grad():
        return encoder(batch)


def test_it_is_a_visual_encoder(make: Make) -> None:
    encoder = make(frames=7)
    assert isinstance(encoder, VisualEncoder)
    assert (encoder.width, encoder.frames, encoder.image_size) == (12, 7, 32)


def test_one_projected_embedding_per_frame(make: Make, reference: Any) -> None:
    tokens = encode(make(batch=2), clip(5), None, clip(3, seed=1))
    with torch.no_grad():
        expected = [reference(pixels(one)).image_embeds for one in (clip(5), clip(3, seed=1))]
    assert tokens.mask.sum(dim=1).tolist() == [5, 0, 3]
    torch.testing.assert_close(tokens.data[0], expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens.data[2, :3], expected[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens.times[2, :3], torch.tensor([1 / 6, 3 / 6, 5 / 6]))


@pytest.mark.parametrize("layer", [-1, -2, 0, 2])
def test_patches_of_a_layer(make: Make, reference: Any, layer: int) -> None:
    encoder = make(output="patches", pool="none", layer=layer)
    tokens = encode(encoder, clip(2))
    with torch.no_grad():
        states = reference.vision_model(pixels(clip(2)), output_hidden_states=True).hidden_states
    assert tokens.data.shape == (1, 2 * 16, 16)
    assert encoder.width == 16
    torch.testing.assert_close(tokens.data[0], states[layer][:, 1:].flatten(0, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokens.times[0], torch.tensor([0.25] * 16 + [0.75] * 16))


def test_pooled_patches(make: Make) -> None:
    every = encode(make(output="patches", pool="none"), clip(2)).data.view(2, 4, 4, 16)
    mean = encode(make(output="patches"), clip(2)).data[0]
    torch.testing.assert_close(mean, every.mean(dim=(1, 2)))
    grid = encode(make(output="patches", pool="grid", grid=2), clip(2)).data.view(2, 4, 16)
    torch.testing.assert_close(grid[:, 1], every[:, :2, 2:].mean(dim=(1, 2)))  # top right
    torch.testing.assert_close(grid[:, 2], every[:, 2:, :2].mean(dim=(1, 2)))  # bottom left


def test_frames_of_another_size_are_resized(make: Make) -> None:
    encoder = make()
    assert encoder.prepare(clip(2, size=48)).shape == (2, 3, 32, 32)
    plain = Clip(None, None, np.full((1, 50, 50, 3), 90, dtype=np.uint8))
    same = Clip(None, None, np.full((1, 32, 32, 3), 90, dtype=np.uint8))
    torch.testing.assert_close(encode(encoder, plain).data, encode(encoder, same).data)


def test_a_clip_without_frames_is_an_error_and_a_batch_without_is_not(make: Make) -> None:
    encoder = make()
    with pytest.raises(MediaError) as caught:
        encoder.prepare(Clip("song.wav", None, None))
    assert caught.value.code == "M070"
    empty = encoder(Padded(torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 0])))
    assert empty.data.shape == (2, 3, 12)
    assert not empty.mask.any()
    assert not empty.data.any()


def test_own_mean_and_deviation_come_with_the_model(folder: Path, tmp_path: Path, make: Make) -> None:
    model = CLIPVisionModelWithProjection.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    encoder = build(ClipConfig(model=str(tmp_path)), Place())
    expected = model((torch.from_numpy(clip(1).frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25).image_embeds
    torch.testing.assert_close(encode(encoder, clip(1)).data[0], expected.detach(), rtol=1e-4, atol=1e-4)
    assert (make().mean, make().std) == (MEAN, STD)


def test_the_image_half_of_a_whole_clip_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=SIZES, projection_dim=12)).eval()
    whole.save_pretrained(tmp_path)
    tokens = encode(build(ClipConfig(model=str(tmp_path)), Place()), clip(2))
    with torch.no_grad():
        seen = whole.vision_model(pixels(clip(2))).pooler_output
        torch.testing.assert_close(tokens.data[0], whole.visual_projection(seen), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "mode", "count"),
    [({}, "freeze", 0), ({}, "lora", 3 * 4), ({"output": "patches", "layer": -2}, "lora", 2 * 4)],
)
def test_what_is_trained(make: Make, settings: dict[str, Any], mode: str, count: int) -> None:
    encoder = make(tune=Tune(mode=mode, rank=2), **settings)
    assert len(trained_state(encoder)) == count
    assert not encoder.train().model.vision_model.encoder.layers[0].training


@pytest.mark.parametrize("settings", [{}, {"output": "patches"}, {"output": "patches", "layer": 1, "pool": "grid"}])
def test_finetuning_trains_what_is_used_and_nothing_else(make: Make, settings: dict[str, Any]) -> None:
    encoder = make(tune=Tune(mode="finetune"), **settings)
    batch = collate([encoder.prepare(clip(2))])
    assert batch is not None
    encoder(batch).data.square().sum().backward()
    assert {n for n, p in encoder.named_parameters() if p.requires_grad} == {
        n for n, p in encoder.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"layer": 4}, "a layer from -4 to 3"), ({"layer": -5}, "-4 to 3"), ({"pool": "grid", "grid": 5}, "at most 4")],
)
def test_layers_and_grids_that_are_not_there(make: Make, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BuildError, match=said) as caught:
        make(output="patches", **settings)
    assert caught.value.code == "B070"


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "/no/such/folder"])
def test_a_place_that_is_not_there(name: str) -> None:
    with pytest.raises(WeightsError) as caught:
        build(ClipConfig(model=name), Place())
    assert caught.value.code == "W070"


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        build(ClipConfig(model=str(tmp_path)), Place())
    assert caught.value.code == "W070"


def test_a_hub_that_cannot_be_reached_says_which_files_go_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        build(ClipConfig(model="nobody/no-such-model"), Place())
    assert caught.value.code == "W071"
    assert "preprocessor_config.json" in str(caught.value.problems[0].help)


def test_broken_and_incomplete_weights_are_errors(folder: Path, tmp_path: Path) -> None:
    CLIPVisionModelWithProjection.from_pretrained(folder).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "visual_projection" not in name},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(WeightsError, match="lacks weights: visual_projection") as caught:
        build(ClipConfig(model=str(tmp_path)), Place())
    assert caught.value.code == "W072"
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(WeightsError, match="can't be read") as caught:
        build(ClipConfig(model=str(tmp_path)), Place())
    assert caught.value.code == "W072"
