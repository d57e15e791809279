# SPDX-License-Identifier: Apache-2.0
"""Why pictures do not come, or come too late, as far as it can be known, and what to do."""

from __future__ import annotations

import math

from dgtl_ros.health import Camera
from dgtl_ros.settings import Settings

_DISCOVERY = 2.0  # seconds that a new publisher gets before it is missed
_LARGE = 150_000  # pixels; Fast DDS passes smaller pictures as it is


def old(settings: Settings, all_of_them: bool = False) -> str:
    """Say what a picture that is too old is, and what to do."""
    boot = ('all of them: a driver that stamps from the start of the machine, not by the time of '
            'day, does that; ' if all_of_them else '')
    return (
        f'more than max_image_age ({settings.max_image_age:g} s); {boot}for bags use --clock and '
        'use_sim_time, between machines synchronise the clocks; max_rate makes pictures wait too; '
        'or set max_image_age to 0')


def starvation(camera: Camera, seconds: float, size: tuple[int, int] = (0, 0),
               now: float = math.inf) -> str:
    """
    Say why no picture comes, as far as it can be known, and what to do.

    :param size: (height, width) of the last picture that came; zeros: none did.
    :param now: by the steady clock.
    """
    start = f'no picture on {camera.topic} for {seconds:.1f} s: '
    if camera.other:
        return start + camera.other
    if not camera.publishers:
        return start + ('nobody publishes there; start the camera, or map the topic with '
                        'image_topic:=... (launch) or --ros-args -r image:=...')
    if not camera.compatible:
        return start + ('the camera offers best_effort and the node asks for reliable; set '
                        'qos.image.reliability to auto')
    there = f'{camera.publishers} publisher(s) are there'
    if discovered(camera, now):
        return start + f'{there}, since {now - (camera.since or now):.1f} s'
    ways = ['they send nothing']
    if not 0 < size[0] * size[1] < _LARGE:
        ways.append(
            'large pictures are lost in the shared memory of Fast DDS: start the camera and the '
            'node with FASTDDS_DEFAULT_PROFILES_FILE (Humble, Jazzy: FASTRTPS_...) set to '
            'config/fastdds_large_images.xml')
    if size == (0, 0):
        ways.append('camera and node share no memory, as another user or in another container: '
                    'run both as one user, containers with --ipc=host, or both over UDP alone: '
                    'the node with --dds-profile udp, the camera with '
                    'FASTDDS_DEFAULT_PROFILES_FILE (Humble, Jazzy: FASTRTPS_...) set to '
                    'config/fastdds_udp.xml')
    return f'{start}{there}; ' + ', or '.join(ways)


def discovered(camera: Camera, now: float) -> bool:
    """Whether the camera's publisher is so new that nothing can be expected of it."""
    return camera.since is not None and now - camera.since < _DISCOVERY
