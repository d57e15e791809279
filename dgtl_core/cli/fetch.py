# SPDX-License-Identifier: Apache-2.0
"""``dgtl fetch [NAME]``: published weights, listed or brought here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
import sys

from dgtl_core.classes import CITYSCAPES, ClassSet
from dgtl_core.progress import Progress
from dgtl_core.zoo.cache import fetched_file, made_file
from dgtl_core.zoo.entries import Entry, published
from dgtl_core.zoo.fetch import fetch, LicenceError, Plan

_MAX_SIDE = 4096  # of the picture that a model file takes; memory grows with its square


def weights_table(entries: Iterable[Entry]) -> str:
    """Return the published weights as a table for people."""
    rows = [('name', 'method', 'backbone', 'trained on', 'published score', 'size', 'licence',
             'address', 'here')]
    for entry in entries:
        rows.append((
            entry.name, entry.method or entry.kind, entry.backbone, entry.trained_on,
            entry.score or '-', f'{entry.size / 1e6:.0f} MB' if entry.size else '-',
            f'{entry.licence} *' if entry.accept else entry.licence,
            'by hand' if not entry.url else f'checked {entry.checked}' if entry.checked
            else 'not checked', 'yes' if _is_here(entry) else ''))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in rows)


def _is_here(entry: Entry) -> bool:
    if entry.kind == 'model':
        return made_file(entry.name).is_file()
    return fetched_file(entry.name) is not None


def show_progress() -> Callable[[int, int], None]:
    """Return a function that shows how many bytes of a file are here, and of how many."""
    bar: Progress | None = None
    before = 0

    def tell(here: int, total: int) -> None:
        nonlocal bar, before
        if bar is None or here < before:  # the server gives no part: from the start again
            bar, before = Progress(total or None, 'B', done=here), here
        bar.advance(here - before)
        before = here
        if here == total:
            bar.close()

    return tell


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='dgtl fetch', description='Without a name, list the published weights that can be '
        'fetched. With one, show the licence, download the file and that of its backbone, check '
        'them, and make a checkpoint (.safetensors) and a model file (.onnx) of them. From then '
        'on --model takes the name. Everything lies below $XDG_CACHE_HOME/dgtl_ros/weights '
        '(~/.cache/dgtl_ros/weights); a download that was cut goes on when the command is '
        'repeated.')
    parser.add_argument('name', nargs='?', metavar='NAME', help='the weights to bring here')
    parser.add_argument('--accept-license', action='store_true', help=(
        'say that you have read the licence and accept it; licences that are not free need this'))
    parser.add_argument('--from', dest='files', nargs='+', type=Path, default=[], metavar='FILE',
                        help='use published files of this disk, and download nothing')
    parser.add_argument('--size', nargs=2, type=_side, metavar=('H', 'W'), help=(
        'make a model file for this height and width in pixels (default: those of the training)'))
    parser.add_argument('--classes', type=Path, metavar='FILE', help=(
        'of a CLIP: embed the texts of this class set, a .yaml file (default: Cityscapes)'))
    args = parser.parse_args(arguments)
    if args.name is None:
        if args.files or args.size or args.accept_license or args.classes:
            parser.error('name the weights; "dgtl fetch" lists them')
        print(weights_table(published().values()))
        print('\n* needs --accept-license. Scores are mIoU in percent, or PQ where they say so. '
              '"not checked": the address comes from the authors and nobody has tried it for this '
              'list.\nFetch one with: dgtl fetch NAME')
        return 0
    plan = Plan.of(args.name)
    if args.classes and plan.entry.kind != 'text':
        parser.error(f'--classes is for a CLIP (clip-rn50), and {args.name} is none')
    if args.size and plan.entry.kind != 'model':
        parser.error(f'--size is for models, and {args.name} is a {plan.entry.kind}')
    classes = ClassSet.from_yaml(args.classes) if args.classes else CITYSCAPES
    for line in plan.licences:
        print(line)
    try:
        path = fetch(
            plan, accept_license=args.accept_license, files=args.files,
            size=tuple(args.size) if args.size else None, again=args.size is not None,
            progress=show_progress, say=print)
    except LicenceError as error:
        print(f'dgtl fetch: {error}', file=sys.stderr)
        return 2
    if plan.entry.kind == 'text':
        path = _embedded(plan.entry, path, classes, args.classes)
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB\n{next_step(plan.entry, path)}')
    return 0


def _side(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_SIDE:
        raise argparse.ArgumentTypeError(f'must be in 1..{_MAX_SIDE} pixels, got {text!r}')
    return int(text)


def _embedded(entry: Entry, clip: Path, classes: ClassSet, file: Path | None) -> Path:
    """Embed the texts of classes with a fetched CLIP; return their file."""
    from dgtl_core.zoo.texts import embed_classes

    out = clip.with_name(f'{file.stem if file else classes.name}.npz')
    embed_classes(entry, clip, classes, out)
    return out


def next_step(entry: Entry, path: Path) -> str:
    """Return what to do with fetched weights."""
    if entry.kind == 'model':
        return f'Try it: dgtl predict PICTURES --model {entry.name} --out OUT'
    if entry.kind == 'text':
        return f'Train with these class texts: --set model.text.file={path}'
    return f'Train on it: --set model.backbone.weights={path}'
