# SPDX-License-Identifier: Apache-2.0
"""Every parameter of ``label_points``, in one table: name, default, range, meaning."""

from __future__ import annotations

from dataclasses import dataclass

from dgtl_core.points import transform_of
from dgtl_ros.parameters import option, ParameterError

SOURCES = ('depth', 'cloud', 'lidar')


@dataclass(frozen=True, kw_only=True)
class PointsSettings:
    """The parameters of ``label_points``; see the text of each."""

    source: str = option(
        'depth', 'Where the points come from; depth: a depth image aligned to the camera; cloud: '
        'an organised cloud, pixel for pixel aligned; lidar: any cloud, projected into the camera',
        choices=SOURCES)
    use_confidence: bool = option(
        True, 'Wait for segmentation/confidence too; false: every point gets 255')
    use_color: bool = option(
        False, 'Wait for image too and colour the points of a depth image with it')
    sync_tolerance: float = option(
        0.05, 'Most seconds between the stamps of the labels and of the points; 0: they must be '
        'equal', low=0.0, high=1.0)
    queue_size: int = option(
        10, 'Messages of each topic that wait for the others', low=1, high=100)
    extrinsic: str = option(
        '', 'Where the lidar is, seen from the camera: "x y z roll pitch yaw" or "x y z qx qy qz '
        'qw", metres and radians; it takes a lidar point into the optical frame of the camera. '
        'Empty: ask tf')
    autostart: bool = option(
        True, 'Configure and activate without being told; false: wait for a lifecycle manager')
    input_timeout: float = option(
        2.0, 'Seconds without a complete set after which the diagnostics report an error',
        low=0.1, high=60.0, dynamic=True)

    def __post_init__(self) -> None:
        if self.extrinsic:
            try:
                transform_of([float(word) for word in self.extrinsic.split()])
            except ValueError as error:
                raise ParameterError(f'parameter extrinsic: {error}') from None
        if self.use_color and self.source != 'depth':
            raise ParameterError(
                f'use_color is for source depth; a {self.source} keeps the colours that it has: '
                'leave use_color false')

    @property
    def topics(self) -> tuple[str, ...]:
        """What has to come together, the labels first."""
        names = ['segmentation', {'depth': 'depth', 'cloud': 'points', 'lidar': 'points'}[
            self.source]]
        if self.use_confidence:
            names.append('segmentation/confidence')
        if self.use_color:
            names.append('image')
        return tuple(names)
