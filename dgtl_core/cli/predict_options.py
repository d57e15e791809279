# SPDX-License-Identifier: Apache-2.0
"""The options of ``dgtl predict``, and its help."""

from __future__ import annotations

import argparse
from pathlib import Path

from dgtl_core.cli.arguments import at_least
from dgtl_core.processing import RESIZE_MODES
from dgtl_core.recorded.run import KINDS
from dgtl_core.recorded.sink import SinkError
from dgtl_core.recorded.storage import Storage
from dgtl_core.runtime.contract import RunOptions

_DESCRIPTION = """Label every frame of the sources and write what you ask for.

A SOURCE is a picture, a folder of pictures, a glob, a video, a camera (camera:0), a bag (.mcap,
.db3, .bag, or the folder that rosbag2 makes), or streetworld. You can give several. A run that was
stopped goes on where it was when you repeat the command."""
_EPILOG = """What --save can write, any of these, separated by commas:
  labels        8-bit PNG of class ids, 255 = unlabelled
  color         PNG, each class in its colour
  overlay       JPEG, the colours over the picture
  confidence    8-bit PNG, 255 = certain
  confidence16  16-bit PNG, 65535 = certain, as the BRAVO challenge requires
  sheet         one contact sheet of the run
  video         MP4 of the overlays for each source, plays in a browser
  bag           of a bag: its pictures with /segmentation, confidence and class map
  rrd           a recording for the rerun viewer

DIR/predict.jsonl has one JSON object for each frame: pixels of each class, mean confidence, times,
and the domain verdict: whether the model can judge such pictures (familiar, shifted or unusable).

examples:
  dgtl predict holiday/ --out labels --save labels,overlay,sheet
  dgtl predict drive.mp4 --out drive --save video --stride 2
  dgtl predict drive.mcap --topic /front/image_raw --out drive --save bag"""


def predict_parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog='dgtl predict', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sources', nargs='+', metavar='SOURCE',
                        help='pictures, folders, videos, bags or cameras to label')
    parser.add_argument('--out', type=_place, required=True, metavar='DIR',
                        help='write the results into this folder, which must be new or empty. An '
                             'address that fsspec can write to works too: s3://bucket/run')
    model = parser.add_argument_group('model')
    model.add_argument('--model', metavar='FILE|NAME',
                       help='use this .onnx, .engine or .safetensors file, or the weights that '
                            '"dgtl fetch" brought under this name (default: the embedded '
                            'model)')
    model.add_argument('--size', type=at_least(1), nargs=2, metavar=('H', 'W'),
                       help='stop if the input size of the network is another one')
    model.add_argument('--resize-mode', choices=RESIZE_MODES, default=RESIZE_MODES[0],
                       help='bring pictures to that size by stretching them, with bars '
                            '(letterbox), or by cutting off what is too much (crop), which is not '
                            'labelled then (default: %(default)s)')
    model.add_argument('--batch', type=at_least(1), default=1, metavar='N',
                       help='give the network N frames at once (default: %(default)s)')
    model.add_argument('--device', default=RunOptions.device,
                       help='run on auto, cpu, cuda or cuda:N (default: %(default)s)')
    model.add_argument('--backend', default=RunOptions.backend,
                       help='run with auto, onnxruntime, tensorrt or torch (default: '
                            '%(default)s)')
    model.add_argument('--precision', default=RunOptions.precision,
                       help='calculate in auto, fp32, fp16, bf16 or int8 (default: %(default)s)')
    model.add_argument('--ray', nargs='?', const='', metavar='ADDRESS',
                       help='run on the Ray cluster at this address; without one, on that of '
                            'RAY_ADDRESS or the cores of this machine. All its nodes must see the '
                            'sources and DIR. Write this option last, and add --device cuda where '
                            'the nodes have GPUs')
    frames = parser.add_argument_group('frames')
    frames.add_argument('--topic', action='append', default=[], metavar='NAME',
                        help='take the pictures of this topic of a bag; repeat it for several '
                             'topics (default: the only topic with pictures)')
    frames.add_argument('--stride', type=at_least(1), default=1, metavar='N',
                        help='label every Nth frame (default: %(default)s)')
    frames.add_argument('--limit', type=at_least(1), default=0, metavar='N',
                        help='label at most N frames of each source and topic (default: all)')
    frames.add_argument('--rotation', type=int, choices=(0, 90, 180, 270), default=0,
                        help='turn the pictures clockwise by so many degrees before the network '
                             'sees them; the results fit the pictures as they came (default: '
                             '%(default)s)')
    frames.add_argument('--ego-mask', type=Path, metavar='PNG',
                        help='label nothing where this picture is 255, such as your own vehicle')
    results = parser.add_argument_group('results')
    results.add_argument('--save', type=_kinds, default=('labels',), metavar='KINDS',
                         help='write these, see below (default: labels)')
    results.add_argument('--classes', type=_words, default=(), metavar='NAMES',
                         help='keep only these classes, separated by commas; all others become '
                              '255')
    results.add_argument('--group', type=Path, metavar='FILE',
                         help='join classes of the model to classes of your own; the YAML file '
                              'has lines such as "name: [class, class]"')
    results.add_argument('--threshold', type=_threshold, default=(0.0, {}), metavar='P',
                         help='make 255 of labels with less confidence than this, 0..1; single '
                              'classes can have their own: 0.5,car=0.8')
    results.add_argument('--palette', type=Path, metavar='FILE',
                         help='take the colours from this YAML file: "class: [r, g, b]"')
    results.add_argument('--alpha', type=_share, default=0.5, metavar='A',
                         help='colour overlays this strongly, 0..1 (default: %(default)s)')
    results.add_argument('--force', action='store_true',
                         help='write into a folder that is not empty, and replace what is there')
    results.add_argument('--json', action='store_true',
                         help='print the summary as one JSON object')
    results.add_argument('--quiet', action='store_true', help='print only faults')
    return parser


def _place(text: str) -> Path | Storage:
    if not text.strip():
        raise argparse.ArgumentTypeError('must name a folder, got nothing')
    try:
        return Storage(text) if '://' in text else Path(text)
    except SinkError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'must be a number in 0..1, got {text!r}')
    return value


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(',') if word.strip())


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(_words(text)))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise argparse.ArgumentTypeError(
            f'knows {", ".join(KINDS)}; got {", ".join(unknown) or "nothing"}')
    return kinds


def _threshold(text: str) -> tuple[float, dict[str, float]]:
    default, single = 0.0, {}
    for word in _words(text):
        name, equals, value = word.rpartition('=')
        if equals:
            single[name.strip()] = _share(value)
        else:
            default = _share(word)
    return default, single
