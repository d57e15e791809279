# SPDX-License-Identifier: Apache-2.0
"""
A frame as bytes for the page.

Four bytes, little endian, give the length of a JSON header; behind it lie the parts that its
``parts`` lists with their lengths: ``picture`` (JPEG), ``labels`` and ``confidence`` (zlib, one
byte a pixel). Labels are exact, so that the page colours them itself and can tell the class under
the cursor.
"""

from __future__ import annotations

import json
import struct
import zlib

import cv2
from dgtl_core.view.feed import Shown
import numpy as np

_QUALITY = 85
_MOST = 1280  # columns of the picture and labels that travel; a page shows hardly more
_COARSE = 4  # confidence travels at a quarter of the size: a network knows it no finer


def encode(shown: Shown) -> bytes:
    """Return a frame as the page reads it."""
    step = -(-shown.image.shape[1] // _MOST)
    image = shown.image
    if step > 1:
        image = cv2.resize(image, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    good, jpeg = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
                              [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert good
    step = -(-shown.labels.shape[1] // _MOST)  # a node may publish them at the network's size
    labels = np.ascontiguousarray(shown.labels[::step, ::step])
    parts = {'picture': jpeg.tobytes(), 'labels': zlib.compress(labels.data, 1)}
    sizes = {'picture': list(image.shape[:2]), 'labels': list(labels.shape)}
    if shown.confidence is not None:
        coarse = np.ascontiguousarray(shown.confidence[::step * _COARSE, ::step * _COARSE])
        parts['confidence'] = zlib.compress(coarse.data, 1)
        sizes['confidence'] = list(coarse.shape)
    sample = labels[::4, ::4].reshape(-1)  # of the shares a legend shows, enough
    counts = np.bincount(sample, minlength=256) / sample.size
    shares = {str(entry.id): round(float(counts[entry.id]), 4) for entry in shown.classes}
    header = json.dumps({
        'number': shown.number, 'name': shown.name, 'position': shown.position,
        'size': list(shown.image.shape[:2]), 'sizes': sizes, 'shares': shares,
        'times': {key: round(value, 2) for key, value in shown.times_ms.items()},
        'domain': dict(shown.domain) if shown.domain else None,
        'classes': shown.classes.to_list(),
        'parts': [[key, len(value)] for key, value in parts.items()]}).encode()
    return b''.join((struct.pack('<I', len(header)), header, *parts.values()))
