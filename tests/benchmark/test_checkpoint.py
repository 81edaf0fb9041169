"""Checkpoints: whole or passed over."""

import pytest
import torch
from torch import nn

from benchmark.checkpoint import KEPT, load_checkpoint, load_weights, save_checkpoint, save_weights

CPU = torch.device("cpu")


def trained(steps):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def save(folder, steps):
    model, optimizer = trained(steps)
    save_checkpoint(folder, steps, model, optimizer, {"seconds": {"data": float(steps)}})
    return model


def test_the_newest_is_restored_with_its_optimiser(tmp_path):
    save(tmp_path, 1)
    expected = save(tmp_path, 2)
    model, optimizer = trained(0)
    assert load_checkpoint(tmp_path, model, optimizer, CPU) == (2, {"seconds": {"data": 2.0}})
    assert torch.equal(model.weight, expected.weight)
    assert optimizer.state_dict()["state"][0]["step"] == 2


def test_only_the_last_are_kept(tmp_path):
    for step in range(1, 5):
        save(tmp_path, step)
    assert len(list(tmp_path.iterdir())) == KEPT


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["short", "gone", "scrambled"])
def test_a_torn_one_falls_back_to_the_one_before(tmp_path, name, damage):
    expected = save(tmp_path, 1)
    save(tmp_path, 2)
    victim = tmp_path / "step_00000002" / name
    if damage == "gone":
        victim.unlink()
    else:
        size = victim.stat().st_size
        victim.write_bytes(victim.read_bytes()[: size // 2] if damage == "short" else b"\xff" * size)
    model, optimizer = trained(0)
    found = load_checkpoint(tmp_path, model, optimizer, CPU)
    assert found is not None and found[0] == 1
    assert torch.equal(model.weight, expected.weight)


def test_without_a_whole_one_training_starts_afresh(tmp_path):
    model, optimizer = trained(0)
    assert load_checkpoint(tmp_path / "none", model, optimizer, CPU) is None


def test_final_weights_come_back_and_other_models_are_refused(tmp_path):
    model, _ = trained(1)
    save_weights(tmp_path / "w.safetensors", model)
    other = nn.Linear(3, 2)
    load_weights(tmp_path / "w.safetensors", other)
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(RuntimeError):
        load_weights(tmp_path / "w.safetensors", nn.Linear(4, 2))
