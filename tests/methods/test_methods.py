import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from methods import METHODS, build_labeler, method_class
from methods.base.encoder import Encoder
from methods.base.labeler import PseudoLabeler
from methods.base.losses import Focal
from methods.base.mask2former import Mask2FormerHead
from methods.base.options import call_with_options
from methods.base.panoptic_segformer import PanopticSegFormerHead
from methods.base.semantic_branch import SemanticBranch
from methods.base.semantic_method import SemanticMethod
from tests.methods.stand_ins import categories, defaults_of

CONF = Path(__file__).parents[2] / "benchmark" / "conf" / "method"
MINE = {
    "psps": "psps",
    "point2mask": "point2mask",
    "fdd": "fdd",
    "anchor_query": "anchor_query",
    "agmm": "agmm",
    "agmm_semantic": "agmm_semantic",
    "partial_cross_entropy": "partial_cross_entropy",
    "nearest_point": "nearest_point",
    "semantics_nearest": "semantics_nearest",
    "full_masks": "full_masks",
    "oracle_nearest": "oracle_semantics",
    "oracle_geodesic": "oracle_semantics",
    "oracle_transport": "oracle_semantics",
}


def test_every_name_is_a_class_with_one_of_the_interfaces():
    assert set(MINE.values()) <= set(METHODS)
    for name, method in METHODS.items():
        assert issubclass(method, PseudoLabeler) != issubclass(method, SemanticMethod)
        assert method_class(name) is method


def test_an_unknown_name_lists_the_known_ones():
    for look_up in (method_class, METHODS.__getitem__):
        with pytest.raises(KeyError, match=r"'pspss'.*full_masks.*psps"):
            look_up("pspss")
    assert METHODS.get("pspss") is None and "psps" in METHODS


def test_looking_at_the_names_imports_no_method():
    script = (
        "import sys, methods; sorted(methods.METHODS); import methods.ops.geodesic; "
        "assert not any(m.startswith(('methods.psps', 'mmdet', 'methods.base')) for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def config_of(file):
    """The options in a method's config file beside the network of the papers, without the keys of its table row."""
    model = OmegaConf.load(CONF.parent / "model" / "r50.yaml")
    schedule = OmegaConf.load(CONF.parent / "scale" / "paper.yaml").schedule
    merged = OmegaConf.create({"model": model, "schedule": schedule, "method": OmegaConf.load(CONF / f"{file}.yaml")})
    config = OmegaConf.to_container(merged, resolve=True)["method"]
    return {key: value for key, value in config.items() if key not in ("label", "version", "defaults")}


@pytest.mark.parametrize("file, name", MINE.items())
def test_config_files_hold_exactly_the_options(file, name):
    config = config_of(file)
    assert config.pop("name") == name
    options = list(inspect.signature(method_class(name)).parameters.values())[2:]
    defaults = defaults_of(method_class(name))
    assert list(defaults) == [p.name for p in options]
    assert all(p.kind is p.KEYWORD_ONLY for p in options)
    if name == "oracle_semantics":
        assert config.pop("assignment") == file.removeprefix("oracle_")
        assert config == {key: defaults[key] for key in config}
    else:
        assert config == defaults


def test_an_unknown_option_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"method 'psps' has no option lambda_color.*lambda_edge"):
        build_labeler("psps", categories(), 16, {"lambda_color": 1})
    labeler = build_labeler("oracle_semantics", categories(), 16, {"assignment": "geodesic"})
    assert labeler.split.assignment == "geodesic" and labeler.channels == 16


def test_the_model_config_of_the_papers_holds_exactly_the_options_of_the_encoder():
    config = OmegaConf.to_container(OmegaConf.load(CONF.parent / "model" / "r50.yaml"))
    branch = defaults_of(SemanticBranch)
    del branch["channels"]
    assert config.pop("branch") == branch
    del config["name"], config["backbone"]
    assert config == defaults_of(Encoder)


def test_every_model_config_has_the_keys_of_the_papers():
    names = ("r50", "r101", "swin_l", "lite0", "tiny")
    papers, *others = (OmegaConf.load(CONF.parent / "model" / f"{name}.yaml") for name in names)
    for other in others:
        assert other.keys() - {"head"} == papers.keys() and other.branch.keys() == papers.branch.keys()


@pytest.mark.parametrize("name, head", [("mask2former", Mask2FormerHead), ("panoptic_segformer", PanopticSegFormerHead)])
def test_head_configs_hold_exactly_the_options(name, head):
    files = {"model": "r50", "head": name}
    parts = {group: OmegaConf.load(CONF.parent / group / f"{file}.yaml") for group, file in files.items()}
    config = OmegaConf.to_container(OmegaConf.create(parts), resolve=True)["head"]
    assert config.pop("name") == name
    assert config == {key: value for key, value in defaults_of(head).items() if key != "fine_channels"}
    tiny = OmegaConf.load(CONF.parent / "head" / f"{name}_tiny.yaml")
    assert set(tiny) - {"defaults", "name"} <= set(config)


def test_a_group_of_options_is_checked_by_name():
    group = call_with_options(lambda scale=Focal(): scale, {"scale": {"gamma": 1}}, "thing")
    assert group == Focal(gamma=1)
    with pytest.raises(ValueError, match=r"thing, group 'scale', has no option gama; its options are alpha, gamma"):
        call_with_options(lambda scale=Focal(): scale, {"scale": {"gama": 1}}, "thing")
