"""A fitted classifier as one ONNX graph: pixels in, probabilities out."""

from __future__ import annotations

import copy
import inspect
import json
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn
from torch.nn import functional as F

from .._version import __version__
from ..caching.files import replacing
from ..caching.memory import is_out_of_memory
from ..clip import Backbone, load_backbone, unit_image_features
from ..clip.towers import CLIPModel
from ..images import normalise, size_of
from ..progress import phase

if TYPE_CHECKING:
    from onnx import ModelProto

    from ._base import BaseCLIPClassifier

# The first with layer normalisation as one node; runtimes read it since 2022.
_OPSET = 17
# What one protobuf message may hold.
_MAX_BYTES = 2**31 - 2**20
_INPUT, _OUTPUT = "pixels", "probabilities"
_RESIZING = ("size", "resize_mode", "interpolation", "fill_color")
# Rounding changes a probability by far less; what an exporter got wrong, by far more.
_TOLERANCE = 1e-3
# The exporter keeps its state in globals, and Python its filters of warnings.
_ONE_AT_A_TIME = threading.Lock()


class _Graph(nn.Module):
    """What the file computes, in the steps of a prediction."""

    def __init__(
        self,
        model: CLIPModel,
        preprocess: PreprocessCfg,
        probabilities: Callable[[Tensor], Tensor],
    ):
        super().__init__()
        self.model, self.probabilities = model, probabilities
        self.preprocess = preprocess

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels of shape (n_images, height, width, 3) to probabilities."""
        batch = pixels.permute(0, 3, 1, 2)
        features = unit_image_features(self.model, normalise(batch, self.preprocess, pixels.device))
        return self.probabilities(features)


def write_onnx(estimator: BaseCLIPClassifier, path: Path) -> None:
    """Write a fitted classifier to an ONNX file, once onnxruntime gave what torch gives."""
    _need_onnx()
    if path.expanduser().is_dir():
        raise IsADirectoryError(f"path={str(path)!r} is a folder; name a file in it.")
    backbone = load_backbone(estimator.model_name, estimator.pretrained, torch.device("cpu"))
    name = f"model_name={estimator.model_name!r}"
    _check_size(backbone.model.visual, name)
    model = backbone.to_predict(estimator._checked_model(backbone))
    # What trains takes the plain path of attention; there is no export of the fused one.
    private = copy.deepcopy(model).requires_grad_(True)
    objective = estimator._objective

    def probabilities(features: Tensor) -> Tensor:
        return objective.activation(estimator._scores_of(features))

    graph = _Graph(private, backbone.preprocess, probabilities).eval()
    # By torch first, so that what is wrong with the classifier is said as such.
    batches = [_noise(size_of(backbone.preprocess), n) for n in (1, 3)]
    expected = [_by_torch(graph, batch) for batch in batches]
    with replacing(path) as temporary, phase("writing the ONNX graph"):
        try:
            content = _traced(graph, temporary)
            found = _by_onnxruntime(content, batches)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _cannot(name, str(error)) from error
        if not all(map(_agree, found, expected)):
            raise _cannot(name, "onnxruntime gives other probabilities than torch")
        temporary.write_bytes(_described(content, estimator, backbone).SerializeToString())


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export_onnx needs onnx, and onnxruntime to check what it wrote; install them with "
            f"`pip install 'skclipsvd[onnx]'` ({error})."
        ) from error


def _check_size(visual: nn.Module, name: str) -> None:
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in visual.parameters())
    if n_bytes > _MAX_BYTES:
        raise ValueError(
            f"{name}: its image tower has {n_bytes / 2**30:.1f} GiB, and one ONNX file holds less "
            "than 2. Choose a smaller model, or deploy merged_model() with open_clip."
        )


def _cannot(name: str, why: str) -> ValueError:
    why = " ".join(why.split())[:300]
    return ValueError(
        f"{name}: its image tower cannot be written as an ONNX graph ({why}). Deploy "
        "merged_model() with open_clip, or choose another model."
    )


def _traced(graph: _Graph, file: Path) -> bytes:
    """Let torch's tracing exporter write the graph: it needs no other package, and is everywhere.

    The newer one needs onnxscript, and does not export every tower in all versions of torch.
    """
    options: dict[str, Any] = dict(
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_axes={_INPUT: {0: "n_images"}, _OUTPUT: {0: "n_images"}},
        opset_version=_OPSET,
    )
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # not in torch 2.4
        options["dynamo"] = False
    batch = _noise(size_of(graph.preprocess), 2)
    with _ONE_AT_A_TIME, warnings.catch_warnings(), torch.enable_grad():
        # That the exporter is the older one, and that sizes which the file fixes are constants.
        warnings.simplefilter("ignore")
        torch.onnx.export(graph, (batch,), file, **options)
    return file.read_bytes()


def _noise(size: tuple[int, int], n: int) -> Tensor:
    """Draw pictures of coarse noise, in which a tower sees more than in fine noise."""
    coarse = torch.rand((n, 3, 4, 4), generator=torch.Generator().manual_seed(n))
    picture = F.interpolate(coarse, size, mode="bilinear")
    return (255 * picture).byte().permute(0, 2, 3, 1).contiguous()


def _by_torch(graph: _Graph, batch: Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        return graph(batch).numpy()


def _by_onnxruntime(content: bytes, batches: list[Tensor]) -> list[NDArray[np.float32]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [session.run([_OUTPUT], {_INPUT: batch.numpy()})[0] for batch in batches]


def _agree(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    return found.shape == expected.shape and np.allclose(found, expected, rtol=0, atol=_TOLERANCE)


def _described(content: bytes, estimator: BaseCLIPClassifier, backbone: Backbone) -> ModelProto:
    """Add what a reader has to know; every value of the metadata is JSON."""
    import onnx

    model = onnx.load_model_from_string(content)
    model.producer_name, model.producer_version = "skclipsvd", __version__
    values = {
        "classes": estimator.classes_.tolist(),
        "several_labels": estimator._gives_several,
        "estimator": type(estimator).__name__,
        "backbone_fingerprint": estimator.backbone_fingerprint_,
        **{name: backbone.config[name] for name in _RESIZING},
    }
    properties = {name: json.dumps(value, default=str) for name, value in values.items()}
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model)
    return model
