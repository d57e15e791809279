# SPDX-License-Identifier: Apache-2.0
"""
A bag with the pictures that were labelled and what the node would have published of them.

``/segmentation``, ``/segmentation/confidence`` (both mono8) and ``/segmentation/class_map``; where
pictures of several topics were labelled, behind the name of each. All with the header of their
picture and its time in the bag. A ROS 2 bag keeps its storage; of a ROS 1 bag comes MCAP.
"""

from __future__ import annotations

from contextlib import ExitStack
import json
from pathlib import Path
import shutil
from typing import Any, Literal

from dgtl_core.classes import ClassSet
from dgtl_core.files import put, workshop
from dgtl_core.recorded.bag import Bag
from dgtl_core.recorded.labels import Labelled
from dgtl_core.recorded.sink import SinkError
import numpy as np

_VERSION: Literal[8] = 8  # of rosbag2's metadata: newer and older distributions read it


class BagSink:
    """Writes the folder ``path``, as rosbag2 makes it."""

    def __init__(self, path: Path, source: Bag, classes: ClassSet) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import get_typestore, Stores

        self._path, self._classes = path, classes
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._several = len(source.cameras) > 1
        # rosbag2 calls the files in the folder as the folder is called
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._part = self._stack.enter_context(workshop(path.parent)) / path.name
        plugin = StoragePlugin.SQLITE3 if source.storage == 'sqlite3' else StoragePlugin.MCAP
        self._writer = Writer(self._part, version=_VERSION, storage_plugin=plugin)
        self._writer.open()
        self._connections: dict[str, Any] = {}

    def add(self, labelled: Labelled) -> None:
        """Write the frame's own message, its labels and its confidence."""
        message = labelled.frame.message
        if message is None:
            raise SinkError(f'{labelled.frame.name} comes from no bag')
        kinds = self._store.types
        stamp, frame_id = message.content.header.stamp, message.content.header.frame_id
        header = kinds['std_msgs/msg/Header'](
            stamp=kinds['builtin_interfaces/msg/Time'](sec=stamp.sec, nanosec=stamp.nanosec),
            frame_id=frame_id)
        kind = message.content.__msgtype__
        fields = {name: getattr(message.content, name)
                  for name, _ in self._store.fielddefs[kind][1]}
        self._write(message.topic, message.time, kinds[kind](**{**fields, 'header': header}))
        prefix = f'{message.topic}/segmentation' if self._several else '/segmentation'
        if prefix not in self._connections:
            self._write(f'{prefix}/class_map', message.time, kinds['std_msgs/msg/String'](
                data=json.dumps(self._classes.to_list())), latched=True)
        for topic, pixels in ((prefix, labelled.labels),
                              (f'{prefix}/confidence', labelled.confidence)):
            self._write(topic, message.time, kinds['sensor_msgs/msg/Image'](
                header=header, height=pixels.shape[0], width=pixels.shape[1], encoding='mono8',
                is_bigendian=0, step=pixels.shape[1],
                data=np.ascontiguousarray(pixels).reshape(-1)))

    def _write(self, topic: str, time: int, content: Any, latched: bool = False) -> None:
        kind = content.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._store,
                offered_qos_profiles=[_latched()] if latched else ())
        self._writer.write(
            self._connections[topic], time, self._store.serialize_cdr(content, kind))

    def finish(self) -> list[Path]:
        """Put the bag in its place."""
        self._writer.close()
        if self._connections:
            if self._path.exists():  # of a former run that was told to be replaced
                shutil.rmtree(self._path)
            put({self._part: self._path})
        self._stack.close()
        return [self._path] * bool(self._connections)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._writer.close()
        self._stack.close()


def _latched() -> Any:
    from rosbags.interfaces import (
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )

    never = QosTime(2147483647, 4294967295)
    return Qos(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
               never, never, QosLiveliness.AUTOMATIC, never, False)
