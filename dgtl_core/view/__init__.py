# SPDX-License-Identifier: Apache-2.0
"""A local web page that shows pictures and what a model says of them, while it says it."""
