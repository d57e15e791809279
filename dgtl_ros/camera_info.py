# SPDX-License-Identifier: Apache-2.0
"""The camera's calibration beside its labels, scaled where the labels are smaller."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, RegionOfInterest

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from std_msgs.msg import Header


class CameraInfoRelay:
    """
    Passes the newest ``CameraInfo`` of a camera on with each picture of labels that is watched.

    :param image: the topic of its pictures. As image_transport has it, ``camera_info`` lies beside
        what that is mapped to, unless it is mapped itself.
    :param publisher: of ``segmentation/camera_info``.
    """

    def __init__(self, node: Node, image: str, publisher: Publisher) -> None:
        self._node, self._publisher = node, publisher
        self._last: CameraInfo | None = None
        topic = f'{image.removesuffix("image")}camera_info'
        own = node.resolve_topic_name(topic)
        if own == node.resolve_topic_name(topic, only_expand=True):
            topic = f'{node.resolve_topic_name(image).rpartition("/")[0]}/camera_info'
        self._subscription = node.create_subscription(
            CameraInfo, topic, self._on_info,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))

    def publish(self, header: Header, size: tuple[int, ...]) -> None:
        """Publish the calibration for labels of this (height, width), once it is known."""
        info = self._last
        if info is not None and self._publisher.get_subscription_count():
            self._publisher.publish(scaled(info, size, header))

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _on_info(self, message: CameraInfo) -> None:
        self._last = message


def scaled(info: CameraInfo, size: tuple[int, ...], header: Header) -> CameraInfo:
    """
    Return a calibration for the same picture at another (height, width).

    The middle of the first pixel is (0, 0), so that c' = (c - start + 1/2) s - 1/2 and f' = f s.
    What the camera had cut off or binned is part of the new numbers, and not said any more.
    """
    region = pictured(info)
    result: CameraInfo = deepcopy(info)
    result.header = header
    result.height, result.width = int(size[0]), int(size[1])
    result.binning_x = result.binning_y = 0
    result.roi = RegionOfInterest(do_rectify=info.roi.do_rectify)
    if region.height and region.width:
        for row, offset, factor in ((0, region.x_offset, size[1] / region.width),
                                    (1, region.y_offset, size[0] / region.height)):
            k, p = 3 * row, 4 * row
            for matrix, start in ((result.k, k), (result.p, p)):
                matrix[start + 2] -= offset
                matrix[start:start + 3] = [value * factor for value in matrix[start:start + 3]]
                matrix[start + 2] += (factor - 1) / 2
            result.p[p + 3] *= factor  # of a stereo pair: f times the baseline
    return result


def pictured(info: CameraInfo) -> RegionOfInterest:
    """Return the part of the sensor that the pictures show, in the pixels of the calibration."""
    if info.roi.width and info.roi.height:
        return info.roi
    return RegionOfInterest(height=info.height, width=info.width)
