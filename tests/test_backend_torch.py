import os
import subprocess
import sys

import pytest
import together
import torch
from together import make, torchrun
from torch import nn

from lavcap_core.backends import fsdp
from lavcap_core.backends.torch import TorchBackend
from lavcap_core.errors import BuildError, RunError
from lavcap_core.interfaces import Backend


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process found, and what each of two did."""
    folder = tmp_path_factory.mktemp("found")
    one = {
        "alike": together.alike(make),
        "spread": together.spread(make),
        **{dtype: together.precise(make, dtype) for dtype in ("float16", "bfloat16")},
    }
    torch.save(one["spread"]["kept"], folder / "1-0.pt")
    done = torchrun(together.__file__, folder)
    assert done.returncode == 0, done.stderr
    assert "destroy_process_group" not in done.stderr
    assert "Warning" not in done.stderr
    return one, *(torch.load(folder / f"2-{index}.pt", weights_only=True) for index in range(2))


def assert_steps_equal(one, other, atol=1e-6):
    for left, right in zip(one, other, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
        assert left["norm"] == pytest.approx(right["norm"], rel=1e-5)
        assert left["gradients"].keys() == right["gradients"].keys()
        for name, gradient in left["gradients"].items():
            torch.testing.assert_close(gradient, right["gradients"][name], atol=atol, rtol=0, msg=name)


def assert_equal(one, other, atol=0.0):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=atol, rtol=0, msg=name)


def test_it_is_a_backend():
    assert isinstance(TorchBackend("cpu"), Backend)


# --- several processes ------------------------------------------------------------------------------------------------


def test_numbers_are_summed_and_lists_joined(found):
    for process in found[1:]:
        assert process["alike"]["sums"].tolist() == [3, 20]
        assert process["alike"]["joined"] == ["0.0", "0.1", "1.0", "1.1", "1.2"]


def test_gradients_of_two_processes_are_those_of_one_with_all_clips(found):
    one, *two = found
    for process in two:
        # In later steps rounding has been through AdamW's division.
        assert_steps_equal(one["alike"]["steps"][:1], process["alike"]["steps"][:1])
        assert_steps_equal(one["alike"]["steps"], process["alike"]["steps"], atol=1e-4)
    assert_equal(two[0]["alike"]["trained"], two[1]["alike"]["trained"])
    assert any(step["norm"] > 0.1 for step in one["alike"]["steps"])  # so that clipping is in it


def test_what_no_clip_reaches_gets_no_gradient_and_what_one_reaches_gets_it_everywhere(found):
    for process in found:
        for step in process["alike"]["steps"]:
            assert "never.weight" not in step["gradients"]
            assert step["gradients"]["rare.weight"].abs().sum() > 0
        assert "never.weight" not in process["alike"]["state"]["state"]
        assert "frozen.weight" not in process["alike"]["trained"]


def test_statistics_are_the_mean_of_all_processes(found):
    _, *two = found
    assert_equal(two[0]["statistics"], two[1]["statistics"])
    rows, _ = together.data()
    means = []
    for part in rows.tensor_split(2):
        mean = torch.zeros(4)
        for half in [*part.tensor_split(2)] * 2:
            mean = 0.5 * mean + 0.5 * half.mean(0)
        means.append(mean)
    assert not torch.allclose(means[0], means[1], atol=0.1)
    # After the first step both went on from the mean of both.
    torch.testing.assert_close(two[0]["statistics"]["norm.running_mean"], _mean_of_two(rows), atol=1e-6, rtol=0)
    assert two[0]["statistics"]["norm.num_batches_tracked"] == 4
    assert not two[0]["statistics"]["frozen.running_mean"].any()


def _mean_of_two(rows):
    mean = torch.zeros(4)
    for _ in range(2):
        ends = []
        for part in rows.tensor_split(2):
            end = mean
            for half in part.tensor_split(2):
                end = 0.5 * end + 0.5 * half.mean(0)
            ends.append(end)
        mean = (ends[0] + ends[1]) / 2
    return mean


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_is_the_same_on_two_processes(found, dtype):
    one, *two = found
    assert_equal(two[0][dtype]["trained"], two[1][dtype]["trained"])
    first, both = one[dtype]["first"][0], two[0][dtype]["first"][0]
    assert both["norm"] == pytest.approx(first["norm"], rel=2e-2)
    exact = 0.1 * one["alike"]["steps"][0]["norm"]
    assert first["norm"] == pytest.approx(exact, rel=3e-2)  # the scale is not in it
    assert first["norm"] != exact


def test_float16_lowers_the_scale_and_skips_a_step_whose_gradients_overflow(found):
    for process in found:
        half = process["float16"]
        assert all(step["norm"] == step["norm"] < float("inf") for step in half["first"])
        assert not torch.isfinite(torch.tensor(half["wild"][0]["norm"]))
        assert half["kept"]
        assert half["scale"] == 65536 / 2
        assert all(torch.isfinite(value).all() for value in half["trained"].values())
        assert not process["bfloat16"]["kept"]
        assert process["bfloat16"]["scale"] is None


def test_the_scale_is_kept(found):
    backend, model, optimiser = together.start(make, together.Net, 1, dtype="float16")
    together.steps(backend, model, optimiser, 1, factor=1e6)
    state = backend.optimiser_state(model, optimiser)
    backend, model, optimiser = together.start(make, together.Net, 1, dtype="float16")
    backend.load_optimiser(model, optimiser, state)
    together.steps(backend, model, optimiser, 1)
    assert backend.optimiser_state(model, optimiser)["scaler"]["scale"] == 65536 / 2


def test_only_float16_is_scaled():
    assert [TorchBackend("cpu", dtype).scaled for dtype in ("float32", "bfloat16", "float16")] == [False, False, True]


def test_weights_in_float16_are_not_trained():
    with pytest.raises(BuildError, match=r"B066 weight is trained, but stored in float16"):
        TorchBackend("cpu").wrap(nn.Linear(2, 2).half())
    TorchBackend("cpu").wrap(nn.Linear(2, 2).half().requires_grad_(False))


# --- shards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [1, 2])
def test_a_model_in_shards_learns_as_a_whole_one_does(found, index):
    one, process = found[0]["spread"], found[index]["spread"]
    assert_steps_equal(one["steps"][:1], process["steps"][:1])
    assert_steps_equal(one["steps"], process["steps"], atol=1e-4)
    torch.testing.assert_close(process["out"], one["out"], atol=1e-4, rtol=0)


def test_checkpoints_of_shards_are_whole_on_process_0(found):
    one, first, second = (process["spread"] for process in found)
    assert_equal(first["trained"], one["trained"], atol=1e-4)
    assert first["kept"]["state"]["state"].keys() == one["kept"]["state"]["state"].keys()
    for name, moments in one["kept"]["state"]["state"].items():
        assert_equal(first["kept"]["state"]["state"][name], moments, atol=1e-4)
    assert not any("decoder" in name for name in second["trained"])


def test_each_process_holds_its_part_of_the_decoder_only(found):
    for index in (1, 2):
        sizes = found[index]["spread"]["sizes"]
        assert {size for name, size in sizes.items() if name.startswith("encoder")} == {1.0}
        split = {name: size for name, size in sizes.items() if name.startswith("decoder")}
        assert {size for name, size in split.items() if "down" not in name} == {0.5}  # of the words and the head too
        assert {size for name, size in split.items() if "down" in name} == {2 / 3 if index == 1 else 1 / 3}
        assert found[index]["spread"]["kinds"] == found[0]["spread"]["kinds"]


@pytest.mark.parametrize("kind", ["resumed", "copied"])
def test_a_run_goes_on_with_other_processes_in_shards_or_not(found, kind):
    """One process began it; two go on."""
    one = found[0]["spread"]
    for process in found[1:]:
        assert_steps_equal(one["steps"][2:3], process[kind]["steps"][:1], atol=1e-6)
    assert_equal(found[1][kind]["trained"], one["trained"], atol=1e-4)


def test_shards_in_float16(found):
    first, second = found[1]["spread16"], found[2]["spread16"]
    assert [step["norm"] for step in first["steps"]] == [step["norm"] for step in second["steps"]]
    exact = found[0]["spread"]["steps"][0]["norm"]
    assert first["steps"][0]["norm"] == pytest.approx(exact, rel=3e-2)


def test_what_cannot_be_spread_is_said(found):
    assert found[1]["refused"] == ["B065", "B065"]


def test_shard_changes_nothing_for_one_process(found):
    assert set(found[0]["spread"]["sizes"].values()) == {1.0}


def test_layers_that_share_their_weights_stay_whole(monkeypatch):
    monkeypatch.setattr(fsdp, "LARGE", 100)
    tied = together.Stack()
    assert len(list(fsdp._units(tied))) == 5
    tied.head.weight = tied.words.weight
    assert len(list(fsdp._units(tied))) == 3
    tied.layers[2] = tied.layers[1]
    assert list(fsdp._units(tied)) == [tied.layers[0], tied.layers[1]]
    tied.layers[0].up.weight = tied.layers[1].up.weight
    assert list(fsdp._units(tied)) == []


# --- launching --------------------------------------------------------------------------------------------------------


def environment(monkeypatch, **values):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


LAUNCHED = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29512"}


def test_alone_there_is_no_process_group(monkeypatch):
    for size in ({}, {"WORLD_SIZE": "1"}):
        environment(monkeypatch, **size)
        backend = make()
        backend.launch()
        assert (backend.index, backend.processes) == (0, 1)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE=2, but no LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({**LAUNCHED, "WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
    ],
)
def test_half_an_environment_is_refused(monkeypatch, values, message):
    environment(monkeypatch, **values)
    with pytest.raises(BuildError, match=f"B060 the environment says {message}"):
        make().launch()


def test_one_device_for_all_processes_is_refused(monkeypatch):
    environment(monkeypatch, **LAUNCHED)
    backend = make()
    backend.device = torch.device("cuda:1")
    with pytest.raises(BuildError, match=r"B061 backend\.device names cuda:1 for every process"):
        backend.launch()


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_more_processes_than_devices_are_refused(monkeypatch, device):
    environment(monkeypatch, **{**LAUNCHED, "LOCAL_RANK": "64"})
    backend = make()
    backend.device = torch.device(device)
    with pytest.raises(BuildError, match=f"B062 there is no {device} device for process 64 of this machine"):
        backend.launch()


def test_processes_that_do_not_find_each_other(monkeypatch):
    environment(monkeypatch, **{**LAUNCHED, "RANK": "1"})

    def fails(**options):
        raise torch.distributed.DistNetworkError("The client socket has timed out\nC++ stack")

    monkeypatch.setattr("accelerate.PartialState", fails)
    with pytest.raises(RunError, match=r"B063 .* at localhost:29512: The client socket has timed out") as caught:
        make().launch()
    assert "C++" not in str(caught.value)


FAILING = """
import torch
from lavcap_core.backends.torch import TorchBackend

backend = TorchBackend("cpu")
backend.launch()
if backend.index == 1:
    raise SystemExit("this one had enough")
backend.sum(torch.ones(1))
"""


def test_an_error_in_one_process_ends_the_others_which_say_so(tmp_path):
    """Without torchrun, which would end them at once."""
    (tmp_path / "failing.py").write_text(FAILING)
    env = {**os.environ, **LAUNCHED, "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "failing.py")]
    first, second = (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**env, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    )
    said, _ = first.communicate(timeout=120), second.communicate(timeout=120)
    assert "B064 what the processes of this run do together failed" in said[1]
    assert first.returncode == 1


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]
