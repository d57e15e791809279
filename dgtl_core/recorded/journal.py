# SPDX-License-Identifier: Apache-2.0
"""
What a run has finished, ``predict.jsonl`` in its folder: so no work is done twice.

One JSON object a line: first ``{"settings": {...}}``; then ``{"frame": name, ...}`` for each frame
whose files are all there, ``{"broken": name, "fault": text}``, and ``{"source": name, "files":
[...]}`` for each source at its end; last ``{"summary": {...}}``. Where results go to a storage it
lies on the local disk and is copied every few seconds: a run that was killed does a few frames
again.
"""

from __future__ import annotations

from collections.abc import Mapping
import fcntl
import json
from pathlib import Path
import tempfile
import time
from typing import Any

from dgtl_core.recorded.storage import Storage

NAME = 'predict.jsonl'
_START = '{"settings": {'  # of the first line
_COPY_S = 10.0  # between two copies to a storage, at least
_COPY_SHARE = 20  # and so many times as long as a copy takes: a journal grows


class ResultsExistError(ValueError):
    """A folder with results that would be mixed with, or overwritten by, other ones."""


class Journal:
    """
    The journal of the run whose results go to ``out``, begun or taken up again.

    :param settings: what the results depend on; a run goes on only with the same.
    :param force: begin anew whatever is there. Files that get the same names are overwritten.
    :raises ResultsExistError: there are results that this run would not go on with.
    :raises OSError: the folder cannot be written.
    """

    def __init__(self, out: Path | Storage, settings: Mapping[str, Any],
                 force: bool = False) -> None:
        settings = json.loads(json.dumps(settings))
        self._out, self._next_copy = out, time.monotonic() + _COPY_S
        self._file = _opened(out, force)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ResultsExistError(f'another run is writing to {out}; wait for its end, or name '
                                    'another folder') from None
        self.frames: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, dict[str, Any]] = {}
        if not force:
            try:
                self._take_up(out, settings)
            except ResultsExistError:
                self._file.close()
                raise
        if not self.resumed:
            self._file.seek(0)
            self._file.truncate()
            self.add({'settings': settings})

    @property
    def resumed(self) -> bool:
        """Whether something was finished before."""
        return bool(self.frames or self.sources)

    def _take_up(self, out: Path | Storage, settings: Mapping[str, Any]) -> None:
        whole, different = 0, list[str]()
        for line in self._lines(out):
            try:
                entry = json.loads(line) if line.endswith('\n') else None
            except ValueError:
                entry = None
            if not isinstance(entry, dict):  # the run was killed while it wrote this
                break
            whole += len(line.encode())
            if 'summary' in entry:
                raise ResultsExistError(
                    f'{out} holds the results of a run that is finished: name another folder, or '
                    'replace them with --force')
            if 'settings' in entry:
                before = dict(entry['settings'])
                different = sorted(key for key in {*settings, *before}
                                   if settings.get(key) != before.get(key))
            elif 'frame' in entry:
                self.frames[entry['frame']] = entry
            elif 'source' in entry:
                self.sources[entry['source']] = entry
        if different:
            raise ResultsExistError(
                f'{out} holds an unfinished run with another {", ".join(different)}: repeat its '
                'command to go on with it, name another folder, or begin anew with --force')
        self._file.seek(whole)
        self._file.truncate()

    def _lines(self, out: Path | Storage) -> list[str]:
        """
        Return the lines of the journal.

        :raises ResultsExistError: it is another file of that name.
        """
        try:
            lines: list[str] = self._file.read().splitlines(keepends=True)
            # the first one may have been cut short, too
            ours = not lines or lines[0].startswith(_START) or _START.startswith(lines[0])
        except UnicodeDecodeError:
            ours = False
        if not ours:
            raise ResultsExistError(
                f'{NAME} in {out} is not of a run of "dgtl predict": name another folder, or '
                'overwrite the file with --force')
        return lines

    def add(self, entry: Mapping[str, Any]) -> None:
        """Note what is finished."""
        self._file.write(json.dumps(entry) + '\n')
        self._file.flush()
        if 'frame' not in entry or time.monotonic() > self._next_copy:
            self._copy()
        if 'frame' in entry:
            self.frames[entry['frame']] = dict(entry)
        elif 'source' in entry:
            self.sources[entry['source']] = dict(entry)

    def close(self) -> None:
        """Let another run have the folder."""
        self._copy()
        self._file.close()

    def _copy(self) -> None:
        if not isinstance(self._out, Path):
            start = time.monotonic()
            self._file.seek(0)
            self._out.write(NAME, self._file.read().encode())
            end = time.monotonic()
            self._next_copy = end + max(_COPY_S, _COPY_SHARE * (end - start))


def _opened(out: Path | Storage, force: bool) -> Any:
    """Open the journal that is there, or make one where nothing else is."""
    if isinstance(out, Path):
        if out.exists() and not out.is_dir():
            raise ResultsExistError(f'{out} is a file: results go to a folder, name another one')
        out.mkdir(parents=True, exist_ok=True)
        path = out / NAME
        there, filled = path.exists(), any(out.iterdir())
    else:
        found = out.read(NAME)
        there, filled = found is not None, out.filled()
    if filled and not there and not force:
        raise ResultsExistError(
            f'the folder {out} is not empty: name another one, or write into it with --force')
    if isinstance(out, Path):
        return open(path, 'r+' if there else 'w+', encoding='utf-8')
    file = tempfile.NamedTemporaryFile('w+', encoding='utf-8')
    file.write((found or b'').decode(errors='replace'))
    file.seek(0)
    return file
