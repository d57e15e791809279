# SPDX-License-Identifier: Apache-2.0
"""The standard parameters ``qos_overrides.*`` of those topics for which the user gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.qos import QoSPolicyKind
from rclpy.qos_overriding_options import QoSOverridingOptions

if TYPE_CHECKING:
    from rclpy.node import Node

_DEPTH = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)
_ALL = (*_DEPTH, QoSPolicyKind.RELIABILITY)


def publisher_overrides(node: Node, topic: str) -> QoSOverridingOptions:
    """Return the policies of a publisher that the user overrides."""
    return _given(node, topic, 'publisher', _ALL)


def subscription_overrides(node: Node, topic: str) -> QoSOverridingOptions:
    """Return those of a subscription; its reliability is ours, it follows the camera."""
    return _given(node, topic, 'subscription', _DEPTH)


def _given(node: Node, topic: str, kind: str,
           policies: tuple[QoSPolicyKind, ...]) -> QoSOverridingOptions:
    # rclpy would declare the others with the values of today, read-only and for the life of the
    # node: they would win over qos.output.depth at the next configuration.
    given = getattr(node, '_parameter_overrides', {})
    prefix = f'qos_overrides.{node.resolve_topic_name(topic)}.{kind}.'
    return QoSOverridingOptions([p for p in policies if prefix + p.name.lower() in given])
