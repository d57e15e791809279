# SPDX-License-Identifier: Apache-2.0
"""Bags of ROS 2 (sqlite3 and MCAP; a folder or one file) and ROS 1, without ROS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
import re
from typing import Any

from dgtl_core.encodings import decode, decode_compressed
from dgtl_core.recorded.frame import Frame, Item, Message, SourceError

SUFFIXES = ('.bag', '.db3', '.mcap')
KINDS = ('sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/Image')


def is_bag(path: Path) -> bool:
    """Return whether a path is that of a bag: a file of its kind, or a folder made by rosbag2."""
    return path.suffix.lower() in SUFFIXES if path.is_file() else (
        path / 'metadata.yaml').is_file()


class Bag:
    """
    The pictures of a bag, raw and compressed.

    :param topics: to take pictures from; none: the only topic that has any.
    :raises SourceError: it is no bag, or which topics to take is not clear.
    """

    def __init__(self, path: Path, name: str, topics: Sequence[str] = ()) -> None:
        self.path, self.name = path, name
        with _opened(path) as reader:
            found = {c.topic: 0 for c in reader.connections if c.msgtype in KINDS}
            for connection in reader.connections:
                if connection.topic in found:
                    found[connection.topic] += connection.msgcount
        listed = ', '.join(f'{topic} ({count})' for topic, count in sorted(found.items()))
        if not found:
            raise SourceError(f'{path} holds no pictures: none of its topics is of {list(KINDS)}')
        unknown = [topic for topic in topics if topic not in found]
        if unknown:
            raise SourceError(f'{path} has no pictures on {", ".join(unknown)}; it has {listed}')
        if not topics and len(found) > 1:
            raise SourceError(
                f'{path} has pictures on {len(found)} topics; name the ones to take with --topic: '
                f'{listed}')
        self.cameras: tuple[str, ...] = tuple(topics) or tuple(found)
        self.total: int | None = sum(found[topic] for topic in self.cameras)

    @property
    def storage(self) -> str:
        """``sqlite3``, ``mcap`` or ``ros1``."""
        kinds = {'.bag': 'ros1', '.db3': 'sqlite3', '.mcap': 'mcap'}
        files = [self.path] if self.path.is_file() else sorted(self.path.iterdir())
        # the last suffix may be that of a compression: drive_0.mcap.zstd
        return next(kinds[suffix.lower()] for path in files for suffix in reversed(path.suffixes)
                    if suffix.lower() in kinds)

    def items(self) -> Iterator[Item]:
        """Give the pictures of all chosen topics in the order in which they were recorded."""
        from rosbags.typesys import get_typestore, Stores

        ros1 = self.storage == 'ros1'
        store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
        read_message = store.deserialize_ros1 if ros1 else store.deserialize_cdr
        numbers = dict.fromkeys(self.cameras, 0)
        with _opened(self.path) as reader:
            chosen = [c for c in reader.connections
                      if c.topic in self.cameras and c.msgtype in KINDS]
            messages = reader.messages(connections=chosen)
            while (entry := _next(messages, self.path)) is not None:
                connection, when, data = entry
                topic = connection.topic
                # a bag can call its topics whatever it likes; files get no such names
                place = re.sub(r'[^\w/-]', '_', topic).strip('/')
                name = f'{self.name}/{place}/{numbers[topic]:06d}'
                numbers[topic] += 1
                yield _item(name, topic, when, data, connection.msgtype, read_message)


def _item(name: str, topic: str, when: int, data: bytes, kind: str, read_message: Any) -> Item:
    def read() -> Frame:
        try:
            content = read_message(data, kind)
        except Exception as error:  # what the generated readers of rosbags raise is not laid down
            raise SourceError(
                f'the message does not hold a {kind} ({type(error).__name__}: {error})') from None
        if kind.endswith('CompressedImage'):
            image = decode_compressed(content.data, content.format)
        else:
            image = decode(content, content.encoding)
        stamp = content.header.stamp
        return Frame(name, image, stamp.sec * 1_000_000_000 + stamp.nanosec,
                     Message(topic, when, content))

    return Item(name, read, topic)


def _next(messages: Iterator[Any], path: Path) -> Any:
    """Return the next message; None at the end."""
    try:
        return next(messages, None)
    except Exception as error:  # a damaged file fails deep in rosbags, in whatever way
        raise SourceError(f'{path} cannot be read any further ({type(error).__name__}: {error})'
                          ) from error


class _opened:
    """Opens a bag with the reader of its kind; its faults are of this module's kind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Any:
        try:
            from rosbags import rosbag1, rosbag2
        except ImportError:
            raise SourceError('reading bags needs rosbags: pip install rosbags') from None
        reader = rosbag1.Reader if self._path.suffix.lower() == '.bag' else rosbag2.Reader
        try:
            self._reader: Any = reader(self._path)
            self._reader.open()
        except Exception as error:  # a damaged file fails deep in rosbags, in whatever way
            raise SourceError(
                f'{self._path} cannot be read as a bag: {str(error) or type(error).__name__}. If '
                'the recording was cut off, repair it: "ros2 bag reindex FOLDER", "mcap recover '
                'FILE" or "rosbag reindex FILE"') from None
        return self._reader

    def __exit__(self, *_: object) -> None:
        self._reader.close()
