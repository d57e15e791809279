# SPDX-License-Identifier: Apache-2.0
"""``dgtl calibrate``: teach a model file what its robot's normal drives look like."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import json
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from dgtl_core.runtime.contract import RunOptions
import numpy as np

if TYPE_CHECKING:
    from dgtl_core.domain_model import DomainModel
    from dgtl_core.recorded.frame import Source


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog='dgtl calibrate', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Teach a model file what the normal drives of your robot look like, so '
        'that it can tell when\nthe pictures become other ones.\n\n'
        'Each SOURCE is one drive: a folder of pictures, a video or a bag, in the order of time. '
        'Give\nthree or more, best in different places, and in all weather and light that is '
        'normal for\nthe robot: drives that are left out in turn tell how often a new place would '
        'be a false\nalarm. Ten pictures of each are the least, some hundred are better.\n\n'
        'Labels and confidence stay as they are. "python -m training.export CHECKPOINT OUT.onnx\n'
        '--calibrate DATA" makes a confidence of 80 % right in 80 % of the pixels, on labelled '
        'pictures.',
        epilog='examples:\n  dgtl calibrate monday.mcap tuesday.mcap friday.mcap --model m.onnx '
        '--out own.onnx\n  dgtl calibrate --check foggy.mp4 --model own.onnx')
    parser.add_argument('sources', nargs='*', metavar='SOURCE',
                        help='a recording of a normal drive')
    parser.add_argument('--model', metavar='FILE|NAME',
                        help='start from this .onnx file, or from the weights that were fetched '
                             'under this name; with --check, check it (default: the embedded '
                             'model)')
    parser.add_argument('--out', metavar='OUT.onnx', type=Path,
                        help='write the new model file here')
    parser.add_argument('--force', action='store_true', help='overwrite OUT.onnx where it exists')
    parser.add_argument('--check', metavar='SOURCE', action='append', default=[],
                        help='print the verdicts on this recording instead; can be repeated')
    parser.add_argument('--stride', type=int, default=1, metavar='N',
                        help='take every Nth frame (default: %(default)s)')
    parser.add_argument('--limit', type=int, default=0, metavar='N',
                        help='take at most N frames of each source (default: all)')
    parser.add_argument('--rotation', type=int, choices=(0, 90, 180, 270), default=0,
                        help='turn the pictures clockwise by so many degrees, as the node does '
                        '(default: %(default)s)')
    parser.add_argument('--ego-mask', type=Path, metavar='PNG', help='judge nothing where '
                        'this picture is 255, such as the robot itself')
    parser.add_argument('--device', default=RunOptions.device,
                        help='run on auto, cpu, cuda or cuda:N (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='print one JSON object')
    options = parser.parse_args(arguments)
    if bool(options.check) == bool(options.sources):
        parser.error('give SOURCEs of normal drives, or --check SOURCE, and not both')
    if options.sources and options.out is None:
        parser.error('name the model file to write: --out OUT.onnx')
    if options.check and options.out is not None:
        parser.error('--check writes no file; omit --out')
    if options.stride < 1 or options.limit < 0:
        parser.error(f'--stride must be 1 or more and --limit 0 or more, got {options.stride} and '
                     f'{options.limit}')
    from dgtl_core.domain_model import DomainError
    from dgtl_core.model_file import ModelError
    from dgtl_core.predictor import default_model, find_model

    try:
        model = find_model(options.model) if options.model else default_model()
        return _check(options, model) if options.check else _fit(options, model)
    except (DomainError, ModelError, OSError, ValueError) as error:
        print(f'dgtl calibrate: {error}', file=sys.stderr)
        return 1


def _opened(words: Sequence[str]) -> dict[str, list[Source]]:
    """
    Find what each word names, before anything long begins.

    :raises ValueError: a word names nothing, single pictures, or what an earlier one named.
    """
    from dgtl_core.domain_drives import require_pictures
    from dgtl_core.recorded.sources import open_sources, Pictures

    found: dict[str, list[Source]] = {}
    before: dict[Path, str] = {}
    for word in words:
        earlier = before.setdefault(Path(word).resolve(), word)
        if word in found or earlier != word:
            raise ValueError(f'{word} is the same drive as {earlier}: give each drive once')
        found[word] = open_sources([word])
        if all(isinstance(source, Pictures) for source in found[word]):
            require_pictures(word, sum(source.total or 0 for source in found[word]))
    return found


def _pictures(options: argparse.Namespace, sources: Sequence[Source],
              ignored: np.ndarray | None) -> Iterator[np.ndarray]:
    """Give the pictures of a drive upright, all of the size of the ego mask."""
    from dgtl_core.processing import upright
    from dgtl_core.recorded.sources import frames

    for frame in frames(sources, options.stride, options.limit):
        image = upright(frame.image, options.rotation)
        if ignored is not None and ignored.shape != image.shape[:2]:
            raise ValueError(
                f'--ego-mask has {ignored.shape[1]}x{ignored.shape[0]} pixels and {frame.name} '
                f'{image.shape[1]}x{image.shape[0]}, upright: draw it on a picture of this camera')
        yield image


def _ego_mask(options: argparse.Namespace) -> np.ndarray | None:
    """Return the pixels of an upright picture that show the robot itself, (H, W) bool."""
    from dgtl_core.processing import read_mask, upright

    if options.ego_mask is None:
        return None
    return upright(read_mask(options.ego_mask).astype(np.uint8), options.rotation).astype(bool)


def _fit(options: argparse.Namespace, path: Path) -> int:
    from dgtl_core.appearance import NAMES
    from dgtl_core.calibration import calibrate, Looks, require_onnx, write_domain
    from dgtl_core.files import destination
    from dgtl_core.predictor import Predictor
    from dgtl_core.progress import Progress

    destination(options.out, '.onnx', force=options.force, sources=[path])
    require_onnx(path)
    drives, ignored = _opened(options.sources), _ego_mask(options)
    predict = Predictor.load(path, device=options.device)
    progress = Progress(None, 'picture', quiet=options.json)
    look = Looks(predict, progress.advance, ignored)
    try:
        model = calibrate(
            predict, {name: _pictures(options, sources, ignored)
                      for name, sources in drives.items()}, look)
    finally:
        progress.close()
        predict.close()
    write_domain(path, options.out, model)
    signed = len(model.axes.mean) > len(NAMES) + 1
    per_thousand = 1000 * look.seconds / look.pictures
    if options.json:
        print(json.dumps({
            'out': str(options.out), 'drives': {d.name: d.pictures for d in model.drives},
            'channels': list(model.channels), 'false_alarms': model.false_alarms,
            'alarmed': model.alarmed, 'cross_validated': model.cross_validated,
            'signature': signed,
            'seconds_per_thousand_pictures': round(per_thousand, 3)}))
        return 0
    for drive in model.drives:
        print(f'{drive.pictures:6d} pictures of {drive.name}')
    print(f'found are: {", ".join(model.channels)}')
    if not signed:
        print('the model file gives no signature, so only the picture and the mean confidence are '
              'judged; export it anew to have more judged')
    print(*_expected(model), sep='\n')
    print(f'besides reading and the network it took {per_thousand:.1f} s per thousand pictures')
    print(f'wrote {options.out}')
    return 0


def _expected(model: DomainModel) -> list[str]:
    """Say which rate of false alarms is to be expected, and how many drives would tell more."""
    from dgtl_core.domain_drives import most_new_places

    lines = [f'{model.false_alarms:.1%} of the windows of a {model.cross_validated} that was left '
             'out would be false alarms']
    count = len(model.drives)
    if model.cross_validated != 'drive':
        lines.append('one drive cannot show how often a new place is a false alarm, which was up '
                     'to a quarter of the windows elsewhere: give two more, best in other places')
        return lines
    most = f'at most {most_new_places(model.alarmed, count):.0%} of new places'
    if model.alarmed:
        lines.append(f'{model.alarmed} of the {count} drives raised one, which shows that {most} '
                     'do (95 % confidence); drives in more places, and in all weather and light '
                     'that is normal, make it less')
    else:
        lines.append(f'{count} drives without one show that {most} raise one (95 % confidence); '
                     '29 would show 10 %')
    return lines


def _check(options: argparse.Namespace, path: Path) -> int:
    from dgtl_core.calibration import state_shares, window_verdicts
    from dgtl_core.domain import domain_of
    from dgtl_core.domain_model import CALIBRATE, DomainError
    from dgtl_core.predictor import Predictor
    from dgtl_core.progress import Progress
    from dgtl_core.recorded.sources import open_sources

    checked = [open_sources([word]) for word in options.check]
    ignored = _ego_mask(options)
    predict = Predictor.load(path, device=options.device)
    progress = Progress(None, 'window', quiet=options.json)
    found = []
    try:
        model = domain_of(predict.metadata)
        if model is None:
            raise DomainError(f'{path} knows no normal drives: {CALIBRATE}')
        for sources in checked:
            pictures = _pictures(options, sources, ignored)
            for verdict in window_verdicts(predict, model, pictures, ignored):
                found.append(verdict)
                progress.advance()
    finally:
        progress.close()
        predict.close()
    told = state_shares(found)
    if not found:
        raise DomainError(f'{" and ".join(options.check)} gave fewer than the five pictures that '
                          'a check needs')
    if options.json:
        print(json.dumps({**told, 'scores': [round(v.score, 4) for v in found]}))
        return 0
    for number, verdict in enumerate(found):
        print(f'window {number:4d}  {verdict.state:<9} {verdict.score:.2f}  '
              f'{", ".join(verdict.causes)}')
    print(f'{told["windows"]} windows: {told["familiar"]:.1%} familiar, {told["shifted"]:.1%} '
          f'shifted, {told["unusable"]:.1%} unusable')
    return 0
