import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toys import TOY, TRAIN_SPEC

from lavcap_core import hooks
from lavcap_core.builtin import TrainConfig
from lavcap_core.cli import main
from lavcap_core.errors import DataError, PluginError, RunError, SpecError, WeightsError
from lavcap_core.run import train as module
from lavcap_core.run.checkpoint import checkpoints, verify
from lavcap_core.run.train import Plan, factor, groups, train
from lavcap_core.spec import read, read_text

HELD_OUT = ["train.validation={use: tones, count: 4, first: 16}"]


@pytest.fixture(autouse=True)
def _plugins(toy):
    """The toy's encoder hears how loud a clip is, its decoder learns to spell that."""


def spec(*changes):
    return read_text(TRAIN_SPEC, overrides=changes)


def run(folder, *changes, **options):
    return train(spec(*changes), folder, quiet=True, **options)


def rows(folder, name="log.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def numbers(folder):
    return [{k: v for k, v in row.items() if k not in ("clips_per_second", "left")} for row in rows(folder)]


def trained(folder):
    return load_file(checkpoints(folder)[-1] / "trained.safetensors")


def assert_equal_to_the_bit(one, other):
    assert checkpoints(one)[-1].name == checkpoints(other)[-1].name
    for file in ("trained.safetensors", "optimiser.pt", "state.json"):
        assert (checkpoints(one)[-1] / file).read_bytes() == (checkpoints(other)[-1] / file).read_bytes(), file
    assert numbers(one) == numbers(other)


class Interrupt:
    """A run event that stops a run after a step, as Ctrl-C would."""

    def __init__(self, step):
        self.step = step

    @hooks.hookimpl
    def step_end(self, step):
        if step == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def interrupt_after(monkeypatch):
    manager = hooks.manager

    def arm(step):
        def made():
            found = manager()
            found.register(Interrupt(step))
            return found

        monkeypatch.setattr(module.hooks, "manager", made)

    return arm


# --- learning ---------------------------------------------------------------------------------------------------------


def test_what_is_learnt_is_said_by_the_command(tmp_path, capsys):
    file = tmp_path / "toy.yaml"
    file.write_text(
        TRAIN_SPEC.replace("epochs: 5", "steps: 200\n  save_every: 50").replace(
            "{use: speller}", "{use: speller, dropout: 0.0}"
        )
    )
    out = tmp_path / "run"
    assert main(["train", str(file), "--out", str(out), "--set", HELD_OUT[0], "--set", "train.validate_every=25"]) == 0
    assert "200 steps, best after step" in capsys.readouterr().out
    losses = [row["caption"] for row in rows(out)]
    assert losses[0] > 4 > 0.6 > losses[-1]  # one of two captions is drawn: half of the letters can't be foreseen
    validation = rows(out, "validation.jsonl")
    assert [row["step"] for row in validation] == [100, 200]
    assert validation[-1]["loss"] < validation[0]["loss"]


def test_only_what_is_trained_changes_and_is_stored(tmp_path):
    run(tmp_path, "train.epochs=1")
    assert {name.split(".")[0] for name in trained(tmp_path)} == {"decoder"}
    assert json.loads((tmp_path / "summary.json").read_text())["trained"] == sum(
        value.numel() for value in trained(tmp_path).values()
    )


def test_every_clip_is_seen_once_per_epoch(tmp_path, monkeypatch):
    seen = []
    real = module._Run._read
    monkeypatch.setattr(module._Run, "_read", lambda self, i, epoch: seen.append((epoch, i)) or real(self, i, epoch))
    run(tmp_path, "train.epochs=3", "train.batch=3", "train.accumulate=2")
    assert sorted(seen) == [(epoch, index) for epoch in range(3) for index in range(16)]


def test_accumulated_batches_equal_one_large_one(tmp_path):
    still = ["decoder={use: speller, dropout: 0.0}"]
    run(tmp_path / "large", "train.batch=8", *still)
    run(tmp_path / "small", "train.batch=2", "train.accumulate=4", *still)
    for large, small in zip(numbers(tmp_path / "large"), numbers(tmp_path / "small"), strict=True):
        assert small["loss"] == pytest.approx(large["loss"], abs=1e-5)


def test_weights_that_a_spec_names_are_what_training_begins_with(tmp_path):
    run(tmp_path / "first", "train.epochs=2")
    weights = checkpoints(tmp_path / "first")[-1] / "trained.safetensors"
    run(tmp_path / "second", "train.steps=1", "train.lr=1e-12", "train.final_lr=0", f"weights={weights}")
    for name, value in trained(tmp_path / "second").items():
        assert torch.allclose(value, trained(tmp_path / "first")[name], atol=1e-9), name


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 3, 4, 10, 19])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path, interrupt_after, step):
    changes = [*HELD_OUT, "train.save_every=3"]
    run(tmp_path / "whole", *changes)
    interrupt_after(step)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", *changes)
    interrupt_after(None)
    torch.manual_seed(99)  # a new process has another state of the generator
    run(tmp_path / "parts", *changes, resume=True)
    assert_equal_to_the_bit(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "whole" / "validation.jsonl").read_text() == (
        tmp_path / "parts" / "validation.jsonl"
    ).read_text()


def test_a_validation_that_fails_costs_no_step_and_is_made_up_for(tmp_path, monkeypatch):
    changes = [*HELD_OUT, "train.keep=1"]
    run(tmp_path / "whole", *changes)
    real, met = module._Run._validate, []

    def fails(self):
        real(self)
        met.append(self.step)
        if len(met) == 2:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(module._Run, "_validate", fails)
    with pytest.raises(RuntimeError):
        run(tmp_path / "parts", *changes)
    assert checkpoints(tmp_path / "parts")[-1].name == "step-00000008"
    run(tmp_path / "parts", *changes, resume=True)
    assert met == [4, 8, 8, 12, 16, 20]
    assert_equal_to_the_bit(tmp_path / "whole", tmp_path / "parts")
    assert rows(tmp_path / "whole", "validation.jsonl") == rows(tmp_path / "parts", "validation.jsonl")
    assert [path.name for path in checkpoints(tmp_path / "parts")] == [
        path.name for path in checkpoints(tmp_path / "whole")
    ]


def test_clips_that_cannot_be_read_are_known_after_a_resumption(tmp_path, interrupt_after):
    broken = "train.data={use: tones, count: 16, broken: [3, 9]}"
    whole = run(tmp_path / "whole", broken)
    assert run(tmp_path / "whole", broken, resume=True)["unreadable"] == whole["unreadable"] != {}
    interrupt_after(10)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", broken)
    interrupt_after(None)
    assert run(tmp_path / "parts", broken, resume=True)["unreadable"] == whole["unreadable"]
    assert_equal_to_the_bit(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "wrong",
    [
        ["train.data=null"],
        ["decoder=numbers"],
        ["train.validation={use: tones, first: 15}"],
        ["train.data={use: tones, count: 2, broken: [0, 1]}"],
    ],
)
def test_a_run_that_failed_before_its_first_step_does_not_block_its_correction(tmp_path, wrong):
    with pytest.raises((SpecError, RunError, DataError)):
        run(tmp_path, *wrong)
    assert run(tmp_path, "train.epochs=1")["steps"] == 4


def test_a_folder_with_a_spec_that_is_no_run_s_is_left_alone(tmp_path):
    (tmp_path / "spec.yaml").write_text("recipe: captioner\n")
    with pytest.raises(RunError, match=r"C022 .*is not the spec of a training run"):
        run(tmp_path, resume=True)
    with pytest.raises(RunError, match="C021"):
        run(tmp_path)
    assert (tmp_path / "spec.yaml").read_text() == "recipe: captioner\n"


def test_dropout_is_what_makes_the_seed_of_a_step_matter(tmp_path, monkeypatch):
    run(tmp_path / "one", "train.epochs=1")
    monkeypatch.setattr(module, "_seed", lambda seed, step, index: step + 77)
    run(tmp_path / "other", "train.epochs=1")
    assert numbers(tmp_path / "one")[0]["loss"] != numbers(tmp_path / "other")[0]["loss"]


def test_kill_9_at_random_moments_loses_nothing(tmp_path, site):
    file = tmp_path / "toy.yaml"
    changed = TRAIN_SPEC.replace("epochs: 5", "steps: 200\n  save_every: 5\n  keep: 3")
    file.write_text(changed)
    done = site.python(TOY / "killed.py", file, tmp_path, 5)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["kills"], report["status"]) == (5, 0)
    assert report["inside"], "no kill met a checkpoint that was being written"
    assert len(set(report["steps"])) > 1
    assert_equal_to_the_bit(tmp_path / "whole", tmp_path / "killed")


def test_resume_of_a_run_that_is_done_changes_nothing(tmp_path):
    run(tmp_path)
    before = numbers(tmp_path)
    assert run(tmp_path, resume=True)["steps"] == 20
    assert numbers(tmp_path) == before


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    run(tmp_path, "train.epochs=1")
    with pytest.raises(RunError, match="C021"):
        run(tmp_path, "train.epochs=1")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("train.lr=1e-3", "train.lr"),
        ("train.epochs=6", "train.epochs"),
        ("decoder={use: speller, dropout: 0.3}", "decoder.dropout"),
        ("train.data={use: tones, count: 17}", "train.data"),
    ],
)
def test_a_run_of_another_spec_is_not_gone_on_with(tmp_path, change, key):
    run(tmp_path, "train.epochs=1")
    with pytest.raises(RunError, match=f"C022 .*{key}"):
        run(tmp_path, "train.epochs=1", change, resume=True)


def test_what_no_number_depends_on_may_change(tmp_path):
    run(tmp_path, "train.epochs=1")
    run(tmp_path, "train.epochs=1", "train.workers=0", "train.log_every=1", resume=True)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept(tmp_path, monkeypatch):
    losses = iter([5.0, 3.0, 4.0, 4.5, 4.2])
    monkeypatch.setattr(module.validate, "validate", lambda *_: {"loss": next(losses)})
    summary = run(tmp_path, *HELD_OUT, "train.keep=2")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000008", "step-00000016", "step-00000020"]
    assert summary["best"] == {"step": 8, "by": "loss", "value": 3.0}
    best = json.loads((tmp_path / "best.json").read_text())
    assert (tmp_path / best["checkpoint"]).is_dir()


def test_a_metric_chooses_the_best_and_the_highest_wins(tmp_path):
    changes = ["train.metrics=[exact]", "train.best=exact", "generate.max_new_tokens=12"]
    summary = run(tmp_path, *HELD_OUT, "train.epochs=12", "train.validate_every=4", "train.save_every=16", *changes)
    found = {row["step"]: row["exact"] for row in rows(tmp_path, "validation.jsonl")}
    assert summary["best"]["value"] == max(found.values()) == found[summary["best"]["step"]]


def test_what_validation_does_not_give_chooses_nothing(tmp_path):
    with pytest.raises(SpecError, match=r"(?s)C026 .*it gives loss, caption"):
        run(tmp_path, *HELD_OUT, "train.epochs=1", "train.best=cider")
    assert not (tmp_path / "log.jsonl").exists()  # known before the first step
    with pytest.raises(SpecError, match=r"(?s)C026 .*it gives loss, caption$"):
        run(tmp_path, *HELD_OUT, "train.epochs=1", "train.best=alignment")
    assert not (tmp_path / "log.jsonl").exists()


def test_the_field_s_scores_are_logged_and_choose_the_best(tmp_path):
    changes = ["train.metrics=[cider_d]", "train.best=CIDEr-D", "generate.max_new_tokens=12", "train.epochs=2"]
    summary = run(tmp_path, *HELD_OUT, *changes)
    found = {row["step"]: row["CIDEr-D"] for row in rows(tmp_path, "validation.jsonl")}
    assert summary["best"]["by"] == "CIDEr-D"
    assert summary["best"]["value"] == max(found.values())


def test_a_metric_that_can_not_be_computed_stops_before_the_first_step(tmp_path, site):
    site.add_words()
    with pytest.raises(RunError, match=r"(?s)E014 metric 'missing' can't be computed: C001 .*install the program"):
        run(tmp_path, *HELD_OUT, "train.epochs=1", "train.metrics=[exact, missing]")
    with pytest.raises(PluginError, match="R001"):
        run(tmp_path, *HELD_OUT, "train.epochs=1", "train.metrics=[no-such]")
    assert not (tmp_path / "spec.yaml").exists()


def test_a_metric_that_fails_later_costs_its_score_and_not_the_run(tmp_path, site, monkeypatch, capsys):
    site.add_words()
    monkeypatch.setattr(module, "require", lambda uses: ["share", "broken"])
    changes = ["train.metrics=[share, broken]", "train.best=broken", "generate.max_new_tokens=12", "train.epochs=1"]
    summary = train(spec(*HELD_OUT, *changes), tmp_path)
    assert summary["best"] == {}
    assert {"loss", "share"} <= rows(tmp_path, "validation.jsonl")[-1].keys()
    assert "validation without a score: E011 metric 'broken' failed: ZeroDivisionError" in capsys.readouterr().err


def test_a_checkpoint_captions(tmp_path, site, toy_spec):
    run(tmp_path / "run", "train.epochs=1")
    written = checkpoints(tmp_path / "run")[-1] / "spec.yaml"
    stored = read(written)
    assert stored.pipeline.weights == str(written.parent / "trained.safetensors")
    from lavcap_core.pipeline import load

    pipe = load(stored)
    assert torch.equal(pipe.recipe.decoder.letters.weight, trained(tmp_path / "run")["decoder.letters.weight"])


def test_each_of_a_thousand_flipped_bytes_is_found(tmp_path):
    run(tmp_path, "train.epochs=1")
    folder = checkpoints(tmp_path)[-1]
    verify(folder)
    generator = torch.Generator().manual_seed(0)
    files = sorted(folder.iterdir())
    for number in range(1000):
        file = files[number % len(files)]
        content = bytearray(file.read_bytes())
        place = int(torch.randint(len(content), (1,), generator=generator))
        content[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="W031"):
            verify(folder)
        file.write_bytes(whole)
    verify(folder)


def test_missing_and_foreign_files_are_found(tmp_path):
    run(tmp_path, "train.epochs=1")
    folder = checkpoints(tmp_path)[-1]
    (folder / "more").write_text("")
    with pytest.raises(WeightsError, match="more is missing or too much"):
        verify(folder)
    (folder / "more").unlink()
    (folder / "state.json").unlink()
    with pytest.raises(WeightsError, match=r"state\.json is missing or too much"):
        verify(folder)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_loudly(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "hurt")
    file = checkpoints(tmp_path / "hurt")[-1] / "trained.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.warns(UserWarning, match=r"step-00000020 is damaged: trained\.safetensors was changed; going on from"):
        run(tmp_path / "hurt", resume=True)
    assert_equal_to_the_bit(tmp_path / "whole", tmp_path / "hurt")


def test_a_damaged_checkpoint_does_not_push_out_the_one_before(tmp_path, interrupt_after):
    run(tmp_path, "train.keep=2")
    (checkpoints(tmp_path)[-1] / "optimiser.pt").write_bytes(b"")
    interrupt_after(17)
    for _ in range(2):
        with pytest.warns(UserWarning, match="step-00000020 is damaged"), pytest.raises(KeyboardInterrupt):
            run(tmp_path, "train.keep=1", resume=True)
    assert checkpoints(tmp_path)[0].name == "step-00000016"


def test_without_a_whole_checkpoint_nothing_is_begun_anew(tmp_path):
    run(tmp_path, "train.epochs=1")
    for folder in checkpoints(tmp_path):
        (folder / "optimiser.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(WeightsError, match="W032"):
        run(tmp_path, "train.epochs=1", resume=True)


# --- what goes wrong --------------------------------------------------------------------------------------------------

SILLY = "train.data={use: tones, count: 16, silly: [5]}"


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path):
    with pytest.raises(RunError, match=r"C020 step .: the loss is nan"):
        run(tmp_path, SILLY, "train.save_every=1")
    assert all(torch.isfinite(value).all() for value in trained(tmp_path).values())


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path):
    summary = run(tmp_path, SILLY, "train.nonfinite=skip")
    assert summary["skipped"] == 5  # once an epoch
    assert [row["step"] for row in rows(tmp_path)] == list(range(20))
    assert sum(row.get("skipped", False) for row in rows(tmp_path)) == 5
    assert all(torch.isfinite(value).all() for value in trained(tmp_path).values())


def test_skipping_has_an_end(tmp_path):
    with pytest.raises(RunError, match="C020"):
        run(tmp_path, "train.data={use: tones, count: 1, silly: [0]}", "train.epochs=50", "train.nonfinite=skip")


def test_a_clip_that_cannot_be_read_is_left_out_and_said_once(tmp_path, capfd):
    changes = ["train.data={use: tones, count: 16, broken: [3, 9]}"]
    summary = train(spec(*changes), tmp_path)
    assert summary["unreadable"] == {"tone-3": "M002 is broken", "tone-9": "M002 is broken"}
    assert capfd.readouterr().err.count("tone-3: left out") == 1
    assert summary["steps"] == 20


def test_a_validation_clip_that_cannot_be_read_is_said_once_and_not_counted(tmp_path, capfd):
    changes = ["train.validation={use: tones, count: 4, first: 16, broken: [17]}", "train.epochs=2"]
    summary = train(spec(*changes), tmp_path)
    assert [row["clips"] for row in rows(tmp_path, "validation.jsonl")] == [3, 3]
    assert summary["unreadable"] == {"tone-17": "M002 is broken"}
    assert capfd.readouterr().err.count("tone-17: left out") == 1


def test_what_another_process_could_not_read_is_said_too(tmp_path, monkeypatch):
    real = module._Run._share_failed

    def share(self):
        with monkeypatch.context() as patch:
            patch.setattr(type(self.backend), "gather", lambda _, values: [*values, ("theirs", "M002 is broken")])
            real(self)

    monkeypatch.setattr(module._Run, "_share_failed", share)
    summary = run(tmp_path, "train.epochs=1")
    assert summary["unreadable"] == {"theirs": "M002 is broken"}
    state = json.loads((checkpoints(tmp_path)[-1] / "state.json").read_text())
    assert state["unreadable"] == summary["unreadable"]


def test_the_end_of_a_run_is_told_its_last_step_and_the_best(tmp_path, monkeypatch):
    told, manager = [], hooks.manager

    class End:
        @hooks.hookimpl
        def run_end(self, summary):
            told.append(summary)

    def made():
        found = manager()
        found.register(End())
        return found

    losses = iter([3.0, 4.0])
    monkeypatch.setattr(module.hooks, "manager", made)
    monkeypatch.setattr(module.validate, "validate", lambda *_: {"loss": next(losses)})
    run(tmp_path, *HELD_OUT, "train.epochs=2")
    assert told == [{"step": 8, "skipped": 0, "best": {"step": 4, "by": "loss", "value": 3.0}}]


def test_a_whole_batch_that_cannot_be_read_is_filled_up(tmp_path):
    broken = "train.data={use: tones, count: 3, broken: [0, 2]}"
    summary = run(tmp_path, broken, "train.batch=1", "train.accumulate=3", "train.epochs=2")
    assert summary["steps"] == 2
    with pytest.raises(RunError, match="C023"):
        run(tmp_path / "none", "train.data={use: tones, count: 2, broken: [0, 1]}")


def test_without_data_or_anything_to_train_there_is_no_run(tmp_path):
    with pytest.raises(SpecError, match="C024"):
        run(tmp_path / "a", "train.data=null")
    with pytest.raises(RunError, match="C025"):
        run(tmp_path / "b", "decoder=numbers")


@pytest.mark.parametrize(
    "change",
    [
        "train.data={use: tones, split: test}",
        "train.validation={use: tones, first: 16, split: test}",
        "train.validation={use: tones, first: 16, split: train}",
        "train.validation={use: tones, first: 15}",
    ],
)
def test_nothing_is_learnt_from_or_judged_by_the_wrong_clips(tmp_path, change):
    with pytest.raises(DataError, match="C027"):
        run(tmp_path, change)


def test_a_tracker_that_is_not_there_is_said_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    from lavcap_core.errors import BuildError

    with pytest.raises(BuildError, match=r"B067 .*wandb"):
        run(tmp_path, "train.trackers=[wandb]")


# --- rates ------------------------------------------------------------------------------------------------------------


def rates(steps, **changes):
    settings = TrainConfig(**{"lr": 1.0, "final_lr": 0.1, "warmup_steps": 2, "steps": steps, **changes})
    plan = Plan.of(settings, epoch=5)
    return [factor(step, plan, settings) for step in range(steps)]


def test_the_rate_warms_up_and_falls_to_the_final_one():
    cosine, linear = rates(10), rates(10, schedule="linear")
    for found in (cosine, linear):
        assert found[:3] == [0.5, 1.0, 1.0]
        assert found[3:] == sorted(found[3:], reverse=True)
        assert 0.1 <= found[-1] < 0.25
    assert linear[6] == pytest.approx(0.1 + 0.9 * 0.5)
    assert cosine[6] == pytest.approx(0.55)
    assert rates(10, schedule="constant")[2:] == [1.0] * 8


def test_the_papers_plan():
    plan = Plan.of(TrainConfig(), epoch=1519)  # 48,595 clips, 32 at a time
    assert (plan.steps, plan.warmup) == (151900, 3038)


def test_biases_and_norms_do_not_decay_and_factors_apply():
    model = nn.ModuleDict({"norm": nn.LayerNorm(4), "last": nn.Linear(4, 1)})
    found = groups(model, TrainConfig(weight_decay=0.1, lr=0.5, lr_factors={"last": 2.0}))
    sizes = {(group["weight_decay"], group["lr"]): [tuple(p.shape) for p in group["params"]] for group in found}
    assert sizes == {(0.0, 0.5): [(4,), (4,)], (0.1, 1.0): [(1, 4)], (0.0, 1.0): [(1,)]}


def test_gradients_are_clipped(tmp_path):
    run(tmp_path, "train.clip=1e-6", "train.steps=1", "train.warmup_steps=0", "train.lr=1e-3")
    assert rows(tmp_path)[0]["norm"] > 1e-3  # as it was before clipping
    state = torch.load(checkpoints(tmp_path)[-1] / "optimiser.pt", weights_only=True)
    moments = [entry["exp_avg"] for entry in state["state"].values()]
    assert sum(float(m.square().sum()) for m in moments) ** 0.5 == pytest.approx(1e-7, rel=0.01)  # (1 - beta1) g
