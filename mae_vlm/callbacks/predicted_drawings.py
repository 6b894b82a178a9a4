"""Pictures with the answer on them, as files.

Letters: N objects, C channels, H, W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.io import encode_png
from torchvision.ops import masks_to_boxes
from torchvision.utils import draw_bounding_boxes

from mae_vlm import storage
from mae_vlm.callbacks.predicted_maps import map_file
from mae_vlm.data.targets import nearest
from mae_vlm.heads.parts.box_drawing import drawing
from mae_vlm.heads.parts.palette import painted, palette
from mae_vlm.heads.parts.word_drawing import with_words
from mae_vlm.types import Frame, Prediction

_NOTHING = torch.zeros(0, 4)
_BELIEVED = 0.5  # score from which on objects are drawn, where a head has not measured its own threshold
_CLEAR = 0.5  # how much of a picture shines through its map


def write_drawing(out: Path, prediction: Prediction, image_CHW: Tensor, frame: Frame | None, head: Any) -> Path:
    """Write the prepared picture, without its padding, with what ``head`` says of it: objects it believes, a map, a class, or words.

    Small pictures are enlarged. Raises OSError where it cannot be written.
    """
    if frame is not None:
        image_CHW = image_CHW[:, : frame.rows, : frame.columns]
    file = map_file(out, prediction.id)
    png = encode_png(drawn(prediction, image_CHW.cpu(), frame, head))
    storage.write_whole(file, lambda opened: opened.write(png.numpy()))
    return file


def drawn(prediction: Prediction, image_CHW: Tensor, frame: Frame | None, head: Any) -> Tensor:
    """uint8 ``[3, H, W]``."""
    if prediction.said is not None:
        return with_words(image_CHW, [f"{one.question} {one.text}".strip() for one in prediction.said])
    names = head.names or [str(number) for number in range(head.classes)]
    map_HW = _map(prediction)
    if map_HW is not None and frame is not None:
        image_CHW = _under_map(image_CHW, nearest(map_HW, frame), len(names))
    if (prediction.boxes is not None or prediction.masks is not None) and frame is not None:
        return _with_boxes(prediction, image_CHW, frame, head, names)
    plain_CHW = drawing(image_CHW, _NOTHING, _NOTHING[:, 0].long(), len(names))
    if prediction.scores is None:
        return plain_CHW
    best = int(prediction.scores.argmax())
    word = f"{float(prediction.scores[0]):.4g}" if head.classes == 1 else f"{names[best]} {float(prediction.scores[best]):.2f}"
    whole_14 = torch.tensor([[0.0, 0.0, plain_CHW.shape[2] - 1, plain_CHW.shape[1] - 1]])
    labelled: Tensor = draw_bounding_boxes(plain_CHW, whole_14, labels=[word], colors="white", label_colors="white")
    return labelled


def _with_boxes(prediction: Prediction, image_CHW: Tensor, frame: Frame, head: Any, names: list[str]) -> Tensor:
    assert prediction.object_scores is not None and prediction.object_classes is not None
    sure_N = prediction.object_scores >= float(getattr(head, "threshold", _BELIEVED))
    boxes_N4 = prediction.boxes
    if boxes_N4 is None:
        assert prediction.masks is not None
        sure_N &= prediction.masks.flatten(1).any(1)
        boxes_N4 = torch.zeros(len(sure_N), 4)
        boxes_N4[sure_N] = masks_to_boxes(prediction.masks[sure_N]) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    classes_N, scores_N = prediction.object_classes[sure_N], prediction.object_scores[sure_N]
    words = [f"{names[number]} {score:.2f}" for number, score in zip(classes_N.tolist(), scores_N.tolist(), strict=True)]
    return drawing(image_CHW, frame.inward(boxes_N4[sure_N]), classes_N, len(names), words)


def _map(prediction: Prediction) -> Tensor | None:
    """A class for every pixel, -1 where there is none, where the answer has one."""
    if prediction.segments is None:
        return prediction.semantic
    assert prediction.object_classes is not None
    return torch.cat([torch.tensor([-1]), prediction.object_classes])[prediction.segments.long()]


def _under_map(image_CHW: Tensor, classes_HW: Tensor, classes: int) -> Tensor:
    """The picture as float 0 to 1 with the colours of its classes over it."""
    scale = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(image_CHW.dtype, 1.0)
    colours_CHW = painted(classes_HW[None].short(), palette(classes))[0]
    return _CLEAR * image_CHW[:3].float() / scale + (1 - _CLEAR) * colours_CHW
