"""mmdet on mmcv-lite: each check runs in a fresh interpreter, because the hooks act on first imports."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(code: str, path: Path | None = None) -> str:
    """Output of a fresh interpreter; ``path`` comes first on its module search path."""
    prefix = f"import sys; sys.path[:0] = [{str(path)!r}]\n" if path else ""
    done = subprocess.run([sys.executable, "-c", prefix + code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy():
    assert run("import sys, methods.base.options; print({'torch', 'mmcv', 'timm'} & set(sys.modules))") == "set()"


def test_activating_twice_installs_the_hooks_once():
    code = """
import sys, methods.base
before = list(sys.meta_path)
methods.base.mmdet_compat.activate()
print(before == sys.meta_path)
"""
    assert run(code) == "True"


def _fake_mmcv(folder: Path) -> None:
    (folder / "mmcv/ops").mkdir(parents=True)
    (folder / "mmcv/__init__.py").touch()
    (folder / "mmcv/_ext.py").write_text("compiled = True\n")
    (folder / "mmcv/ops/__init__.py").touch()
    (folder / "mmcv/ops/multi_scale_deform_attn.py").write_text("import mmcv._ext\nIS_CUDA_AVAILABLE = True\n")


def test_a_compiled_mmcv_is_left_alone(tmp_path):
    _fake_mmcv(tmp_path)
    code = """
import methods.base, mmcv._ext, mmcv.ops.multi_scale_deform_attn as attention
print(mmcv._ext.compiled, attention.IS_CUDA_AVAILABLE, methods.base.mmdet_compat.uses_stub())
"""
    assert run(code, tmp_path) == "True True False"


def _fake_torchvision(folder: Path, message: str) -> None:
    (folder / "torchvision").mkdir()
    (folder / "torchvision/__init__.py").write_text(f"""
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError({message!r})
signature = torch.ops.torchvision.qnms.default._schema
""")


def test_torchvision_gets_the_missing_schemas(tmp_path):
    _fake_torchvision(tmp_path, "operator torchvision::nms does not exist")
    output = run("import methods.base, torchvision; print(torchvision.signature)", tmp_path)
    assert output == "torchvision::qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def test_other_errors_of_torchvision_are_not_hidden(tmp_path):
    _fake_torchvision(tmp_path, "built for another CUDA")
    with pytest.raises(AssertionError, match="built for another CUDA"):
        run("import methods.base, torchvision", tmp_path)


def test_stub_ops_name_themselves_and_pytorch_versions_are_used():
    """The focal loss is checked against torchvision's on one-hot targets; class index C means background."""
    code = """
import methods.base
import torch
from mmdet.models.losses import sigmoid_focal_loss
from torchvision.ops import sigmoid_focal_loss as reference
import mmcv._ext, mmcv.ops.multi_scale_deform_attn as attention
assert methods.base.mmdet_compat.uses_stub() and not attention.IS_CUDA_AVAILABLE
try:
    mmcv._ext.roi_align_forward(1)
except NotImplementedError as error:
    assert "'roi_align_forward'" in str(error)
else:
    raise SystemExit("the stub op did not raise")
pred, target = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 3])
one_hot = torch.eye(4)[target][:, :3]
torch.testing.assert_close(sigmoid_focal_loss(pred, target, reduction="sum"), reference(pred, one_hot, reduction="sum"))
print("fine")
"""
    assert run(code) == "fine"
