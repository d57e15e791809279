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

from dgtl_core.cli.predict_options import predict_parser
from dgtl_core.files import file_sha256
from dgtl_core.groups import ClassGroups, least_confidence, recolored
from dgtl_core.model_file import model_sha256
from dgtl_core.predictor import default_model, EngineOptions, Predictor
from dgtl_core.processing import read_mask
from dgtl_core.progress import Progress
from dgtl_core.recorded.bag import Bag
from dgtl_core.recorded.cluster import label_on_cluster
from dgtl_core.recorded.frame import Source, SourceError
from dgtl_core.recorded.journal import Journal, ResultsExistError
from dgtl_core.recorded.labels import only, Rules
from dgtl_core.recorded.run import CALLS, Job, label
from dgtl_core.recorded.sources import open_sources
from dgtl_core.recorded.storage import Storage
from dgtl_core.recorded.summary import summarize, summary_text
from dgtl_core.strict import read_yaml
from dgtl_core.zoo.cache import find_model


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = predict_parser()
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
