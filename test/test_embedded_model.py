# SPDX-License-Identifier: Apache-2.0
"""
The embedded model labels as torch did when it was trained.

``python test/test_embedded_model.py CHECKPOINT``, with the checkpoint that was exported, records
what torch makes of it: nothing folded, float32.
"""

from pathlib import Path
import sys

from dgtl_core.predictor import Predictor
from dgtl_core.streetworld import CONDITIONS, StreetWorld
import numpy as np

RECORDED = Path(__file__).parent / 'golden' / 'dgtl_mini.npz'


def pictures(size):
    return [StreetWorld(seed=1000, size=size, condition=condition).picture(0).image
            for condition in CONDITIONS]


def test_the_embedded_model_labels_as_torch_did():
    predict = Predictor.load(device='cpu')
    with np.load(RECORDED) as recorded:
        assert list(recorded) == list(CONDITIONS)
        for image, expected in zip(pictures(predict.input_size), recorded.values(), strict=True):
            labels, _ = predict(image)
            # Old versions of OpenCV draw and of ONNX Runtime round otherwise: 0.9945 in rain.
            assert (labels == expected).mean() > 0.99
            assert len(np.unique(labels)) >= 4


def record(checkpoint: Path) -> None:
    from dgtl_core.model.checkpoint import load_segmenter
    from small_segmenter import normalised
    import torch

    segmenter, config = load_segmenter(checkpoint)
    segmenter.eval()
    with torch.inference_mode():
        labels = [segmenter.scores(normalised(image, config)).argmax(dim=1)[0]
                  for image in pictures(config.input_size)]
    found = {condition: label.to(torch.uint8).numpy()
             for condition, label in zip(CONDITIONS, labels, strict=True)}
    np.savez_compressed(RECORDED, **found)


if __name__ == '__main__':
    record(Path(sys.argv[1]))
