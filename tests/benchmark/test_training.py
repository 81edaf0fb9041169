"""Training: a killed run ends with an unbroken one's numbers; points are all that is read; a run says why it diverged."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmark import stages
from benchmark.build import build_model
from benchmark.configs import compose_run
from benchmark.data.scenes import CATEGORIES
from benchmark.execute import execute
from benchmark.grid import load_grid
from benchmark.loading import StepBatches
from benchmark.optimizers import step_decay
from benchmark.plan import pending, plan
from benchmark.request import read_request
from benchmark.run import main
from benchmark.runs import Run, State
from benchmark.train import Schedule
from benchmark.training_step import parameter_groups
from methods.base.types import PointLabels, PointSample, Progress, collate
from methods.psps.labeler import PSPS
from tests.benchmark.tiny_runs import (
    ROOT,
    STEPS,
    Interrupted,
    assert_same_outcome,
    command,
    environment,
    grid_words,
    only_run,
    opened_files,
    photograph_words,
    runs_in,
    tiny_config,
    write_photographs,
)


@pytest.fixture(autouse=True)
def threads():
    """Runs set the number of threads of this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- resume -----------------------------------------------------------------------------------------------------------


def psps_config(results_dir, *words):
    schedule = ("schedule.lr=1e-3", "schedule.decay_at=[0.5,0.8]", "schedule.decay_factor=0.1")
    return tiny_config(results_dir, "method=psps", "method.color_warmup=0.3", *schedule, *words)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of ten steps, checkpoints at 3, 6 and 9, that nothing stopped."""
    results = tmp_path_factory.mktemp("unbroken")
    run = Run(results, "run")
    listener = Interrupted()
    assert execute(run, psps_config(results), "command", listener) == State.DONE
    assert listener.steps == list(range(1, STEPS + 1))
    return run


def interrupt(results, listener):
    """A run stopped by its listener, as by Ctrl-C."""
    run = Run(results, "run")
    with pytest.raises(KeyboardInterrupt):
        execute(run, psps_config(results), "command", listener)
    assert run.state == State.CANCELLED
    assert not run.weights_file.exists() or listener.in_evaluation
    return run


@pytest.mark.parametrize(
    ("listener", "resumed_at"),
    [
        (Interrupted(after_step=2), 1),  # before the first checkpoint
        (Interrupted(after_step=8), 7),  # two steps after one
        (Interrupted(after_step=10), 10),  # trained to the end, weights not written
        (Interrupted(in_evaluation=True), 11),  # nothing is trained again
    ],
    ids=["no checkpoint", "after a checkpoint", "after the last step", "in the evaluation"],
)
def test_an_interrupted_run_ends_like_an_unbroken_one(tmp_path, unbroken, listener, resumed_at):
    run = interrupt(tmp_path, listener)
    again = Interrupted()
    assert execute(run, psps_config(tmp_path), "command", again) == State.DONE
    assert again.steps == list(range(resumed_at, STEPS + 1))
    assert_same_outcome(run, unbroken)


@pytest.mark.parametrize("victim", ["weights.safetensors", "optimizer.pt", "manifest.json"])
def test_a_torn_checkpoint_costs_steps_and_no_digit(tmp_path, unbroken, victim):
    run = interrupt(tmp_path, Interrupted(after_step=8))
    torn = run.checkpoints / "step_00000006" / victim
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    again = Interrupted()
    assert execute(run, psps_config(tmp_path), "command", again) == State.DONE
    assert again.steps[0] == 4
    assert_same_outcome(run, unbroken)


def test_a_torn_line_of_the_log_is_written_again(tmp_path, unbroken):
    run = interrupt(tmp_path, Interrupted(after_step=8))
    text = run.metrics_file.read_text()
    run.metrics_file.write_text(text[: len(text) - 40])
    execute(run, psps_config(tmp_path), "command", Interrupted())
    assert run.metrics_file.read_text() == unbroken.metrics_file.read_text()


def test_the_log_has_each_step_once_with_the_rate_of_the_schedule(unbroken):
    lines = [json.loads(line) for line in unbroken.metrics_file.read_text().splitlines()]
    rates = [1e-3] * 5 + [1e-4] * 3 + [1e-5] * 2  # tenfold down after half of the steps and after 8 of 10
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["lr"] for line in lines] == pytest.approx(rates, rel=1e-12)
    for line in lines:
        parts = {name: value for name, value in line.items() if name.startswith(("labeler/", "head/"))}
        assert line["loss"] == pytest.approx(sum(parts.values()), rel=1e-6)
        assert {name.split("/")[0] for name in parts} == {"labeler", "head"}


def test_another_seed_is_another_run(tmp_path, unbroken):
    """Equal numbers above mean nothing if every run gave them."""
    run = Run(tmp_path, "run")
    execute(run, psps_config(tmp_path, "seed=1"), "command", Interrupted())
    assert run.metrics_file.read_text() != unbroken.metrics_file.read_text()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_goes_on_from_its_checkpoint(tmp_path):
    run, config = Run(tmp_path, "run"), psps_config(tmp_path, "device=cuda")
    with pytest.raises(KeyboardInterrupt):
        execute(run, config, "command", Interrupted(after_step=8))
    again = Interrupted()
    assert execute(run, config, "command", again) == State.DONE
    assert again.steps[0] == 7


@pytest.mark.slow
def test_a_killed_process_ends_like_an_unbroken_one(tmp_path):
    longer = ("method=semantics_nearest", "schedule.steps=40", "schedule.checkpoint_every=4", "report=false")
    assert main(grid_words(tmp_path / "unbroken", *longer)) == 0
    words = grid_words(tmp_path / "killed", *longer)
    process = subprocess.Popen(
        command(words), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not list((tmp_path / "killed").glob("runs/*/checkpoints/step_*/manifest.json")):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it wrote a checkpoint"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = only_run(tmp_path / "killed")
    assert killed.state == State.RUNNING and not killed.weights_file.exists()  # it could not say that it ended
    assert pending(killed, read_request(words)) == "interrupted"

    done = subprocess.run(command(words), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert killed.state == State.DONE
    assert_same_outcome(killed, only_run(tmp_path / "unbroken"))


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path, monkeypatch):
    """One cell diverges, on both devices at once; the next one is trained by both and recorded by one."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    two = ("method=semantics_nearest", "devices=2", "schedule.steps=4", "schedule.lr=1e30,1e-3", "report=false")
    words = grid_words(tmp_path, *two)
    assert main(words) == 1
    by_rate = {record["config"]["schedule"]["lr"]: record for record in runs_in(tmp_path).values()}
    assert by_rate[1e30]["state"] == "diverged" and by_rate[1e30]["reason"]["class"] == "Diverged"

    record = by_rate[1e-3]
    run = Run(tmp_path, record["run_id"])
    assert record["state"] == "done" and record["owner"] is None and record["timings"]["steps"] == 4
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]  # the second process writes nothing
    assert run.weights_file.exists() and record["metrics"]["val"]["panoptic"] is not None
    before = run.record_file.read_bytes()
    assert main([*words, "schedule.lr=1e-3"]) == 0
    assert run.record_file.read_bytes() == before
    assert run.log_file.read_text().count(f"training {run.run_id}") == 1


# --- batches, schedule, optimiser -------------------------------------------------------------------------------------


@st.composite
def batch_plans(draw):
    world = draw(st.integers(1, 3))
    per_device, images = draw(st.integers(1, 4)), draw(st.integers(1, 23))
    return {
        "images": images, "batch_size": world * per_device, "seed": draw(st.integers(0, 2**31)),
        "total": draw(st.integers(1, 4 * math.ceil(images / (world * per_device)))),
    }, world


@given(batch_plans())
def test_every_epoch_is_a_permutation(drawn):
    options, _ = drawn
    images, size = options["images"], options["batch_size"]
    steps = list(StepBatches(**options, start=0))
    assert len(steps) == options["total"] == len(StepBatches(**options, start=0))
    assert {len(batch) for batch in steps} == {size}
    per_epoch = math.ceil(images / size)
    for first in range(0, len(steps) - per_epoch + 1, per_epoch):
        keys = [key for batch in steps[first : first + per_epoch] for key in batch]
        assert {epoch for epoch, _ in keys} == {first // per_epoch}
        order = [index for _, index in keys]
        assert sorted(order[:images]) == list(range(images))
        assert order[images:] == [order[i % images] for i in range(len(order) - images)]  # filled up from its start


@given(batch_plans())
def test_devices_share_every_batch(drawn):
    options, world = drawn
    whole = list(StepBatches(**options, start=0))
    shares = [list(StepBatches(**options, start=0, rank=rank, world=world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert {len(part) for part in parts} == {options["batch_size"] // world}
        assert sorted(key for part in parts for key in part) == sorted(batch)


@given(batch_plans(), st.data())
def test_resuming_gives_the_batches_that_were_left(drawn, data):
    options, world = drawn
    start = data.draw(st.integers(0, options["total"]))
    rank = data.draw(st.integers(0, world - 1))
    resumed = StepBatches(**options, start=start, rank=rank, world=world)
    assert len(resumed) == options["total"] - start
    assert list(resumed) == list(StepBatches(**options, start=0, rank=rank, world=world))[start:]


def test_epochs_and_seeds_give_other_orders():
    def order(seed, epoch):
        return next(iter(StepBatches(50, 50, seed, epoch, epoch + 1)))

    orders = [tuple(index for _, index in order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"schedule\.batch_size=3 .* 2 devices"):
        StepBatches(10, 3, 0, 0, 5, rank=0, world=2)


@pytest.mark.parametrize(
    ("decay_at", "fraction", "factor"),
    [
        ([0.75], 0.0, 1.0), ([0.75], 0.7499, 1.0), ([0.75], 0.75, 0.1), ([0.75], 0.999, 0.1),
        ([0.5, 0.8], 0.6, 0.1), ([0.5, 0.8], 0.9, 0.01), ([], 0.9, 1.0),
    ],
)
def test_the_rate_falls_at_the_milestones(decay_at, fraction, factor):
    assert step_decay({"decay_at": decay_at, "decay_factor": 0.1}, fraction) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("steps", "epochs", "total", "total_epochs"), [(25, None, 25, 9), (None, 4, 12, 4), (2, None, 2, 1)]
)
def test_a_schedule_counts_steps_or_epochs(steps, epochs, total, total_epochs):
    schedule = Schedule.of({"steps": steps, "epochs": epochs, "batch_size": 4}, images=10)  # 3 steps an epoch
    assert schedule.total_steps == total
    assert schedule.progress(total - 1) == Progress(total - 1, total, (total - 1) // 3, total_epochs)


@pytest.mark.parametrize(("steps", "epochs"), [(None, None), (10, 2)])
def test_a_schedule_without_or_with_both_is_refused(steps, epochs):
    with pytest.raises(ValueError, match=r"exactly one of schedule\.steps and schedule\.epochs"):
        Schedule.of({"steps": steps, "epochs": epochs, "batch_size": 4}, images=10)


def lite0_model():
    network = ["model=lite0", "model.backbone.pretrained=false", "head=panoptic_segformer_tiny"]
    torch.manual_seed(0)
    return build_model(compose_run(["dataset=scenes", "method=psps", *network]), CATEGORIES)


def test_backbone_offsets_and_reference_points_learn_at_a_tenth():
    """Of the papers' optimiser: a tenth of the rate for the backbone and for the layers that say where to look."""
    model = lite0_model()
    slow = set(model.encoder.backbone.parameters())
    kinds = set()
    for module in model.modules():
        for name in ("sampling_offsets", "reference_points"):
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Module):
                kinds.add(name)
                slow |= set(layer.parameters())
    assert kinds == {"sampling_offsets", "reference_points"}
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = parameter_groups(model, lr=2e-4, backbone_lr_factor=0.1)
    rate_of = {p: group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rate_of) == len(trainable)  # each once
    for parameter in trainable:
        assert rate_of[parameter] == pytest.approx(2e-5 if parameter in slow else 2e-4, rel=1e-12)


def test_frozen_batch_norm_gets_no_gradient_and_keeps_its_statistics():
    model = lite0_model().train()
    norms = [m for m in model.encoder.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 20
    before = [norm.running_mean.clone() for norm in norms]
    points = PointLabels(
        torch.tensor([[10, 12], [40, 44]]), torch.tensor([0, 1]), torch.tensor([0, len(CATEGORIES) - 1]),
        torch.tensor([True, False]), torch.tensor([1, 2]),
    )
    sample = PointSample(torch.rand(3, 64, 64), points, 0, (64, 64))
    sum(model(collate([sample]), Progress(5, 10)).values()).backward()
    assert all(p.grad is None and not p.requires_grad for norm in norms for p in norm.parameters())
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    in_groups = {p for group in parameter_groups(model, 1e-4, 0.1) for p in group["params"]}
    assert not in_groups & {p for norm in norms for p in norm.parameters()}
    convolutions = [m for m in model.encoder.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert any(c.weight.grad is not None and c.weight.grad.abs().sum() > 0 for c in convolutions)


# --- divergence -------------------------------------------------------------------------------------------------------


def test_a_nan_loss_ends_its_run_with_a_sentence_and_the_others_go_on(tmp_path, monkeypatch):
    seen = []
    losses = PSPS.losses

    def broken(self, maps, labels, batch, progress):
        values = losses(self, maps, labels, batch, progress)
        seen.append(batch.image_ids)
        if progress.step == 2:
            values["presence_of_nothing"] = torch.full((), float("nan"))
        return values

    monkeypatch.setattr(PSPS, "losses", broken)
    words = grid_words(tmp_path, "method=psps,nearest_point", "head=none", "schedule.steps=5")
    assert main(words) == 1
    records = {record["method"]: record for record in runs_in(tmp_path).values()}
    assert records["nearest_point"]["state"] == "done"
    assert records["psps"]["state"] == "diverged"
    reason = records["psps"]["reason"]
    assert reason["class"] == "Diverged"
    assert "Loss labeler/presence_of_nothing is not finite at step 2" in reason["message"]
    assert len(seen) == 3
    for image in seen[2]:
        assert str(image) in reason["message"]
    assert "\n" not in reason["message"]
    assert "Traceback" not in "\n".join(reason["log_tail"])  # a sentence is enough
    report = (tmp_path / "quickstart" / "report" / "table.md").read_text()
    assert "diverged" in report and "not finite at step 2" in report


@pytest.mark.slow
def test_warnings_are_logged_without_paths():
    """In a process of its own: pytest has its hands on warnings too."""
    code = (
        "import logging, warnings; from benchmark.execute import _log_warnings; logging.basicConfig(format='%(message)s');"
        "_log_warnings(); warnings.warn('odd', RuntimeWarning);"
        "warnings.warn('The `srun` command is available on your system but is not used. HINT: /place/of/python')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "RuntimeWarning: odd\n" in done.stderr
    assert "<string>" not in done.stderr and "srun" not in done.stderr and "/place" not in done.stderr


@pytest.mark.parametrize("method", ["semantics_nearest", "psps"])
def test_a_rate_out_of_bounds_diverges_and_the_next_cell_runs(tmp_path, method):
    words = grid_words(tmp_path, f"method={method}", "head=none", "schedule.lr=1e30,1e-3", "report=false")
    assert main(words) == 1
    by_rate = {record["config"]["schedule"]["lr"]: record for record in runs_in(tmp_path).values()}
    assert by_rate[1e30]["state"] == "diverged" and by_rate[1e-3]["state"] == "done"
    assert "schedule.lr" in by_rate[1e30]["reason"]["message"]


def test_gradients_that_are_not_finite_never_become_results(tmp_path, monkeypatch):
    """Losses of the last step are finite, its gradients are not: the weights would be."""
    losses = PSPS.losses

    def spoiled(self, maps, labels, batch, progress):
        values = losses(self, maps, labels, batch, progress)
        if progress.step == 3:
            next(iter(values.values())).register_hook(lambda gradient: gradient * float("nan"))
        return values

    monkeypatch.setattr(PSPS, "losses", spoiled)
    run = Run(tmp_path, "run")
    config = tiny_config(tmp_path, "method=psps", "head=none", "schedule.steps=4")
    assert execute(run, config, "command", Interrupted()) == State.DIVERGED
    assert "step 3" in run.read()["reason"]["message"]


# --- points only ------------------------------------------------------------------------------------------------------


def masks_opened(tmp_path, monkeypatch, method):
    """PNG files that a run opens until its training ends, and after."""
    root = tmp_path / "data"
    write_photographs(root)
    words = photograph_words(root, tmp_path / "results", f"method={method}", "schedule.steps=4")
    request = read_request(words)
    ((cell, run),) = plan(load_grid(request.grid), request)  # draws the points
    ends = []
    train = stages.train

    def watched(*arguments):
        result = train(*arguments)
        ends.append(len(files))
        return result

    monkeypatch.setattr(stages, "train", watched)
    with opened_files() as files:
        assert execute(run, cell.config, "command", Interrupted()) == State.DONE
    (end,) = ends

    def below(folder, opened):
        return {path.name for path in opened if path.parent == root / folder}

    assert below("train", files[:end]) == {f"train_{i}.jpg" for i in range(4)}  # it did train on all images
    return below("panoptic_train", files[:end]), below("panoptic_train", files[end:]), run.read()["supervision"]


def test_a_run_on_points_opens_no_mask_before_it_is_trained(tmp_path, monkeypatch):
    in_training, after, supervision = masks_opened(tmp_path, monkeypatch, "psps")
    assert in_training == set()
    assert after  # evaluation did: the watch works
    assert supervision == {"kind": "points", "points_per_target": 1, "boxes": 0, "masks": 0}


def test_a_run_on_masks_opens_them_and_says_so(tmp_path, monkeypatch):
    in_training, _, supervision = masks_opened(tmp_path, monkeypatch, "full_masks")
    assert in_training == {f"train_{i}.png" for i in range(4)}
    assert supervision["kind"] == "masks" and supervision["masks"] != 0
