"""Makes mmdet run on mmcv-lite, that is, without compiled ops. The only file that patches other packages.

`activate` installs import hooks, so nothing is imported before somebody needs it:

* ``mmcv._ext``, which ``mmcv.ops`` loads eagerly, becomes a stub whose ops raise NotImplementedError. The hook asks last:
  a really installed mmcv is found first and stays as it is, and so do the two modules below.
* ``mmcv.ops.multi_scale_deform_attn``: CUDA tensors take the pure PyTorch deformable attention, CPU tensors the compiled one
  of `methods.base.deformable_attention` (and the whole layer from there), which gives the same several times faster.
* ``mmdet.models.losses.focal_loss``: `sigmoid_focal_loss` becomes the pure PyTorch one, on one-hot targets.
* ``torchvision``: its CUDA build beside a CPU-only torch dies on import because its C++ ops are not registered. Only then
  are the missing schemas declared, and the import goes on.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

_EXTENSION = "mmcv._ext"
_UNREGISTERED_OPS = "operator torchvision::nms does not exist"
_declared_ops: list[object] = []
"""Keeps the torch.library.Library alive: its declarations vanish with it."""

Execute = Callable[[ModuleType], None]


class _MissingOps(ModuleType):
    """Stands for mmcv's compiled extension: has every op, each of which says that it is missing."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(
                f"The compiled mmcv op '{name}' was called, but only mmcv-lite is installed; install mmcv 2.1.0 built "
                "for this torch, or use a network without this op."
            )

        missing.__name__ = name
        return missing


def uses_stub() -> bool:
    """Whether mmcv's compiled ops were asked for and replaced by the stub."""
    return isinstance(sys.modules.get(_EXTENSION), _MissingOps)


class _StubFinder(MetaPathFinder, Loader):
    """Last in ``sys.meta_path``: provides the stub if no real extension was found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname == _EXTENSION else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _MissingOps(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _PatchFinder(MetaPathFinder):
    """First in ``sys.meta_path``: wraps the execution of the few modules that need a change."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        patch = _PATCHES.get(fullname)
        if patch is None:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((s for f in others if (s := f.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: patch(execute, module)  # type: ignore[method-assign]
        return spec


def _deformable_attention(execute: Execute, module: ModuleType) -> None:
    execute(module)
    if not uses_stub():
        return
    module.IS_CUDA_AVAILABLE = False  # type: ignore[attr-defined]
    on_any_device = module.multi_scale_deformable_attn_pytorch
    layer_on_any_device = module.MultiScaleDeformableAttention.forward

    def multi_scale_deformable_attn_pytorch(value, value_spatial_shapes, sampling_locations, attention_weights):
        """mmcv's function of this name, on a CPU by `deformable_attention`."""
        from methods.base.deformable_attention import deformable_attention  # compiled: only where it is used

        attend = deformable_attention if value.device.type == "cpu" else on_any_device
        return attend(value, value_spatial_shapes, sampling_locations, attention_weights)

    def forward(self, query, **inputs):
        """mmcv's `MultiScaleDeformableAttention.forward`, on a CPU by `attention_layer`."""
        from methods.base.deformable_attention import attention_layer

        usual = query.device.type != "cpu" or not self.batch_first
        return layer_on_any_device(self, query, **inputs) if usual else attention_layer(self, query, **inputs)

    module.multi_scale_deformable_attn_pytorch = multi_scale_deformable_attn_pytorch  # type: ignore[attr-defined]
    module.MultiScaleDeformableAttention.forward = forward  # type: ignore[attr-defined]


def _pytorch_focal_loss(execute: Execute, module: ModuleType) -> None:
    execute(module)
    if not uses_stub():
        return
    from torch.nn.functional import one_hot

    def sigmoid_focal_loss(pred, target, weight=None, gamma=2.0, alpha=0.25, reduction="mean", avg_factor=None):
        """`py_sigmoid_focal_loss` with class indices (N,), where C means background, as the compiled op takes them."""
        classes = pred.size(1)
        one_hot_target = one_hot(target, num_classes=classes + 1)[:, :classes]
        return module.py_sigmoid_focal_loss(pred, one_hot_target, weight, gamma, alpha, reduction, avg_factor)

    module.sigmoid_focal_loss = sigmoid_focal_loss  # type: ignore[attr-defined]


def _torchvision_without_ops(execute: Execute, module: ModuleType) -> None:
    try:
        execute(module)
    except RuntimeError as error:
        if _UNREGISTERED_OPS not in str(error):
            raise
        from torch.library import Library

        library = Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared_ops.append(library)
        execute(module)


_PATCHES: dict[str, Callable[[Execute, ModuleType], None]] = {
    "mmcv.ops.multi_scale_deform_attn": _deformable_attention,
    "mmdet.models.losses.focal_loss": _pytorch_focal_loss,
    "torchvision": _torchvision_without_ops,
}


def activate() -> None:
    """Install the import hooks; calling it again changes nothing."""
    if not any(isinstance(finder, _PatchFinder) for finder in sys.meta_path):
        # mmdet's encoder calls meshgrid without the argument that torch announces for the future
        warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
        sys.meta_path.insert(0, _PatchFinder())
        sys.meta_path.append(_StubFinder())
