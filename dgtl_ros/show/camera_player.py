# SPDX-License-Identifier: Apache-2.0
"""Plays a video, a folder of pictures or the moving StreetWorld as if it were a camera."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
import sys
import threading
import time
import traceback

from dgtl_core.recorded.ahead import ReadAhead
from dgtl_ros.dds_profile import add_argument
from dgtl_ros.image_codec import mono8, rgb8
from dgtl_ros.measures import Rate
from dgtl_ros.parameters import declare, expanded, option, ParameterError, parameters_of
from dgtl_ros.process import own_arguments, run
from dgtl_ros.show.drawing import draw_ahead, Drawing
from dgtl_ros.show.playback import open_files, Playback, PlayedPicture, resized
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

STREETWORLD = 'streetworld'
_DEFAULT_RATE = 10.0  # of sources that have none of their own


@dataclass(frozen=True, kw_only=True)
class PlayerSettings:
    """The parameters of ``camera_player``, which are also its command-line options."""

    source: str = option(
        STREETWORLD, 'A video file, a folder of pictures, or "streetworld": a drawn street')
    rate: float = option(
        0.0, "Pictures per second; 0: the video's own rate, 10 for everything else (StreetWorld: "
        '5 to 10, a third of what this machine can draw)', low=0.0, high=240.0)
    loop: bool = option(False, 'Start again at the end')
    height: int = option(0, 'Height of the pictures; 0: as they are', low=0, high=8192)
    width: int = option(0, 'Width of the pictures; 0: as they are', low=0, high=8192)
    frame_id: str = option('camera_optical', 'Frame id in the headers')
    reliability: str = option(
        'reliable', 'Reliability offered for the pictures', choices=('reliable', 'best_effort'))
    conditions: str = option(
        'clear,fog,night,rain,snow', 'Weather and light of StreetWorld, one after the other')
    seconds_per_condition: float = option(
        12.0, 'How long StreetWorld keeps each condition', low=0.1, high=3600.0)
    subscribers: int = option(
        0, 'How many must subscribe before the first picture is sent', low=0, high=100)
    seed: int = option(0, 'Which street StreetWorld draws', low=0, high=2**31 - 1)


class CameraPlayer(Node):
    """
    Publishes ``image``, and ``condition`` and ``ground_truth`` where the source knows them.

    :param leave: ends the process with an exit code; called at the end of the pictures.
    :raises ParameterError: the source cannot be read, or a parameter has a wrong value.
    """

    def __init__(self, leave: Callable[[int], None], overrides: list[Parameter]) -> None:
        super().__init__('camera_player', parameter_overrides=overrides)
        self._leave = leave
        settings = declare(self, PlayerSettings)
        self._frame_id = settings.frame_id
        opened = open_source(settings, self.get_logger().warning)
        self._rate = settings.rate or opened.rate or _DEFAULT_RATE
        self._wanted = settings.subscribers
        reliability = (ReliabilityPolicy.RELIABLE if settings.reliability == 'reliable'
                       else ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._images = self.create_publisher(Image, 'image', QoSProfile(
            depth=2, reliability=reliability))
        self._truth = self.create_publisher(Image, 'ground_truth', 5)
        self._condition = self.create_publisher(String, 'condition', latched)
        self._stop = threading.Event()
        self._frames = ReadAhead(
            resized(opened.frames, settings.height, settings.width), opened.ahead)
        self._thread = threading.Thread(target=self._play, name='play', daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """End the threads; return whether they did within ``timeout`` seconds."""
        self._stop.set()
        end = time.monotonic() + timeout
        self._thread.join(timeout)
        read = self._frames.close(max(end - time.monotonic(), 0.0))
        return read and not self._thread.is_alive()

    def _play(self) -> None:
        try:
            count = self._publish_all()
        except ParameterError as error:
            self.get_logger().fatal(str(error))
            self._leave(2)
        except Exception:  # a thread that dies without a word would leave a silent camera
            if not self._stop.is_set():
                self.get_logger().fatal(f'cannot play on:\n{traceback.format_exc()}')
                self._leave(1)
        else:
            if not self._stop.is_set():
                self._images.wait_for_all_acked(Duration(seconds=1))
                self.get_logger().info(f'played all {count} pictures')
                self._leave(0)

    def _publish_all(self) -> int:
        period, count, condition, rate = 1 / self._rate, 0, '', Rate()
        while self._images.get_subscription_count() < self._wanted:
            self.get_logger().info(
                f'waiting for {self._wanted} subscriber(s) of {self._images.topic_name}',
                throttle_duration_sec=5.0)
            if self._stop.wait(0.05):
                return 0
        self.get_logger().info(f'playing at {self._rate:g} Hz')
        due = time.monotonic()
        for frame in self._frames:
            if self._stop.wait(max(due - time.monotonic(), 0.0)):
                break
            if frame.condition != condition:
                condition = frame.condition
                self._condition.publish(String(data=condition))
            self._publish(frame)
            count += 1
            rate.tick()
            # Late is late: pictures that were not ready are not made up for in a burst.
            due = max(due + period, time.monotonic() - period)
            if count > 5 * self._rate and rate.hz() < 0.8 * self._rate:
                self.get_logger().warning(
                    f'the source gives {rate.hz():.1f} pictures/s, {self._rate:g} are wanted; use '
                    'a lower rate or smaller pictures', throttle_duration_sec=30.0)
        return count

    def _publish(self, frame: PlayedPicture) -> None:
        header = Header(frame_id=self._frame_id, stamp=self.get_clock().now().to_msg())
        self._images.publish(rgb8(frame.image, header))
        if frame.labels is not None and self._truth.get_subscription_count():
            self._truth.publish(mono8(frame.labels, header))


def open_source(settings: PlayerSettings, warn: Callable[[str], object]) -> Playback:
    """
    Open what ``settings.source`` names.

    :param warn: called with a message for each picture that is left out.
    :raises ParameterError: it cannot be opened, or a condition is not known.
    """
    if settings.source != STREETWORLD:
        return open_files(expanded('source', settings.source), settings.loop, warn)
    return draw_ahead(Drawing(
        size=(settings.height or 512, settings.width or 1024), rate=settings.rate,
        conditions=tuple(name.strip() for name in settings.conditions.split(',')),
        seconds_per_condition=settings.seconds_per_condition, loop=settings.loop,
        seed=settings.seed))


def parse(args: list[str]) -> tuple[list[Parameter], str]:
    """Read the command line (without --ros-args) into parameters and the profile of DDS."""
    parser = argparse.ArgumentParser(
        prog='camera_player',
        description='Publish pictures as sensor_msgs/Image on the topic "image". Each option is '
        'also a ROS parameter (--ros-args -p rate:=5.0); the option wins.')
    for name, entry in parameters_of(PlayerSettings).items():
        flag, kind = f'--{name.replace("_", "-")}', type(entry.default)
        text = f'{entry.metadata["text"]} (default: {entry.default})'
        # Only what is given becomes a parameter: argparse must not fill in the defaults.
        if kind is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            parser.add_argument(flag, type=kind, choices=entry.metadata['choices'] or None,
                                default=argparse.SUPPRESS, help=text)
    add_argument(parser)
    given = vars(parser.parse_args(args))
    profile = given.pop('dds_profile')
    return [Parameter(name, value=value) for name, value in given.items()], profile


def main(args: list[str] | None = None) -> int:
    """Play until the end, SIGINT or SIGTERM; return the exit code."""
    args = sys.argv if args is None else args
    overrides, profile = parse(own_arguments(args))
    return run('camera_player', partial(CameraPlayer, overrides=overrides), args, profile)


if __name__ == '__main__':
    sys.exit(main())
