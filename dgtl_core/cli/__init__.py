# SPDX-License-Identifier: Apache-2.0
"""The command ``dgtl``: one module a command, each a thin front of the library."""
