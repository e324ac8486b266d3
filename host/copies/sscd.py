"""SSCD (arXiv 2202.10261): its authors' weights in the network that torchvision builds. Never a TorchScript file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50

from ..core import store
from ..core.files import reason
from .detectors import Features

DIMENSIONS, POWER = 512, 3.0
SMALL_EDGE = 288
MOST_OBLONG = 20
"""Long edge over small edge: what is resized to SMALL_EDGE would fill the memory."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAME = 0.75
"""Cosine from which pairs of DISC are copies with a precision of 90 %, as its authors measured for sscd_disc_mixup."""
RIGHT_FILE = (
    "Take sscd_disc_mixup.torchvision.pt (a file of weights for torchvision's ResNet-50) from its authors' page; .torchscript.pt and "
    ".classy.pt are other formats, and the `large` model is another network."
)
FOLDER = "clip_vision"
"""Of ComfyUI's model folders."""


class _GeM(nn.Module):
    """Generalised mean over all places."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-6).pow(POWER).mean((2, 3), keepdim=True).pow(1 / POWER)


def names() -> list[str]:
    """Files that may hold weights."""
    return [n for n in store.of_comfyui(FOLDER) if "sscd" in n.lower()]


def load(name: str) -> Features:
    """The detector of a weights file; ValueError that names the right file for any other."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise ValueError(f"There is no file {name!r} in the clip_vision folder. {RIGHT_FILE}")
    return of_weights(read(Path(path)))


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file, without running anything in it."""
    try:
        found: Any = comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:  # whatever the unpickler meets in a file that is none of these
        raise ValueError(f"{path.name!r} cannot be read as SSCD weights ({reason(error)}). {RIGHT_FILE}") from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path.name!r} holds no plain weights. {RIGHT_FILE}")
    return found


def of_weights(weights: dict[str, Tensor]) -> Features:
    """The detector of SSCD's weights; ValueError if they are another network's."""
    network = resnet50(num_classes=DIMENSIONS)
    network.avgpool = _GeM()
    wanted = network.state_dict()
    given = {k.removeprefix("backbone."): v for k, v in weights.items()}
    missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
    unlike = [k for k in wanted if k in given and given[k].shape != wanted[k].shape]
    if missing or unlike:
        what = f"{missing[0]!r} is missing" if missing else f"{unlike[0]!r} has the shape {tuple(given[unlike[0]].shape)}"
        raise ValueError(f"These are not SSCD's weights for ResNet-50: {what}. {RIGHT_FILE}")
    network.load_state_dict({k: given.get(k, v) for k, v in wanted.items()})
    network.train(False)
    device = comfy.model_management.text_encoder_device()
    patcher = comfy.model_patcher.ModelPatcher(
        network, load_device=device, offload_device=comfy.model_management.text_encoder_offload_device()
    )
    return Features(f"sscd-{_digest(given)}", SAME, lambda pictures: _encoded(patcher, pictures))


def prepared(pictures: Tensor) -> Tensor:
    """[n, 3, h, w] in [0, 1] -> as its authors feed the network: the small edge at 288, ImageNet's mean and deviation."""
    h, w = pictures.shape[2:]
    if max(h, w) > MOST_OBLONG * min(h, w):
        raise ValueError(f"A picture of {w} x {h} pixels is too narrow a strip for SSCD. Cut it, or use the built-in detector.")
    scale = SMALL_EDGE / min(h, w)
    # as torchvision's Resize: the long edge is cut to a whole number
    size = (SMALL_EDGE, int(w * scale)) if h <= w else (int(h * scale), SMALL_EDGE)
    resized = F.interpolate(pictures, size=size, mode="bilinear", antialias=True, align_corners=False)
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1).to(pictures) for v in (MEAN, DEVIATION))
    return (resized - mean) / deviation


def _encoded(patcher: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Descriptors [n, 512], and the features of every place [n, rows, columns, 2048]."""
    comfy.model_management.load_models_gpu([patcher])
    network, x = patcher.model, prepared(pictures.float()).to(patcher.load_device)
    with torch.no_grad():
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        places = network.layer4(network.layer3(network.layer2(network.layer1(x))))
        return network.fc(network.avgpool(places).flatten(1)), places.movedim(1, -1)


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in ("conv1.weight", "layer3.0.conv1.weight", "fc.weight"):
        digest.update(weights[key].detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
