# SPDX-License-Identifier: Apache-2.0
"""``python -m dgtl_core.cli`` is ``dgtl``, also where nothing is installed."""

import sys

from dgtl_core.cli.main import main

sys.exit(main())
