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
from typing import Any

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
            f'{asking[0].name} has the licence {asking[0].licence}, which limits what you may do; '
            'if you accept it, add --accept-license')
    if plan.entry.kind == 'model':
        convert.check_able()
    given = _assign(plan, files)
    for part in plan.parts:
        if not part.url and part.name not in given and fetched_file(part.name) is None:
            raise DownloadError(
                f'the file of {part.name} cannot be fetched by a program. Open {part.page} in a '
                f'browser, download it, and run: dgtl fetch {plan.entry.name} --from FILE')
    here = {part.name: _bring(part, given.get(part.name), progress, say) for part in plan.parts}
    if plan.entry.kind != 'model':
        return here[plan.entry.name]
    return _convert(plan, here, size, again or bool(files), say)


def _convert(plan: Plan, here: dict[str, Path], size: tuple[int, int] | None, again: bool,
             say: Callable[[str], None]) -> Path:
    entry = plan.entry
    checkpoint, model = made_file(entry.name, '.safetensors'), made_file(entry.name)
    total = sum(path.stat().st_size for path in here.values())
    check_space(model.parent, 2 * total, f'the conversion of {entry.name}')
    if again or not checkpoint.is_file():
        say(f'converting {" and ".join(path.name for path in here.values())}')
        convert.to_checkpoint(entry, here, checkpoint, _source(plan))
    say('making the model file; a large model takes minutes')
    say(convert.to_model_file(checkpoint, model, size))
    return model


def _source(plan: Plan) -> str:
    """Say in the model file where everything in it comes from."""
    told = []
    for part in plan.parts:
        record = read_record(part.name)
        assert record is not None  # it was written when the file came
        told.append(f'{part.name} ({record.source}, sha256 {record.sha256}, licence '
                    f'{record.licence})')
    return '; '.join(told)


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
           say: Callable[[str], None]) -> Path:
    """Return the published file of one entry, in its folder."""
    found = fetched_file(part.name)
    if found is not None and given is None:
        say(f'{part.name} is here: {found}')
        return found
    folder = weights_folder() / part.name
    folder.mkdir(parents=True, exist_ok=True)
    known = read_record(part.name)
    if given is not None:
        target = folder / (part.file or f'published{given.suffix}')
        _copy(part, given, target, say)
    else:
        target = folder / part.file
        size, digests = _expected(part, known)
        say(f'fetching {part.url}')
        download(part.url, target, size=size, digests=digests, progress=progress())
    source = part.url if given is None else OF_THE_USER
    write_record(part.name, Record(
        file=target.name, size=target.stat().st_size, sha256=file_sha256(target), source=source,
        licence=part.licence, fetched=date.today().isoformat()))
    return target


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


def _copy(part: Entry, given: Path, target: Path, say: Callable[[str], None]) -> None:
    """Copy a file of the user's, if it is the one that is meant."""
    size = given.stat().st_size
    if part.size and size != part.size:
        raise ValueError(
            f'{given} has {size} bytes, and {part.file} has {part.size}: it is another file, or '
            'was cut; copy it again')
    if part.sha256 and (found := file_sha256(given)) != part.sha256:
        raise ValueError(
            f'{given} is not {part.file}: its sha256 is {found}, not {part.sha256}')
    if target.exists() and target.samefile(given):
        return
    check_space(target.parent, size, f'a copy of {given}')
    say(f'copying {given}')
    with placing(target) as temporary:
        shutil.copyfile(given, temporary)
