# SPDX-License-Identifier: Apache-2.0
"""Bags for the tests, written with rosbags."""

import cv2
import numpy as np
from rosbags import rosbag1, rosbag2
from rosbags.typesys import get_typestore, Stores

SECOND = 1_000_000_000


def picture(seed=0, size=(48, 64)):
    """A picture that JPEG keeps nearly as it is."""
    small = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)


def write_bag(path, topics, plugin='MCAP', broken=(), ros1=False, compressed=''):
    """
    Write a bag.

    :param topics: {topic: [pictures]}; a topic that ends in ``compressed`` gets JPEG.
    :param broken: numbers of messages, of each topic, whose picture is cut off.
    :param compressed: what of a ROS 2 bag is compressed with zstd: FILE or MESSAGE.
    """
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    kinds = store.types
    writer = rosbag1.Writer(path) if ros1 else rosbag2.Writer(
        path, version=8, storage_plugin=rosbag2.StoragePlugin[plugin])
    if compressed:
        writer.set_compression(
            rosbag2.CompressionMode[compressed], rosbag2.CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic in topics:
            kind = 'CompressedImage' if topic.endswith('compressed') else 'Image'
            connections[topic] = writer.add_connection(
                topic, f'sensor_msgs/msg/{kind}', typestore=store)
        for number in range(max(len(pictures) for pictures in topics.values())):
            for topic, pictures in topics.items():
                if number >= len(pictures):
                    continue
                image = pictures[number]
                stamp = kinds['builtin_interfaces/msg/Time'](sec=100 + number, nanosec=7)
                sequence = {'seq': number} if ros1 else {}
                header = kinds['std_msgs/msg/Header'](
                    **sequence, stamp=stamp, frame_id=f'camera{topic}')
                if topic.endswith('compressed'):
                    data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
                    data = data.ravel()[:200 if number in broken else None]
                    message = kinds['sensor_msgs/msg/CompressedImage'](
                        header=header, format='jpeg', data=data)
                else:
                    data = image.ravel()[:99 if number in broken else None]
                    message = kinds['sensor_msgs/msg/Image'](
                        header=header, height=image.shape[0], width=image.shape[1],
                        encoding='rgb8', is_bigendian=0, step=image.shape[1] * 3, data=data)
                serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
                writer.write(connections[topic], (200 + number) * SECOND,
                             serialize(message, connections[topic].msgtype))
    return path
