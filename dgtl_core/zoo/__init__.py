# SPDX-License-Identifier: Apache-2.0
"""Published weights by name: what there is, bringing them here, and finding them again."""
