# SPDX-License-Identifier: Apache-2.0
"""
The same run over a Ray cluster: some pictures, a video or a bag are one task.

Each worker process loads the model once. Results go to the folder of the run, which all nodes have
to see, or to a storage. A task whose node dies is done again elsewhere; its files replace what it
left, and it is told of once, so nothing is lost and nothing comes twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
import logging
import os
from typing import Any

from dgtl_core.predictor import Predictor
from dgtl_core.recorded.frame import Source
from dgtl_core.recorded.run import Job, label, Record
from dgtl_core.recorded.sink import SinkError
from dgtl_core.recorded.sources import Pictures

_PICTURES = 16  # in one task
Load = tuple[str, str, str, str, str]  # path, backend, device, precision, resize mode


def label_on_cluster(address: str, load: Load, sources: Sequence[Source], job: Job,
                     finished_frames: Collection[str] = (),
                     finished_sources: Collection[str] = ()) -> Iterator[Record]:
    """
    Label and write as :func:`dgtl_core.recorded.run.label` does; yield the same records.

    :param address: of the cluster, as ``ray.init`` takes it; empty: RAY_ADDRESS, or this machine.
    :param load: what each worker loads: model file, backend, device, precision, resize mode.
    :raises SinkError: Ray is not installed, or a contact sheet is wanted.
    :raises ConnectionError: there is no cluster at the address.
    """
    if 'sheet' in job.kinds:
        raise SinkError('a contact sheet is made by one process: leave out "sheet", or --ray')
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    try:
        import ray
    except ImportError:
        raise SinkError('running on a cluster needs Ray: pip install ray') from None
    started = not ray.is_initialized()
    if started:
        ray.init(address or None, log_to_driver=False, logging_level=logging.ERROR)
    try:
        task: Any = ray.remote(max_retries=-1, num_gpus=int(load[2].startswith('cuda')))(_work)
        left: dict[str, int] = {}  # tasks of each source
        running = {}
        for part, of in _tasks(sources, job, finished_frames, finished_sources):
            running[task.remote(load, part, of)] = part.name
            left[part.name] = left.get(part.name, 0) + 1
        while running:
            ready, _ = ray.wait(list(running))
            name = running.pop(ready[0])
            left[name] -= 1
            files: list[str] = []
            for record in ray.get(ready[0]):
                if 'files' in record:
                    files += record['files']
                else:
                    yield record
            if not left[name]:
                yield {'source': name, 'files': files}
    finally:
        if started:
            ray.shutdown()


def _tasks(sources: Sequence[Source], job: Job, finished_frames: Collection[str],
           finished_sources: Collection[str]) -> Iterator[tuple[Source, Job]]:
    for source in sources:
        if source.name in finished_sources:
            continue
        if isinstance(source, Pictures) and not job.by_source:
            chosen = source.every(job.stride, job.limit).without(finished_frames)
            for part in chosen.parts(_PICTURES):
                yield part, replace(job, stride=1, limit=0)
        else:
            yield source, job


def _work(load: Load, source: Source, job: Job) -> list[Record]:
    return list(label(_loaded(load), [source], job))


@lru_cache(1)
def _loaded(load: Load) -> Predictor:
    path, backend, device, precision, resize_mode = load
    # one core is what Ray gives to a task
    return Predictor.load(path, backend, device, 1, resize_mode, precision=precision)
