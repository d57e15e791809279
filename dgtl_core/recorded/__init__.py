# SPDX-License-Identifier: Apache-2.0
"""
Recorded pictures: where frames come from, and where what a model says of them goes.

>>> from dgtl_core.recorded.sources import frames, open_sources
>>> for frame in frames(open_sources(['drive.mp4'])):
...     print(frame.name, frame.image.shape)
"""
