"""Profiles: what a run asks for, and how wrong ones are refused."""

from __future__ import annotations

import pytest

from benchmark.configs import ConfigError
from slurm.profile import load_profile, megabytes_of, minutes_of, profile_names


def profile(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return [f"slurm={path}"]


def config(devices=1, model="r50", scale="paper"):
    return {"devices": devices, "model": {"name": model}, "scale": scale}


@pytest.mark.parametrize("name", profile_names())
def test_the_projects_own_profiles_load(name):
    assert load_profile([f"slurm={name}"]).resources(config()).nodes == 1


def test_a_profile_says_what_a_run_gets(tmp_path):
    words = profile(tmp_path, "partition: gpu\ngpus: 1\ncpus: 6\nmemory: 30G\ntime: '1-02:30:00'\nprocesses_per_node: 4\n")
    one = load_profile(words).resources(config())
    assert (one.nodes, one.processes, one.gpus, one.cpus) == (1, 1, 1, 6)
    assert (one.memory_mb, one.minutes) == (30 * 1024, 26 * 60 + 30)
    many = load_profile(words).resources(config(devices=8))
    assert (many.nodes, many.processes) == (2, 4)
    assert str(many) == "2 nodes × 4 processes of 1 GPU, 6 CPUs and 30720 MB, 26:30 h"


def test_words_of_the_command_win_over_the_file(tmp_path):
    words = [*profile(tmp_path, "time: '2:00:00'\naccount: ours\n"), "slurm.time=0:30:00", "slurm.account=null"]
    assert load_profile(words).resources(config()).minutes == 30 and load_profile(words).account is None


def test_the_last_exception_that_matches_wins(tmp_path):
    words = profile(tmp_path, "time: '9:00:00'\nexceptions:\n"
                    "- where: {model.name: [swin_l, r101]}\n  time: '20:00:00'\n  memory: 90G\n"
                    "- where: {model.name: swin_l, scale: demo}\n  time: '1:00:00'\n- where: {no.such.key: 1}\n  gpus: 7\n")
    found = {model: load_profile(words).resources(config(model=model)) for model in ("r50", "r101", "swin_l")}
    assert {model: one.minutes for model, one in found.items()} == {"r50": 540, "r101": 1200, "swin_l": 1200}
    small = load_profile(words).resources(config(model="swin_l", scale="demo"))
    assert (small.minutes, small.memory_mb, small.gpus) == (60, 90 * 1024, 1)


@pytest.mark.parametrize(
    ("text", "minutes"), [("0:01:00", 1), ("0:00:01", 1), ("1-0", 1440), ("0-1:30", 90), ("30:00:30", 1801)]
)
def test_times(text, minutes):
    assert minutes_of(text, "x") == minutes


@pytest.mark.parametrize("value", [30, "30", "1:30", "soon", None, "0:00:00", "-1:00:00"])
def test_times_that_could_mean_something_else_are_refused(value):
    with pytest.raises(ConfigError, match="'x' has time="):
        minutes_of(value, "x")


@pytest.mark.parametrize(("text", "expected"), [("500M", 500), ("2G", 2048), ("2GB", 2048), ("1T", 1024 * 1024)])
def test_memory(text, expected):
    assert megabytes_of(text, "x") == expected


@pytest.mark.parametrize("value", [16, "16", "0G", "1.5G", "lots"])
def test_memory_without_a_unit_is_refused(value):
    with pytest.raises(ConfigError, match="memory"):
        megabytes_of(value, "x")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "slurm=PROFILE"),
        (["slurm=local_clustr"], "did you mean 'local_cluster'"),
        (["slurm=nowhere.yaml"], "nowhere.yaml"),
        (["slurm=local_cluster", "slurm.tim=1"], "did you mean 'time'"),
        (["slurm=local_cluster", "slurm.gpus=-1"], "gpus=-1"),
        (["slurm=local_cluster", "slurm.cpus=1,2"], "several"),
        (["slurm=local_cluster", "slurm.setup=ls"], "setup=ls"),
        (["slurm=local_cluster", "slurm.exceptions=[{node: 1}]"], "'node'"),
    ],
)
def test_wrong_words_are_answered_in_one_sentence(words, said):
    with pytest.raises(ConfigError) as error:
        load_profile(words)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_devices_that_do_not_fill_their_nodes_evenly_are_refused():
    with pytest.raises(ConfigError, match="choose 2 or 4"):
        load_profile(["slurm=local_cluster"]).resources(config(devices=3))
