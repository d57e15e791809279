# SPDX-License-Identifier: Apache-2.0
"""
Bring published weights here by name: licence, download, check, conversion, model file.

    plan = Plan.of('rein-gtav-l')
    print(plan.licences)
    path = fetch(plan, accept_license=True)  # .onnx; of a backbone, the published file
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
import shutil
from typing import Any, NamedTuple

from dgtl_core.files import file_sha256, placing
from dgtl_core.zoo import convert
from dgtl_core.zoo.cache import (
    fetched_file,
    made_file,
    read_record,
    Record,
    weights_folder,
    write_record,
)
from dgtl_core.zoo.download import ask_json, check_space, download, DownloadError, OnBytes
from dgtl_core.zoo.entries import Entry, find_entry

OF_THE_USER = 'a file of the user'  # the source of what came with --from


class LicenceError(ValueError):
    """Weights whose licence the user has to accept, and has not."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What has to be here for one name: its own file, and that of its backbone."""

    entry: Entry
    parts: tuple[Entry, ...]  # the backbone first

    @classmethod
    def of(cls, name: str) -> Plan:
        """
        Return the plan for a name.

        :raises ValueError: there are no such weights; the message names the nearest.
        """
        entry = find_entry(name)
        parts = (find_entry(entry.needs), entry) if entry.needs else (entry,)
        return cls(entry=entry, parts=parts)

    @property
    def licences(self) -> list[str]:
        """One line for each file."""
        return [f'{part.name}: licence {part.licence}' + (f'. {part.note}' if part.note else '')
                for part in self.parts]

    @property
    def result(self) -> Path | None:
        """The file that the name stands for, if it is here."""
        if self.entry.kind != 'model':
            return fetched_file(self.entry.name)
        path = made_file(self.entry.name)
        return path if path.is_file() else None


def fetch(plan: Plan, *, accept_license: bool = False, files: Sequence[Path] = (),
          size: tuple[int, int] | None = None, again: bool = False,
          progress: Callable[[], OnBytes] = lambda: lambda here, total: None,
          say: Callable[[str], None] = lambda line: None) -> Path:
    """
    Bring weights here and return the file that their name stands for from then on.

    What is here already is not fetched again: a run that was stopped goes on.

    :param files: published files that are on this machine, in place of downloads.
    :param size: (height, width) of the model file's input; None: that of the training.
    :param again: make the model file again, for example for another size.
    :param progress: makes the function that is told how far a file is, one for each.
    :param say: is told what begins now, a line each.
    :raises LicenceError: a licence has to be accepted.
    :raises DownloadError: a file could not be brought here, or is another one.
    :raises ImportError: a model cannot be converted here.
    :raises ValueError: a file that is none of these, or does not fit.
    """
    if plan.result is not None and not again and not files:
        return plan.result
    asking = [part for part in plan.parts if part.accept]
    if asking and not accept_license:
        raise LicenceError(
            f'{asking[0].name} limits what you may do with it (licence: {asking[0].licence}); if '
            'you accept that, add --accept-license')
    if plan.entry.kind == 'model':
        convert.check_able()
    given = _assign(plan, files)
    for part in plan.parts:
        if not part.url and part.name not in given and fetched_file(part.name) is None:
            raise DownloadError(
                f'the file of {part.name} cannot be fetched by a program. Open {part.page} in a '
                f'browser, download it, and run: dgtl fetch {plan.entry.name} --from FILE')
    here = {part.name: _bring(part, given.get(part.name), progress, say) for part in plan.parts}
    if plan.entry.kind == 'model':
        _convert(plan, here, size, again or bool(files), say)
    for name, path in given.items():  # a file that was good takes the place of the former
        _keep(name, path, here[name].record, say)
    assert plan.result is not None
    return plan.result


class _Brought(NamedTuple):
    """A published file that is on this machine."""

    path: Path
    record: Record


def _convert(plan: Plan, here: dict[str, _Brought], size: tuple[int, int] | None, again: bool,
             say: Callable[[str], None]) -> None:
    entry = plan.entry
    checkpoint, model = made_file(entry.name, '.safetensors'), made_file(entry.name)
    total = sum(brought.record.size for brought in here.values())
    check_space(model.parent, 2 * total, f'the conversion of {entry.name}')
    if again or not checkpoint.is_file():
        paths = {name: brought.path for name, brought in here.items()}
        say(f'converting {" and ".join(path.name for path in paths.values())}')
        try:
            convert.to_checkpoint(entry, paths, checkpoint, _source(here))
        except ValueError as error:
            kept = [str(path.parent) for path in paths.values()]
            if not all(Path(folder).parent == weights_folder() for folder in kept):
                raise  # about a file of the user
            raise ValueError(f'{error}. If it is the wrong file, remove {" or ".join(kept)} and '
                             'fetch it again') from None
    say('making the model file; a large model takes minutes')
    say(convert.to_model_file(checkpoint, model, size))


def _source(here: dict[str, _Brought]) -> str:
    """Say in the model file where everything in it comes from."""
    return '; '.join(
        f'{name} ({record.source}, sha256 {record.sha256}, licence {record.licence})'
        for name, (_, record) in here.items())


def _assign(plan: Plan, files: Sequence[Path]) -> dict[str, Path]:
    """Tell which of the user's files is which, by its name, else because one is left."""
    rest = list(files)
    for path in rest:
        if not path.is_file():
            raise FileNotFoundError(f'there is no file {path}')
    given: dict[str, Path] = {}
    for part in plan.parts:
        named = [path for path in rest if path.name == part.file]
        if named:
            given[part.name] = named[0]
            rest.remove(named[0])
    open_parts = [part for part in plan.parts
                  if part.name not in given and fetched_file(part.name) is None]
    if not open_parts and rest:  # in place of the one that is here
        open_parts = [part for part in plan.parts[-1:] if part.name not in given]
    if len(rest) > len(open_parts) or len(rest) > 1:
        wanted = ', '.join(part.file or f'the file of {part.name}' for part in plan.parts)
        raise ValueError(
            f'it is not clear which file {", ".join(path.name for path in rest)} is; '
            f'{plan.entry.name} takes {wanted}: give one at a time, or under these names')
    if rest:
        given[open_parts[-1].name] = rest[0]
    return given


def _bring(part: Entry, given: Path | None, progress: Callable[[], OnBytes],
           say: Callable[[str], None]) -> _Brought:
    """Find the published file of one entry: that of the user, the one that is here, or its own."""
    folder = _folder(part.name)
    if given is not None:
        _check(part, given)
        return _Brought(given, _record(
            part, given, part.file or f'published{given.suffix}', OF_THE_USER))
    found, known = fetched_file(part.name), read_record(part.name)
    if found is not None and known is not None:
        say(f'{part.name} is here: {found}')
        return _Brought(found, known)
    target = folder / part.file
    size, digests = _expected(part, known)
    say(f'fetching {part.url}')
    download(part.url, target, size=size, digests=digests, progress=progress())
    record = _record(part, target, part.file, part.url)
    write_record(part.name, record)
    return _Brought(target, record)


def _folder(name: str) -> Path:
    """Return the folder of one entry, which is there then."""
    folder = weights_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f'the folder {folder} cannot be made ({error.strerror}); set XDG_CACHE_HOME to a '
            'folder that you may write to') from None
    return folder


def _record(part: Entry, path: Path, name: str, source: str) -> Record:
    return Record(
        file=name, size=path.stat().st_size, sha256=file_sha256(path), source=source,
        licence=part.licence, fetched=date.today().isoformat())


def _expected(part: Entry, known: Record | None) -> tuple[int, dict[str, str]]:
    """Return size and hashes that the file must have: as listed, as it had, as Zenodo tells."""
    if part.sha256:
        return part.size, {'sha256': part.sha256}
    if known is not None and known.source == part.url:
        return known.size, {'sha256': known.sha256}
    return _listed(part) if part.listing else (part.size, {})


def _listed(part: Entry) -> tuple[int, dict[str, str]]:
    listing: Any = ask_json(part.listing)
    try:
        found = next(file for file in listing['files'] if file['key'] == part.file)
        kind, _, value = str(found['checksum']).partition(':')
        size = int(found['size'])
        if kind not in ('md5', 'sha256') or size <= 0:
            raise ValueError(found['checksum'])
    except (KeyError, StopIteration, TypeError, ValueError):
        raise DownloadError(f'{part.listing} tells no size and hash of {part.file}') from None
    return size, {kind: value}


def _check(part: Entry, given: Path) -> None:
    """Find out whether a file of the user's is the one that is meant, as far as that is known."""
    size = given.stat().st_size
    if part.size and size != part.size:
        raise ValueError(
            f'{given} has {size} bytes, and {part.file} has {part.size}: it is another file, or '
            'was cut; copy it again')
    if part.sha256 and (found := file_sha256(given)) != part.sha256:
        raise ValueError(
            f'{given} is not {part.file}: its sha256 is {found}, not {part.sha256}')


def _keep(name: str, given: Path, record: Record, say: Callable[[str], None]) -> None:
    """Copy a file of the user's to its place."""
    target = _folder(name) / record.file
    if not target.exists() or not target.samefile(given):
        check_space(target.parent, record.size, f'a copy of {given}')
        say(f'copying {given}')
        with placing(target) as temporary:
            shutil.copyfile(given, temporary)
    write_record(name, record)
