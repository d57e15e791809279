# SPDX-License-Identifier: Apache-2.0
"""From the words that people write to frames: pictures, videos, cameras, bags, drawn streets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
import glob
import logging
import os
from pathlib import Path
import re

from dgtl_core.pictures import find_pictures, is_picture, read_image
from dgtl_core.recorded import bag, video
from dgtl_core.recorded.bag import Bag
from dgtl_core.recorded.frame import Frame, Item, Source, SourceError
from dgtl_core.recorded.video import Camera, Video

KINDS = ('a picture, a folder of pictures, a glob, a video, a bag (.mcap, .db3, .bag, or the '
         'folder that rosbag2 makes), camera:0, or streetworld')
_DRAWN_FRAMES = 100  # of the drive through the drawn streets
_LOG = logging.getLogger(__name__)


class Pictures:
    """Picture files; their names are kept, relative to the folder that holds all sources."""

    cameras: tuple[str, ...] = ('',)

    def __init__(self, names: dict[Path, str], name: str) -> None:
        self._names, self.name = names, name
        self.total: int | None = len(names)

    def items(self) -> Iterator[Item]:
        """Give the pictures in the order in which they were named, those of a folder sorted."""
        for path, name in self._names.items():
            yield _picture(path, name)


    def every(self, stride: int, limit: int) -> Pictures:
        """Return each ``stride``-th picture, at most ``limit`` (0: all)."""
        chosen = list(self._names.items())[::stride]
        return Pictures(dict(chosen[:limit or None]), self.name)

    def without(self, names: Collection[str]) -> Pictures:
        """Return the pictures whose names are none of these."""
        return Pictures({p: n for p, n in self._names.items() if n not in names}, self.name)

    def parts(self, count: int) -> list[Pictures]:
        """Return the pictures in parts of up to ``count``."""
        items = list(self._names.items())
        return [Pictures(dict(items[i:i + count]), self.name) for i in range(0, len(items), count)]


def _picture(path: Path, name: str) -> Item:
    return Item(name, lambda: Frame(name, read_image(path)))


class DrawnStreets:
    """A drive through StreetWorld: clear, fog, night, rain, snow, at 10 frames a second."""

    cameras: tuple[str, ...] = ('',)
    name = 'streetworld'
    total: int | None = _DRAWN_FRAMES

    def items(self) -> Iterator[Item]:
        """Give the frames of the drive."""
        from dgtl_core.streetworld import StreetWorld

        conditions, rate = ('clear', 'fog', 'night', 'rain', 'snow'), 10.0
        drive = StreetWorld(size=(360, 640)).stream(
            rate, conditions, _DRAWN_FRAMES / rate / len(conditions))
        for shot in drive:
            frame = Frame(f'{self.name}/{shot.index:06d}', shot.image,
                          round(shot.index * 1e9 / rate))
            yield Item(frame.name, lambda frame=frame: frame)  # type: ignore[misc]


def open_sources(words: Sequence[str | Path], topics: Sequence[str] = (),
                 out: Path | None = None) -> list[Source]:
    """
    Find what the words name. All picture files together are one source.

    Names of results are relative to the deepest folder that holds all the sources, without the
    suffix; with it, where two would be called alike.

    :param topics: of the bags to take pictures from; none: the only one that has any.
    :param out: where results go; pictures in there, below a folder of pictures, are none of it.
    :raises SourceError: a word names nothing that can be read; the message says what can.
    """
    if not all(str(word).strip() for word in words):
        raise SourceError(f'a source without a name was given; give {KINDS}')
    named = dict.fromkeys(found for word in words for found in _expanded(str(word)))
    paths = [Path(word) for word in named if not _special(word)]
    root = _common([path if path.is_dir() and not bag.is_bag(path) else path.parent
                    for path in paths])
    pictures: list[Path] = []
    files: list[Path] = []  # videos and bags
    live: list[Source] = []
    for word in named:
        path = Path(word)
        if word == 'streetworld':
            live.append(DrawnStreets())
        elif _special(word):
            live.append(Camera(int(word.partition(':')[2])))
        elif bag.is_bag(path) or path.suffix.lower() in video.SUFFIXES and path.is_file():
            files.append(path)
        elif path.is_dir():
            pictures += _folder(path, out)
        elif is_picture(path):
            pictures.append(path)
        else:
            raise SourceError(
                f'{word} is none of what can be read: give {KINDS}; videos end in one of '
                f'{", ".join(video.SUFFIXES)}')
    if topics and not any(bag.is_bag(path) for path in files):
        raise SourceError(f'there is no bag among {", ".join(named)}, and topics are of bags')
    sources: list[Source] = []
    if pictures:
        sources.append(Pictures(_names(pictures, root), root.name or 'pictures'))
    for path, name in _names(files, root).items():
        sources.append(Bag(path, name, topics) if bag.is_bag(path) else Video(path, name))
    return sources + live


def frames(sources: Sequence[Source], stride: int = 1, limit: int = 0,
           skip: Callable[[str], bool] = lambda name: False,
           broken: Callable[[str, str], None] | None = None,
           ) -> Generator[Frame, None, None]:
    """
    Read the frames of all sources, one after the other; what cannot be read is passed over.

    :param stride: take each ``stride``-th frame.
    :param limit: the most frames of each camera of each source; 0: all.
    :param skip: called with the name of a frame; where it answers True the frame counts, but is
        not read.
    :param broken: called with the name and the fault of a frame, or of the rest of a source, that
        cannot be read; None: a warning is logged.
    :raises ValueError: stride or limit is out of its range.
    """
    if stride < 1 or limit < 0:
        raise ValueError(f'stride must be 1 or more and limit 0 or more, got {stride} and {limit}')
    tell = broken or (lambda name, fault: _LOG.warning('%s left out: %s', name, fault))
    for source in sources:
        seen: Counter[str] = Counter()
        most = limit * stride
        try:
            for item in source.items():
                number = seen[item.camera]
                seen[item.camera] += 1
                within = not most or number < most
                if within and number % stride == 0 and not skip(item.name):
                    try:
                        frame = item.read()
                    except (OSError, ValueError) as error:
                        tell(item.name, str(error))
                    else:
                        yield frame
                if most and all(seen[camera] >= most for camera in source.cameras):
                    break
        except SourceError as error:
            tell(source.name, str(error))


def _expanded(word: str) -> list[str]:
    """Return what a glob matches; a word that names something is no glob."""
    if _special(word):
        return [word]
    if Path(word).exists():
        return [os.path.abspath(word)]
    found = sorted(glob.glob(os.path.expanduser(word), recursive=True))
    if not found:
        raise SourceError(f'there is no {word!r}; give {KINDS}')
    return [os.path.abspath(match) for match in found]


def _special(word: str) -> bool:
    return word == 'streetworld' or re.fullmatch(r'camera:\d{1,3}', word) is not None


def _folder(path: Path, out: Path | None) -> list[Path]:
    whole, results = path.resolve(), out and out.resolve()
    try:
        found = find_pictures([path])
        if results and whole in results.parents:
            inside = path / results.relative_to(whole)
            found = [picture for picture in found if inside not in picture.parents]
        if not found:
            raise ValueError('results alone')
        return found
    except ValueError:
        recorded = [p.name for p in sorted(path.iterdir())
                    if bag.is_bag(p) or p.suffix.lower() in video.SUFFIXES]
        hint = f'; to take its videos and bags, name them, such as {path / recorded[0]}' \
            if recorded else ''
        raise SourceError(f'the folder {path} holds no picture{hint}') from None


def _common(folders: Sequence[Path]) -> Path:
    return Path(os.path.commonpath(folders)) if folders else Path()


def _names(paths: Sequence[Path], root: Path) -> dict[Path, str]:
    """Name paths below the root, each in another way."""
    whole = {path: Path(os.path.relpath(path, root)) for path in paths}
    short = {path: name if path.is_dir() else name.with_suffix('') for path, name in whole.items()}
    count = Counter(short.values())
    return {path: (whole if count[short[path]] > 1 else short)[path].as_posix() for path in paths}
