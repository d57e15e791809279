# SPDX-License-Identifier: Apache-2.0
"""``dgtl predict SOURCE... --out DIR``: labels for pictures, videos and bags."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
import json
import logging
from pathlib import Path
import sys
import time
from typing import Any

from dgtl_core.files import file_sha256
from dgtl_core.groups import ClassGroups, least_confidence, recolored
from dgtl_core.model_file import model_sha256
from dgtl_core.predictor import default_model, EngineOptions, Predictor
from dgtl_core.processing import read_mask, RESIZE_MODES
from dgtl_core.progress import Progress
from dgtl_core.recorded.bag import Bag
from dgtl_core.recorded.cluster import label_on_cluster
from dgtl_core.recorded.frame import Source, SourceError
from dgtl_core.recorded.journal import Journal, ResultsExistError
from dgtl_core.recorded.labels import only, Rules
from dgtl_core.recorded.run import CALLS, Job, KINDS, label
from dgtl_core.recorded.sink import SinkError
from dgtl_core.recorded.sources import open_sources
from dgtl_core.recorded.storage import Storage
from dgtl_core.recorded.summary import summarize, summary_text
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.strict import read_yaml
from dgtl_core.zoo.cache import find_model

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


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR if args.quiet else logging.WARNING,
                        format='%(levelname)s: %(message)s')
    try:
        sources = open_sources(
            args.sources, args.topic, args.out if isinstance(args.out, Path) else None)
    except SourceError as error:
        parser.error(str(error))
    if args.ray is not None and 'sheet' in args.save:
        parser.error('--ray makes no contact sheet: leave out "sheet" or --ray')
    if 'bag' in args.save and not any(isinstance(source, Bag) for source in sources):
        parser.error('--save bag is for bags, and none of the sources is one')
    if isinstance(args.out, Storage) and 'sheet' in args.save:
        parser.error('a contact sheet is made in a folder of this machine: leave out "sheet", or '
                     'name such a folder with --out')
    path = _model(args)
    predict = Predictor.load(
        path, args.backend, args.device, resize_mode=args.resize_mode, precision=args.precision,
        engine=EngineOptions(max_batch=args.batch), calls=_calls(args, sources))
    try:
        if args.size and tuple(args.size) != predict.input_size:
            height, width = predict.input_size
            parser.error(
                f'--size {args.size[0]} {args.size[1]}: the model takes {height} {width}, which '
                'lies in the file; export it at another size: python -m training.export '
                'CHECKPOINT OUT.onnx --size H W')
        try:
            out = args.out.absolute() if isinstance(args.out, Path) else args.out
            job = Job(out=out, kinds=args.save, rules=_rules(args, predict), alpha=args.alpha,
                      batch=args.batch, stride=args.stride, limit=args.limit)
            journal = Journal(args.out, _settings(args, path), args.force)
        except (ResultsExistError, ValueError) as error:
            parser.error(str(error))
        try:
            return _run(args, predict, sources, job, journal)
        finally:
            journal.close()
    finally:
        predict.close()


def _run(args: argparse.Namespace, predict: Predictor, sources: Sequence[Source], job: Job,
         journal: Journal) -> int:
    finished = {name: frame.get('source') for name, frame in journal.frames.items()
                if frame.get('source') in journal.sources or not job.by_source}
    progress = Progress(
        _total(args, sources, Counter(finished.values())), 'frame', args.quiet)
    if journal.resumed and not args.quiet:
        progress.note(f'dgtl predict: going on with {args.out}, where {len(finished)} frames '
                      'are finished')
    new, broken, files = 0, [], [f for s in journal.sources.values() for f in s['files']]
    finished_frames, finished_sources = set(finished), set(journal.sources)
    start = time.perf_counter()
    try:
        work = (sources, job, finished_frames, finished_sources)
        records = label(predict, *work) if args.ray is None else label_on_cluster(
            args.ray, (str(_model(args).absolute()), args.backend, args.device, args.precision,
                       args.resize_mode), *work)
        for record in records:
            if 'frame' in record:
                journal.frames.pop(record['frame'], None)  # so that new ones are the last
                new += 1
                progress.advance()
            elif 'broken' in record:
                broken.append(record)
                progress.note(f'dgtl predict: {record["broken"]} left out: {record["fault"]}')
            else:
                files += record['files']
            journal.add(record)
    finally:
        progress.close()
    summary = summarize(list(journal.frames.values()), new, broken, time.perf_counter() - start,
                        job.rules.classes, predict.calls)
    summary = {'out': str(args.out), 'model': predict.metadata.name,
               'backend': predict.backend_name, **summary, 'files': files}
    journal.add({'summary': summary})
    if args.json:
        print(json.dumps(summary))
    elif not args.quiet:
        print(summary_text(summary))
        print(f'written to  {args.out}: {", ".join(job.kinds)}')
    if broken:
        print(f'dgtl predict: {len(broken)} of {len(broken) + summary["frames"]} frames or '
              'sources could not be read', file=sys.stderr)
    if not summary['frames'] and not broken:
        print('dgtl predict: the sources held no frame', file=sys.stderr)
    return 1 if broken or not summary['frames'] else 0


def _model(args: argparse.Namespace) -> Path:
    return default_model() if args.model is None else find_model(args.model)


def _calls(args: argparse.Namespace, sources: Sequence[Source]) -> int:
    """Return how many calls of the network at once there is work for."""
    if any(source.total is None for source in sources):
        return CALLS
    most = max(source.total or 0 for source in sources)  # sources come one after the other
    return min(CALLS, max(-(-most // (args.stride * args.batch)), 1))


def _rules(args: argparse.Namespace, predict: Predictor) -> Rules:
    groups = ClassGroups.from_yaml(args.group, predict.classes) if args.group else None
    classes = groups.classes if groups else predict.classes
    if args.palette:
        classes = recolored(classes, read_yaml(args.palette), str(args.palette))
    default, single = args.threshold
    return Rules(
        classes=classes, rotation=args.rotation, groups=groups,
        keep=only(args.classes, classes) if args.classes else None,
        least=least_confidence(default, single, classes),
        ego_mask=read_mask(args.ego_mask) if args.ego_mask else None)


def _settings(args: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Return all that results depend on; files by their content."""
    content = {name: getattr(args, name) and file_sha256(getattr(args, name))
               for name in ('group', 'palette', 'ego_mask')}
    return {'model': model_sha256(model), 'sources': [str(word) for word in args.sources],
            **{name: getattr(args, name) for name in (
                'topic', 'save', 'alpha', 'classes', 'threshold', 'rotation', 'stride', 'limit',
                'precision', 'resize_mode')}, **content}


def _total(args: argparse.Namespace, sources: Sequence[Source],
           finished: Mapping[str | None, int]) -> int | None:
    """Return how many frames there are to label; None: not known."""
    total = 0
    for source in sources:
        if source.total is None and not args.limit:
            return None
        count = -(-(source.total or args.limit * args.stride) // args.stride)
        total += min(count, args.limit * len(source.cameras)) if args.limit else count
        total -= finished.get(source.name, 0)
    return max(total, 0)


def _parser() -> argparse.ArgumentParser:
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
    model.add_argument('--size', type=_positive, nargs=2, metavar=('H', 'W'),
                       help='stop if the input size of the network is another one')
    model.add_argument('--resize-mode', choices=RESIZE_MODES, default=RESIZE_MODES[0],
                       help='bring pictures to that size by stretching them, with bars '
                            '(letterbox), or by cutting off what is too much (crop), which is not '
                            'labelled then (default: %(default)s)')
    model.add_argument('--batch', type=_positive, default=1, metavar='N',
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
    frames.add_argument('--stride', type=_positive, default=1, metavar='N',
                        help='label every Nth frame (default: %(default)s)')
    frames.add_argument('--limit', type=_positive, default=0, metavar='N',
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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number of 1 or more, got {text!r}')
    return int(text)


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
