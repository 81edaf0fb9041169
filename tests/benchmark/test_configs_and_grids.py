"""Grids are data: what they expand to, what an override changes, and what an error says."""

import pytest

from benchmark.configs import ConfigError, compose_run, names_in
from benchmark.expand import expand
from benchmark.grid import Block, GridDefinition, load_grid
from benchmark.request import read_request
from benchmark.runs import NOT_IDENTITY, identity, run_id


def grid(**changes):
    values = {
        "name": "g", "title": "t", "overrides": ["scale=demo"], "seeds": [0],
        "blocks": [Block({"method": ["psps", "nearest_point"]}), Block({"method": ["oracle_nearest"]}, ("head=none",))],
    }
    return GridDefinition(**{**values, **changes})


def methods(cells):
    return [cell.config["method"]["label"] for cell in cells]


def test_every_grid_file_expands_and_every_cell_composes():
    for name in names_in("grid"):
        cells = expand(load_grid(name), [])
        assert cells, name
        assert len({str((cell.config, cell.source)) for cell in cells}) == len(cells)


def test_scale_sets_model_head_and_data_and_a_word_of_the_user_wins():
    assert compose_run(["scale=demo"])["head"]["name"] == "mask2former"
    assert compose_run(["scale=demo", "head=none"])["head"]["name"] == "none"
    assert compose_run(["scale=demo", "input.short=96"])["input"]["short"] == 96


def test_the_schedules_of_the_papers():
    """PSPS on VOC: 20 epochs, decay after 15, short side 600; on COCO: 12 epochs, decay after 8, 480 to 800 px."""
    voc, coco = compose_run(["scale=paper"]), compose_run(["scale=paper_coco"])
    assert [coco["schedule"]["epochs"] * at for at in coco["schedule"]["decay_at"]] == [8]
    assert [voc["schedule"]["epochs"] * at for at in voc["schedule"]["decay_at"]] == [15]
    for config, batch, short in ((voc, 16, 600), (coco, 8, 800)):
        assert config["method"]["warmup"] * config["schedule"]["epochs"] == pytest.approx(1)  # the first epoch
        assert (config["schedule"]["batch_size"], config["input"]["short"], config["input"]["long"]) == (batch, short, 1333)
    assert coco["input"]["short_range"] == list(range(480, 801, 32)) and voc["input"]["short_range"] is None
    for key in ("lr", "weight_decay", "clip_norm", "backbone_lr_factor"):
        assert coco["schedule"][key] == voc["schedule"][key]
    assert (coco["model"], coco["head"], coco["dataset"]) == (voc["model"], voc["head"], voc["dataset"])


@pytest.mark.parametrize("head", ["panoptic_segformer", "panoptic_segformer_tiny"])
def test_the_quality_threshold_follows_model_and_scale_unless_it_is_given(head):
    def threshold(*words):
        return compose_run([*words, f"head={head}"])["head"]["quality_threshold"]

    expected = {"lite0": 0.25, "r50": 0.25, "r101": 0.25, "swin_l": 0.3, "tiny": 0.25}
    assert {model: threshold(f"model={model}") for model in expected} == expected
    expected = {"demo": 0.05, "mini": 0.05, "paper": 0.25, "paper_coco": 0.25}
    assert {scale: threshold(f"scale={scale}") for scale in expected} == expected
    assert threshold("scale=demo", "model=swin_l") == 0.3
    assert threshold("model=swin_l", "head.quality_threshold=0.1") == 0.1


def test_an_override_of_an_axis_chooses_among_its_values():
    assert methods(expand(grid(), ["method=psps"])) == ["psps"]
    assert methods(expand(grid(), ["method=oracle_nearest,psps"])) == ["psps", "oracle_nearest"]


def test_a_value_that_no_block_has_joins_the_first_block():
    assert methods(expand(grid(), ["method=full_masks"])) == ["full_masks"]


@pytest.mark.parametrize(
    ("axis", "values", "words", "kept"),
    [
        ("method.directed", ["true", "false"], "True", ["true"]),
        ("method.directed", ["true", "false"], "false,true", ["true", "false"]),
        ("method.stride", ["null", "8"], "null", ["null"]),
        ("method.color_weight", ["0.0", "3.0"], "3", ["3.0"]),
        ("method.temperature", ["0.07", "0.001"], "1e-3", ["0.001"]),
    ],
)
def test_a_value_of_an_axis_may_be_written_in_another_way(axis, values, words, kept):
    cells = expand(grid(blocks=[Block({"method": ["psps"], axis: values})]), [f"{axis}={words}"])
    assert [cell.axes[axis] for cell in cells] == kept


def test_a_pinned_override_wins_over_the_user():
    cells = expand(grid(), ["head=panoptic_segformer_tiny"])
    assert [cell.config["head"]["name"] for cell in cells] == ["panoptic_segformer", "panoptic_segformer", "none"]


def test_several_values_of_another_key_make_an_axis():
    cells = expand(grid(), ["schedule.lr=1e-3,1e-4", "method=psps"])
    assert [float(cell.axes["schedule.lr"]) for cell in cells] == [1e-3, 1e-4]
    assert [cell.config["schedule"]["lr"] for cell in cells] == [1e-3, 1e-4]


def test_seeds_multiply_and_reach_initialisation_and_points():
    cells = expand(grid(), ["method=psps"], seeds=[0, 5])
    assert [(c.config["seed"], c.config["dataset"]["points"]["seed"]) for c in cells] == [(0, 0), (5, 5)]


def test_equal_cells_are_one():
    assert len(expand(grid(blocks=[Block({"method": ["psps"]})] * 2), [])) == 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["method=pspss"], ["Unknown method 'pspss'", "did you mean 'psps'", "full_masks"]),
        (["schedule.lrr=1"], ["Unknown key 'schedule.lrr'", "schedule.lr"]),
        (["method=psps", "method.temperatur=1"], ["Unknown key 'method.temperatur'", "method.temperature"]),
        (["schedule.lr=[1"], ["Cannot read 'schedule.lr=[1'"]),
    ],
)
def test_an_unknown_name_lists_the_valid_ones(words, parts):
    with pytest.raises(ConfigError) as error:
        expand(grid(), words)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_grid_lists_the_valid_ones():
    with pytest.raises(ConfigError, match=r"did you mean 'quickstart'.*mini_main"):
        load_grid("quickstat")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "grid=NAME"), (["grid=g", "plan=maybe"], "plan=true"), (["grid=g", "seeds=[a]"], "seeds=[0,1,2]"),
        (["grid=g", "retry=all"], "retry=failed"),
    ],
)
def test_a_wrong_word_of_the_command_is_said(words, part):
    with pytest.raises(ConfigError) as error:
        read_request(words)
    assert part in str(error.value)


def test_seeds_may_be_a_list_or_one_number():
    assert read_request(["grid=g", "seeds=[0,1,2]"]).seeds == [0, 1, 2]
    assert read_request(["grid=g", "seeds=4"]).seeds == [4]


POINTS = {"train": "a", "val": "b"}


def test_where_a_run_is_executed_does_not_change_its_id():
    config = compose_run(["scale=demo"])
    moved = compose_run(["scale=demo", "results_dir=elsewhere", "device=cpu", "workers=3", "threads=1"])
    assert run_id(config, POINTS) == run_id(moved, POINTS)


@pytest.mark.parametrize("word", ["schedule.lr=5e-4", "input.short=96", "method.version=99", "base_version=99", "seed=1"])
def test_what_a_run_computes_changes_its_id(word):
    assert run_id(compose_run(["scale=demo", word]), POINTS) != run_id(compose_run(["scale=demo"]), POINTS)


def test_defaults_of_learned_maps_change_the_runs_that_take_them_over_and_no_other():
    def ids(*words):
        return [run_id(compose_run(["scale=mini", f"method={method}", *words]), POINTS) for method in ("psps", "fdd")]

    (psps, fdd), (same, other) = ids(), ids("learned_maps.rectify=true")
    assert psps == same and fdd != other


def test_other_points_are_another_run():
    config = compose_run(["scale=demo"])
    assert run_id(config, POINTS) != run_id(config, {**POINTS, "train": "c"})


def test_every_excluded_key_exists():
    config = compose_run(["scale=mini"])
    kept = str(identity(config, POINTS))
    for path in NOT_IDENTITY:
        if path in ("launcher", "slurm"):
            continue
        node = config
        for key in path.split("."):
            node = node[key]
    assert "results_dir" not in kept
