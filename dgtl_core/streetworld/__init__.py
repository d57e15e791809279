# SPDX-License-Identifier: Apache-2.0
"""
StreetWorld: procedural street pictures with exact labels and depth. Test material, and the demo.

It is drawn, not photographed: use it to test a pipeline, to demonstrate one, or as a source domain
of an experiment. A model trained on it alone is not fit for a real street.
"""

from dgtl_core.streetworld.camera import SKY_DEPTH
from dgtl_core.streetworld.world import CONDITIONS, DrawnPicture, DrivePicture, StreetWorld

__all__ = ['CONDITIONS', 'DrivePicture', 'DrawnPicture', 'SKY_DEPTH', 'StreetWorld']
