import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from methods import METHODS, build_labeler, method_class
from methods.base.labeler import PseudoLabeler
from tests.methods.stand_ins import categories

CONF = Path(__file__).parents[2] / "benchmark" / "conf" / "method"
MINE = {
    "psps": "psps",
    "nearest_point": "nearest_point",
    "semantics_nearest": "semantics_nearest",
    "full_masks": "full_masks",
    "oracle_nearest": "oracle_semantics",
    "oracle_geodesic": "oracle_semantics",
}


def test_every_name_is_a_labeler_class():
    assert set(MINE.values()) <= set(METHODS)
    for name, labeler in METHODS.items():
        assert issubclass(labeler, PseudoLabeler)
        assert method_class(name) is labeler


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
    return {key: value for key, value in config.items() if key not in ("label", "version")}


@pytest.mark.parametrize("file, name", MINE.items())
def test_config_files_hold_exactly_the_options(file, name):
    config = config_of(file)
    assert config.pop("name") == name
    options = list(inspect.signature(method_class(name)).parameters.values())[2:]
    defaults = {p.name: p.default for p in options}
    assert all(p.kind is p.KEYWORD_ONLY for p in options)
    if name == "oracle_semantics":
        assert config.keys() <= defaults.keys() and config["assignment"] == file.removeprefix("oracle_")
    else:
        assert config == defaults


def test_an_unknown_option_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"method 'psps' has no option lambda_color.*lambda_edge"):
        build_labeler("psps", categories(), 16, {"lambda_color": 1})
    labeler = build_labeler("oracle_semantics", categories(), 16, {"assignment": "geodesic"})
    assert labeler.assignment == "geodesic" and labeler.channels == 16
