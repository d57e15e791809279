# SPDX-License-Identifier: Apache-2.0
"""
Label all frames of some sources and write what is wanted of them.

Reading, the network and writing go on at once: a thread reads ahead and resizes, as many run the
network as it can answer, one does what has to be in order (verdicts, videos, bags), a few write
the files of single frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
import time
from typing import Any, NamedTuple

from dgtl_core.classes import IGNORE_INDEX
from dgtl_core.predictor import Predictor, Prepared, Segmentation, Timing
from dgtl_core.recorded import frame_files
from dgtl_core.recorded.ahead import read_ahead
from dgtl_core.recorded.bag import Bag
from dgtl_core.recorded.bag_sink import BagSink
from dgtl_core.recorded.frame import Frame, Source
from dgtl_core.recorded.labels import Labelled, Rules
from dgtl_core.recorded.rerun_sink import RerunSink
from dgtl_core.recorded.sheet import Sheet
from dgtl_core.recorded.sink import Sink
from dgtl_core.recorded.sources import frames
from dgtl_core.recorded.storage import made_in, Storage
from dgtl_core.recorded.verdicts import Verdicts
from dgtl_core.recorded.video_sink import VideoSink
from dgtl_core.runtime.contract import usable_cores
import numpy as np

SOURCE_KINDS = ('video', 'bag', 'rrd')  # one file of a whole source
KINDS = (*frame_files.KINDS, 'sheet', *SOURCE_KINDS)
CALLS = min(4, usable_cores())  # of the network at once; each takes memory
_WRITERS = min(4, usable_cores())
_LARGE = 64 << 20  # bytes: of larger pictures, 20 million pixels, fewer are held at once
Record = dict[str, Any]  # a line of the journal


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be done with frames; the same on one machine and on many."""

    out: Path | Storage
    kinds: tuple[str, ...]  # of KINDS
    rules: Rules
    alpha: float = 0.5  # of overlays
    batch: int = 1
    stride: int = 1
    limit: int = 0

    @property
    def by_source(self) -> bool:
        """Whether a source is finished only as a whole."""
        return any(kind in SOURCE_KINDS for kind in self.kinds)


def label(predict: Predictor, sources: Sequence[Source], job: Job,
          finished_frames: Collection[str] = (),
          finished_sources: Collection[str] = ()) -> Iterator[Record]:
    """
    Label and write; yield what is finished as soon as it is.

    A record is ``{'frame': name, 'source': name, 'stamp': ns, 'pixels': [of each class, of none],
    'confidence': mean of 0..1, 'domain': {'state', 'score', 'causes'}, 'ms': {stage:
    milliseconds}}``, ``{'broken': name, 'fault': text}``, or ``{'source': name, 'files':
    [...]}``. Files that are not finished when the caller stops are removed.

    :param finished_frames: names of those that an earlier run wrote; where something is one file
        of a source, those of finished sources.

    :raises OSError: something cannot be written.
    :raises SinkError: something that is wanted needs a package that is not there.
    """
    done = frozenset() if job.by_source else frozenset(finished_frames)
    with made_in(job.out) as folder:
        sheet = [Sheet(folder, job.rules.classes, job.alpha, len(finished_frames))
                 for kind in job.kinds if kind == 'sheet']
        for source in sources:
            if source.name not in finished_sources:
                yield from _Run(predict, source, job, folder, done, sheet).records()
        for made in sheet:
            yield {'source': 'sheet', 'files': _kept(job, folder, made.finish())}


class _Ready(NamedTuple):
    """A frame that the network can take."""

    frame: Frame
    image: np.ndarray  # upright
    prepared: Prepared
    ms: float  # that preparing it took


def _weight(ready: _Ready) -> int:
    """Return for how many pictures this one counts where it is decided how many are held."""
    return 1 + ready.frame.image.nbytes // _LARGE


_Batch = list[tuple[_Ready, float]]  # each with the milliseconds until it was there
_Answer = tuple[list[Segmentation], Timing]


class _Run:
    """The labelling of one source."""

    def __init__(self, predict: Predictor, source: Source, job: Job, folder: Path,
                 done: Collection[str], sheet: Sequence[Sink]) -> None:
        self._predict, self._source, self._job, self._done = predict, source, job, done
        self._folder = folder  # in which files are made
        self._verdicts = Verdicts(predict)
        self._broken: deque[Record] = deque()
        self._sheet, self._sinks = sheet, list[Sink]()
        self._calls: deque[tuple[_Batch, Future[_Answer]]] = deque()
        self._waiting: deque[tuple[Record, int, list[Future[float]]]] = deque()

    def records(self) -> Iterator[Record]:
        job = self._job
        found = read_ahead(self._ready(), depth=2 * job.batch + 2, weight=_weight)
        # One thread opens, fills and closes what has to be in order: SQLite insists on it.
        calls = self._predict.calls
        with (ThreadPoolExecutor(_WRITERS) as files, ThreadPoolExecutor(1) as ordered,
              ThreadPoolExecutor(calls) as network):
            try:
                ordered.submit(self._open).result()
                batch: _Batch = []
                for entry in found:
                    batch.append(entry)
                    if sum(_weight(ready) for ready, _ in batch) >= job.batch:
                        self._call(network, batch)
                        batch = []
                        self._take(files, ordered, most=calls * job.batch)
                        yield from self._finished(most=2 * job.batch + 2)
                if batch:
                    self._call(network, batch)
                self._take(files, ordered, most=0)
                yield from self._finished(most=0)
                made = ordered.submit(self._finish).result()
                yield {'source': self._source.name, 'files': _kept(job, self._folder, made)}
            except BaseException:  # also of a caller that stops
                for _, call in self._calls:
                    call.cancel()
                files.shutdown(wait=False, cancel_futures=True)  # a storage that is away is slow
                ordered.submit(self._abandon).result()
                raise
            finally:
                found.close()

    def _ready(self) -> Generator[_Ready, None, None]:
        job = self._job
        found = frames(
            [self._source], job.stride, job.limit, self._done.__contains__,
            lambda name, fault: self._broken.append({'broken': name, 'fault': fault}))
        with closing(found):
            for frame in found:
                start = time.perf_counter()
                image = job.rules.before(frame.image)
                prepared = self._predict.prepare(image)
                yield _Ready(frame, image, prepared, (time.perf_counter() - start) * 1e3)

    def _open(self) -> None:
        for make in _sinks(self._source, self._job, self._folder):
            self._sinks.append(make())

    def _finish(self) -> list[Path]:
        made: list[Path] = []
        while self._sinks:
            made += self._sinks[0].finish()
            self._sinks.pop(0)
        return made

    def _abandon(self) -> None:
        for sink in self._sinks:
            sink.abandon()

    def _call(self, network: ThreadPoolExecutor, batch: _Batch) -> None:
        self._calls.append((batch, network.submit(
            self._predict.timed_many, [ready.prepared for ready, _ in batch])))

    def _take(self, files: ThreadPoolExecutor, ordered: ThreadPoolExecutor, most: int) -> None:
        """Take what the network answered, in order, until at most so many pictures are there."""
        while sum(_weight(ready) for batch, _ in self._calls for ready, _ in batch) > most:
            batch, call = self._calls[0]
            answer = call.result()
            self._calls.popleft()
            self._label(batch, answer, files, ordered)

    def _label(self, batch: _Batch, answer: _Answer, files: ThreadPoolExecutor,
               ordered: ThreadPoolExecutor) -> None:
        rules, (results, timing) = self._job.rules, answer
        infer, postprocess = (ms / len(batch) for ms in (timing.infer_ms, timing.postprocess_ms))
        for (ready, taken_ms), result in zip(batch, results):
            frame = ready.frame
            try:
                labelled = rules.after(frame, *result)
            except ValueError as error:
                self._broken.append({'broken': frame.name, 'fault': str(error)})
                continue
            record = {'frame': frame.name, 'source': self._source.name, 'stamp': frame.stamp,
                      'ms': {'read': round(taken_ms - ready.ms, 3),
                             'preprocess': round(ready.ms, 3), 'infer': round(infer, 3),
                             'postprocess': round(postprocess, 3)}}
            writing = [ordered.submit(self._judge, frame, ready.image, result, record),
                       files.submit(self._write, labelled, record)]
            if self._sheet or self._sinks:
                writing.append(ordered.submit(self._add, labelled))
            self._waiting.append((record, _weight(ready), writing))

    def _judge(self, frame: Frame, image: np.ndarray, result: Segmentation,
               record: Record) -> float:
        start = time.perf_counter()
        record['domain'] = self._verdicts.look(frame, image, result)
        record['ms']['verdict'] = round((time.perf_counter() - start) * 1e3, 3)
        return 0.0  # it writes nothing

    def _write(self, labelled: Labelled, record: Record) -> float:
        start = time.perf_counter()
        job = self._job
        made = [frame_files.write(self._folder, kind, labelled, job.rules.classes, job.alpha)
                for kind in job.kinds if kind in frame_files.KINDS]
        _kept(job, self._folder, made)
        counts = np.bincount(labelled.labels.reshape(-1), minlength=256)
        known = len(job.rules.classes)
        record['pixels'] = [*counts[:known].tolist(), int(counts[known:].sum())]
        seen = labelled.labels != IGNORE_INDEX
        record['confidence'] = round(
            float(labelled.confidence[seen].mean()) / 255, 4) if seen.any() else None
        return (time.perf_counter() - start) * 1e3

    def _add(self, labelled: Labelled) -> float:
        start = time.perf_counter()
        for sink in (*self._sheet, *self._sinks):
            sink.add(labelled)
        return (time.perf_counter() - start) * 1e3

    def _finished(self, most: int) -> Iterator[Record]:
        """Yield what is finished; wait until at most so many frames are still being written."""
        while self._broken:
            yield self._broken.popleft()
        while sum(weight for _, weight, _ in self._waiting) > most or (
                self._waiting and all(f.done() for f in self._waiting[0][2])):
            record, _, writing = self._waiting[0]
            record['ms']['write'] = round(sum(future.result() for future in writing), 3)
            self._waiting.popleft()
            yield record


def _kept(job: Job, folder: Path, made: Sequence[Path]) -> list[str]:
    """Bring finished files to where they stay; return where that is."""
    if isinstance(job.out, Path):
        return [str(path) for path in made]
    return job.out.take(made, folder)


def _sinks(source: Source, job: Job, folder: Path) -> list[Callable[[], Sink]]:
    """Return what makes the sinks of a source."""
    classes, places = job.rules.classes, {kind: folder / kind / source.name for kind in KINDS}
    make: dict[str, Callable[[], Sink]] = {
        'video': lambda: VideoSink(places['video'], len(source.cameras), classes, job.alpha),
        'rrd': lambda: RerunSink(places['rrd'], classes, job.alpha)}
    if isinstance(source, Bag):
        make['bag'] = lambda: BagSink(places['bag'], source, classes)
    return [make[kind] for kind in job.kinds if kind in make]
