# SPDX-License-Identifier: Apache-2.0
"""From a camera's messages to its pictures, and an account of those that hold none."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import NamedTuple, TYPE_CHECKING

from dgtl_core.encodings import DAMAGED, ImageError
from dgtl_ros.health import Health
from dgtl_ros.image_codec import Picture, to_rgb
from dgtl_ros.printable import described, printable
from dgtl_ros.settings import Settings
import numpy as np

if TYPE_CHECKING:
    from rclpy.impl.rcutils_logger import RcutilsLogger

_THROTTLE = 5.0  # seconds between two log lines of the same fault


class Decoded(NamedTuple):
    """What a message held."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    seconds: float     # that it took to find out


class Reader:
    """
    Reads the messages of one camera.

    :param topic: of the camera, for what is logged.
    :param settings: returns the parameters as they are now.
    """

    def __init__(self, topic: str, health: Health, settings: Callable[[], Settings],
                 logger: RcutilsLogger) -> None:
        self._topic, self._health = topic, health
        self._settings, self._logger = settings, logger
        self._said: set[str] = set()

    def read(self, message: Picture, ticket: int) -> Decoded | None:
        """Return the picture of a message; None where it holds none, which is counted."""
        start, settings = time.monotonic(), self._settings()
        encoding = '' if settings.input_encoding == 'auto' else settings.input_encoding
        try:
            image = to_rgb(message, encoding, settings.max_pixels, self._remark)
        except ImageError as error:  # the message is made for the user
            self.broken(ticket, printable(error))
        except Exception as error:  # no memory, or what cv_bridge raises; the next may be fine
            self.broken(ticket, described(error))
        else:
            self._health.size = image.shape[0], image.shape[1]
            self._health.last_read = now = time.monotonic()
            return Decoded(image, now - start)
        return None

    def broken(self, ticket: int, why: str) -> None:
        """Note that a message holds no picture."""
        self._health.reasons['decode_errors'] = why
        self._health.last_unread = time.monotonic()
        if self._health.end(ticket, 'decode_errors'):
            self._logger.error(
                f'picture of {self._topic} dropped: {why}', throttle_duration_sec=_THROTTLE)

    def _remark(self, kind: str, text: str) -> None:
        """Say once of each kind what is doubtful about the pictures, though they can be read."""
        if kind == DAMAGED:
            self._health.count('damaged')
        if kind not in self._said:
            self._said.add(kind)
            self._logger.warning(f'pictures of {self._topic}: {printable(text)}')
