# SPDX-License-Identifier: Apache-2.0
"""
Train the embedded model: ``python -m training.mini --texts FILE --out FOLDER --minutes N``.

All processor cores draw clear streets, one device learns from them; each picture is seen a few
times, from other views and by other cameras in other light. It never sees fog, rain, snow or
night. The learning rate falls with the time, so the program ends when it should.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import copy
import json
import math
import os
from pathlib import Path
import sys
import time
from typing import Any

from dgtl_core.cli.arguments import at_least, minutes, positive
from dgtl_core.config import preset, SegmenterConfig
from dgtl_core.data.batch_transforms import another_camera, another_view
from dgtl_core.files import make_folder
from dgtl_core.learning.class_loss import class_loss, class_weights
from dgtl_core.learning.optim import build_optimizer, OptimConfig, set_learning_rate
from dgtl_core.model.checkpoint import save_checkpoint
from dgtl_core.model.normalization import Normalization
from dgtl_core.model.segmenter import Segmenter
from dgtl_core.model.text import load_texts
from dgtl_core.strict import override
import torch
from torch import nn, Tensor
from training.bench.machine import machine
from training.device import add_device, choose_device
from training.drawing import PictureStore
from training.held_out import mean_iou, open_held_out

PRESET = 'dgtl-rt-mini'
WARMUP = 0.03  # of the time
CLIP = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m training.mini', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--texts', type=Path, required=True,
                        help='class texts of ViT-B-16 (training.embed_classes)')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER',
                        help='model.safetensors and log.json go there')
    parser.add_argument('--minutes', type=minutes, default=360,
                        help='how long it may take in all (%(default)s)')
    parser.add_argument('--batch', type=at_least(1), default=32,
                        help='crops of a step (%(default)s)')
    parser.add_argument('--lr', type=positive(), default=1e-3,
                        help='highest learning rate (%(default)s)')
    parser.add_argument('--keep', type=at_least(1), default=2000, metavar='N',
                        help='pictures to choose from at a time (%(default)s)')
    parser.add_argument('--workers', type=at_least(0), default=max(1, (os.cpu_count() or 2) - 1),
                        help='processes that draw (%(default)s)')
    add_device(parser)
    parser.add_argument('--test', action='append', default=[], metavar='DATA',
                        help='labelled pictures to measure it on now and then, named as for '
                             'training.evaluate')
    parser.add_argument('--tests', type=at_least(1), default=4,
                        help='how often it is measured (%(default)s)')
    parser.add_argument('--set', default='{}', metavar='JSON', help=(
        'changes to the model, such as {"head": {"num_blocks": 2}}'))
    options = parser.parse_args(arguments)
    try:
        device = choose_device(options.device)
        make_folder(options.out)
        run = MiniTraining(options, device)
        try:
            run.learn()
        finally:
            run.store.close()
    except (ValueError, OSError) as error:
        print(f'mini: {error}', file=sys.stderr)
        return 1
    return 0


def changes_of(text: str) -> Any:
    """Read the changes to the model; :raises ValueError: they are no JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(
            f'--set must be JSON, such as {{"head": {{"num_blocks": 2}}}}, got {text!r}: {error}'
        ) from None


def class_texts(file: Path, config: SegmenterConfig) -> Tensor:
    """
    Return the text embeddings of the classes. Shape: (K, D), as wide as the model takes them.

    :raises OSError: there is no such file.
    :raises ValueError: it holds no such texts.
    """
    texts = load_texts(file, config.classes.names).embeddings
    if texts.shape[1] != config.text.width:
        raise ValueError(
            f'{file} has texts that are {texts.shape[1]} wide, and the embedded model takes '
            f'{config.text.width}: make them with "python -m training.embed_classes cityscapes '
            'FILE --model ViT-B-16"')
    return texts


class MiniTraining:
    """One training: model, average, optimizer, pictures, and the time that is left."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.begin = time.monotonic()
        config = override(preset(PRESET), changes_of(options.set))
        self.config = config
        texts = class_texts(options.texts, config)
        self.store = PictureStore(
            config.input_size, options.keep, config.num_classes, device, workers=options.workers)
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        model = Segmenter(config)
        model.set_texts(texts)
        self.model = model.to(device).to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(model).eval()
        self.optimizer = build_optimizer(model, OptimConfig(lr=options.lr))
        self.normalize = Normalization(config).to(device)
        self.tests = ThreadPoolExecutor(1).submit(  # beside the first steps
            open_held_out, options.test, config.input_size, device, options.workers)
        self.log: list[dict[str, Any]] = []

    def share(self) -> float:
        """How much of the time has passed, 0..1."""
        return (time.monotonic() - self.begin) / (60 * self.options.minutes)

    def say(self, text: str, **values: Any) -> None:
        """Print a line with the time, and keep it."""
        seconds = round(time.monotonic() - self.begin, 1)
        print(f'{seconds:7.1f} s  {text}', flush=True)
        self.log.append({'seconds': seconds, 'text': text, **values})

    def learn(self) -> None:
        """Draw and learn until the time is over; write model.safetensors and log.json."""
        options = self.options
        self.store.take(min(options.keep, 40 * options.batch))
        started = self.share()  # the schedule begins with the first step
        if started >= 0.9:
            raise ValueError(
                f'drawing {self.store.drawn} pictures took {started:.0%} of the {options.minutes} '
                'minutes, and nothing is learned: give more --minutes, or a smaller --keep or '
                '--batch')
        self.say(f'{self.store.drawn} pictures are drawn')
        step, tested = 0, 0
        recent = torch.zeros(2, device=self.device)
        while (share := self.share()) < 0.995:
            progress = (share - started) / (1 - started)
            self._step(step, progress, recent)
            step += 1
            if step in (1, 2, 10) or step % 250 == 0:
                found = [round(x, 3) for x in recent.tolist()]
                self.say(f'step {step}, {step * options.batch} crops, {self.store.drawn} '
                         f'pictures, loss {found}', step=step, loss=found)
            if tested < options.tests - 1 and progress > (tested + 1) / options.tests:
                tested += 1
                self._save(step)
                self._test(step)
        self._save(step)
        self._test(step)

    def _step(self, step: int, progress: float, recent: Tensor) -> None:
        rise = min(1.0, progress / WARMUP)
        set_learning_rate(
            self.optimizer, self.options.lr * rise * (1 + math.cos(math.pi * progress)) / 2
            + 1e-6)
        self.store.take()
        images, labels = another_view(*self.store.sample(self.options.batch))
        x = self.normalize(255 * another_camera(images)).to(
            memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            masks = self.model(x)[-1].masks
        where = torch.randint(4, (len(labels), 2), device=self.device)
        losses = class_loss(masks, labels, class_weights(self.store.counts), where)
        losses.sum().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        follow(self.average, self.model, min(0.999, (1 + step) / (10 + step)))
        recent.lerp_(losses.detach(), 1.0 if step == 0 else 0.02)

    def _save(self, step: int) -> None:
        save_checkpoint(
            self.options.out / 'model.safetensors', self.model, self.config,
            source='trained with training.mini on drawn streets in clear weather',
            average=self.average.state_dict(), training={'step': step})
        about = {'machine': machine(self.device), 'pictures': self.store.drawn, 'steps': step,
                 'batch': self.options.batch, 'log': self.log}
        (self.options.out / 'log.json').write_text(json.dumps(about, indent=1))

    def _test(self, step: int) -> None:
        scores = {test.name: round(100 * mean_iou(self.average, test), 2)
                  for test in self.tests.result()}
        self.say(f'step {step}: {scores}', step=step, scores=scores)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average's parameters and statistics towards the model's."""
    mine, theirs = average.state_dict(), model.state_dict()
    names = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[n] for n in names], [theirs[n] for n in names], 1 - decay)


if __name__ == '__main__':
    sys.exit(main())
