# SPDX-License-Identifier: Apache-2.0
"""A recording, played and labelled: pause, step, seek."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
import threading
import time
from typing import Any

from dgtl_core.domain import domain_of, DomainLimits, DomainMonitor
from dgtl_core.predictor import Predictor
from dgtl_core.recorded.frame import Item, Source
from dgtl_core.recorded.video import Camera
from dgtl_core.view.feed import Shown, Slot

_LIMITS = DomainLimits()


class Player:
    """
    Plays sources through a model at the pace of their stamps, or slower where the model is.

    :param stride: label each ``stride``-th frame.
    :param rate: frames a second of pictures, which have no time of their own.
    """

    def __init__(self, sources: Sequence[Source], predict: Predictor, *, stride: int = 1,
                 rate: float = 2.0) -> None:
        if stride < 1 or not 0 < rate <= 1000:
            raise ValueError('stride must be 1 or more, and rate above 0 and at most 1000, got '
                             f'{stride} and {rate}')
        self._sources, self._predict = sources, predict
        self._stride, self._gap = stride, 1 / rate
        totals = [source.total for source in sources]
        self._live = any(isinstance(source, Camera) for source in sources)
        self._total = sum(total or 0 for total in totals) if None not in totals else None
        self._slot = Slot()
        self._domain = DomainMonitor(len(predict.classes), domain_of(predict.metadata))
        self._changed = threading.Condition()
        self._playing, self._step, self._target = True, False, -1
        self._closed = self._ended = False
        self._fault = ''
        self._count, self._last = 0, 0.0
        self._origin: float | None = None  # when the stamp 0 was, or would have been
        self.title = predict.metadata.name
        self.newest, self.wait = self._slot.newest, self._slot.wait
        self._thread = threading.Thread(target=self._run, name='player', daemon=True)
        self._thread.start()

    @property
    def state(self) -> dict[str, Any]:
        """Whether it plays, how many frames there are, and what is wrong."""
        fault = self._fault
        if not self._thread.is_alive() and not self._closed:
            fault = 'the player broke down; the terminal says why'
        return {'playing': self._playing and not self._ended, 'seekable': not self._live,
                'total': self._total, 'ended': self._ended, 'fault': fault}

    @property
    def diagnostics(self) -> list[dict[str, str]]:
        """What runs the model, how its engine does, and what could not be read."""
        predict = self._predict
        height, width = predict.input_size
        told = [{'name': 'model', 'level': 'ok', 'message': (
            f'{predict.metadata.name} ({predict.metadata.method}) on {predict.backend_name}, '
            f'sees {height}x{width}')}]
        if predict.engine is not None:
            told.append({
                'name': 'engine', 'level': 'warn' if predict.engine.reason else 'ok',
                'message': f'{predict.engine.state} {predict.engine.reason}'.strip()})
        if self._fault:
            told.append({'name': 'source', 'level': 'error', 'message': self._fault})
        return told

    def command(self, command: Mapping[str, Any]) -> None:
        """Do ``play``, ``pause``, ``step`` or ``seek`` (with ``to``: the number of a frame)."""
        do, to = command.get('do'), command.get('to')
        with self._changed:
            if do == 'play':
                self._playing = True
                if self._ended:
                    self._target = 0
            elif do == 'pause':
                self._playing = False
            elif do == 'step':
                self._playing = False
                self._step = True
            elif do == 'seek' and type(to) is int and to >= 0 and not self._live:
                self._target = min(to, self._total - 1) if self._total else to
            self._changed.notify_all()

    def close(self) -> None:
        """End it; waits for the frame in work."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _items(self) -> Iterator[Item]:
        for source in self._sources:
            try:
                yield from source.items()
            except (OSError, ValueError) as error:
                self._fault = str(error)

    def _run(self) -> None:
        items, position, following = self._items(), 0, 0
        while (turn := self._turn(following)) is not None:
            wanted, asked = turn
            if wanted < position:
                items, position = self._items(), 0
            item = next(islice(items, wanted - position, None), None)
            if item is None:
                self._ended = True
                items, position, following = self._items(), 0, 0
                continue
            self._ended = False
            if wanted != following:
                self._domain.reset()  # another place: what was before says nothing about it
            if asked:
                self._origin = None
            position, following = wanted + 1, wanted + self._stride
            try:
                self._show(item, wanted)
            except (OSError, ValueError) as error:
                self._fault = f'{item.name}: {error}'

    def _turn(self, following: int) -> tuple[int, bool] | None:
        """Wait until a frame is wanted; return which, and whether it was asked for; None: end."""
        with self._changed:
            while not self._closed:
                if self._target >= 0 or self._step:
                    wanted = self._target if self._target >= 0 else following
                    self._target, self._step = -1, False
                    return wanted, True
                if self._playing and not self._ended:
                    return following, False
                self._changed.wait()
        return None

    def _show(self, item: Item, position: int) -> None:
        start = time.monotonic()
        frame = item.read()
        read = time.monotonic()
        result, timing = self._predict.timed(frame.image)
        self._domain.look(frame.image, result)
        verdict = self._domain.report(_LIMITS)
        times = {'reading': (read - start) * 1e3, 'preparing': timing.preprocess_ms,
                 'inference': timing.infer_ms, 'finishing': timing.postprocess_ms}
        if not self._live:
            self._hold(frame.stamp)
        self._count += 1
        self._slot.put(Shown(
            number=self._count, name=frame.name, image=frame.image, labels=result.labels,
            confidence=result.confidence, classes=self._predict.classes, times_ms=times,
            domain={'score': verdict.score, 'verdict': verdict.state,
                    'causes': list(verdict.causes)}, position=position))

    def _hold(self, stamp: int | None) -> None:
        """Wait until it is time for the frame, or somebody wants something else."""
        now = time.monotonic()
        due = self._last + self._gap
        if stamp is not None:
            if self._origin is None or not -1 < now - self._origin - stamp / 1e9 < 1:
                self._origin = now - stamp / 1e9  # of a jump, or where the model is slower
            due = self._origin + stamp / 1e9
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._target >= 0 or self._step or not self._playing,
                max(due - now, 0))
        self._last = time.monotonic()
