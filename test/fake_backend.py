# SPDX-License-Identifier: Apache-2.0
"""
The node with a backend and a decoder that do what a file says, for faults on demand.

``python -m fake_backend`` takes what segment_node takes; the file is named by FAKE_SCRIPT and read
for each picture. Its words: ``fine``, ``sleep SECONDS``, ``hang`` (until the file says something
else), ``raise TEXT`` (with escapes), ``memory``, ``garbage`` (labels of no shape), ``decoder``
(it hangs for pictures of 40 rows, until the file says something else).
"""

import os
from pathlib import Path
import sys
import time

from dgtl_core.predictor import Predictor, Segmentation
from dgtl_ros import image_codec, loading, segment_node
import numpy as np

SCRIPT = Path(os.environ['FAKE_SCRIPT'])


def told():
    return SCRIPT.read_text(encoding='utf-8').partition(' ')[::2]


def hang(word):
    while told()[0] == word:
        time.sleep(0.02)


class Scripted:
    """The real predictor, disturbed."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def timed_many(self, images):
        word, argument = told()
        if word == 'hang':
            hang(word)
        elif word == 'sleep':
            time.sleep(float(argument))
        elif word == 'raise':
            raise RuntimeError(argument.encode().decode('unicode_escape'))
        elif word == 'memory':
            raise MemoryError('the GPU is full')
        elif word == 'garbage':
            timing = self._real.timed_many(images)[1]
            return [Segmentation(np.zeros(3, np.float64), np.zeros(7, np.uint8))] * len(
                images), timing
        return self._real.timed_many(images)


def load(*args, **kwargs):
    return Scripted(Predictor.load(*args, **kwargs))


def decode_compressed(*args):
    image = real_decode(*args)
    if image.shape[0] == 40:
        hang('decoder')
    return image


real_decode = image_codec.decode_compressed
image_codec.decode_compressed = decode_compressed
loading.Predictor = type('Loader', (), {'load': staticmethod(load)})

if __name__ == '__main__':
    sys.exit(segment_node.main())
