# SPDX-License-Identifier: Apache-2.0
"""What the node does about the verdict on one camera, without a node."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from builtin_interfaces.msg import Time
from dgtl_core.classes import CITYSCAPES
from dgtl_core.domain import features
from dgtl_core.domain_drives import Copies
from dgtl_core.domain_fit import fit
from dgtl_core.predictor import Segmentation
from dgtl_ros.domain_watch import DomainWatch
from dgtl_ros.loading import advice
from dgtl_ros.settings import Settings
from dgtl_ros.speed_limit import SpeedLimiter

pytestmark = pytest.mark.ros
RNG = np.random.default_rng(0)
GOOD = RNG.integers(80, 200, (40, 60, 3)).astype(np.uint8)
SURE, UNSURE = 250, 90


def other():
    """Return a picture like GOOD."""
    return GOOD + RNG.integers(0, 30, GOOD.shape).astype(np.uint8)


class SpeedLimit:
    """Stands for nav2_msgs/msg/SpeedLimit: the fields of its definition, and no other."""

    __slots__ = ('header', 'percentage', 'speed_limit')

    def __init__(self, percentage, speed_limit):
        self.header = SimpleNamespace(stamp=None)
        self.percentage, self.speed_limit = percentage, speed_limit


class Node:
    """A node that keeps what is published."""

    def __init__(self):
        self.sent, self.topics = [], []

    def create_publisher(self, kind, topic, qos, qos_overriding_options):
        assert kind is SpeedLimit
        self.topics.append(topic)
        return SimpleNamespace(publish=self.sent.append)

    def resolve_topic_name(self, topic):
        return f'/{topic}'

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: Time(sec=7)))

    @property
    def limits(self):
        return [message.speed_limit for message in self.sent]


class Camera:
    """A camera with pictures that are known, unsure or dark."""

    def __init__(self, limiter, name='', domain=None, **settings):
        self.settings = Settings(domain_window=3, **settings)
        self.told, self.now = [], 0.0
        self.watch = DomainWatch(
            name, len(CITYSCAPES), lambda: self.settings,
            SimpleNamespace(publish_health=lambda *told: self.told.append(told)), limiter, domain)

    def see(self, confidence=SURE, dark=False, count=5, signature=None, **given):
        for _ in range(count):
            self.now += 0.1
            image = other() // 12 if dark else other()
            result = Segmentation(np.zeros(GOOD.shape[:2], np.uint8),
                                  np.full(GOOD.shape[:2], confidence, np.uint8))
            result.signature = signature
            self.watch.judge(image, result, self.now, **given)
        return self.watch.verdict.state


@pytest.fixture
def node(monkeypatch):
    monkeypatch.setattr(SpeedLimiter, 'message', SpeedLimit)
    return Node()


def test_each_action_takes_from_the_labels_what_it_says(node):
    finished = Segmentation(np.full((4, 4), 3, np.uint8), np.full((4, 4), 99, np.uint8))
    for action, labels, confidence in (('nothing', 3, 99), ('zero_confidence', 3, 0),
                                       ('ignore_labels', 255, 99), ('stop_publishing', None, 0)):
        camera = Camera(SpeedLimiter(node), domain_action=action)
        assert camera.see() == 'familiar' and camera.watch.allowed(finished) is finished
        assert camera.see(UNSURE) == 'shifted'
        allowed = camera.watch.allowed(finished)
        if labels is None:
            assert allowed is None
        else:
            assert (allowed.labels == labels).all() and (allowed.confidence == confidence).all()
        assert (finished.labels == 3).all() and (finished.confidence == 99).all()
        assert camera.see() == 'familiar' and camera.watch.allowed(finished) is finished


def test_labels_that_are_ignored_are_those_of_no_class(node):
    camera = Camera(SpeedLimiter(node), domain_action='ignore_labels', unlabeled_id=20)
    assert camera.see(UNSURE) == 'shifted'
    finished = Segmentation(np.full((4, 4), 3, np.uint8), np.full((4, 4), 99, np.uint8))
    assert (camera.watch.allowed(finished).labels == 20).all()


def test_a_change_is_told_at_once_and_the_same_once_a_second(node):
    camera = Camera(SpeedLimiter(node), domain_level_unusable='error')
    camera.see(count=30)  # 3 s
    assert 3 <= len(camera.told) <= 4
    camera.see(dark=True)
    verdict, status = camera.told[-1]
    assert verdict.state == 'unusable' and 'dark' in verdict.causes[0]
    assert status.level == 2 and status.values['state'] == 'unusable'


def test_speed_is_limited_by_the_state_and_repeated_for_a_controller_that_starts_late(node):
    camera = Camera(SpeedLimiter(node), domain_speed_shifted=50.0, domain_speed_unusable=10.0)
    assert camera.see(count=40) == 'familiar' and not node.sent, 'limits of others hold'
    camera.see(UNSURE, count=30)
    assert set(node.limits) == {50.0} and 2 <= len(node.limits) <= 4
    camera.see(dark=True)
    assert node.limits[-1] == 10.0 and node.topics == ['speed_limit']
    assert node.sent[-1].percentage and node.sent[-1].header.stamp == Time(sec=7)
    camera.see()
    count = len(node.sent)
    assert node.limits[-1] == 0.0, 'no limit, as Nav2 understands it'
    camera.see(count=40)
    assert len(node.sent) == count


def test_the_camera_that_sees_worst_limits_the_speed(node):
    limiter = SpeedLimiter(node)
    front, rear = (Camera(limiter, name, domain_speed_shifted=40.0) for name in ('front', 'rear'))
    front.see(UNSURE)
    rear.see()
    assert node.limits[-1] == 40.0
    front.see()
    assert node.limits[-1] == 0.0
    rear.see(UNSURE)
    limiter.forget()  # the node is configured again, with the front camera alone
    front.see()
    assert node.limits[-1] == 0.0


def test_switching_the_verdict_off_takes_everything_back(node):
    camera = Camera(SpeedLimiter(node), domain_speed_shifted=40.0, domain_action='ignore_labels')
    camera.see(UNSURE)
    camera.settings = Settings(domain_enabled=False, domain_action='ignore_labels')
    finished = Segmentation(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert camera.told[-1][0].state == 'shifted'
    assert camera.see(UNSURE) == 'familiar' and camera.watch.allowed(finished) is finished
    assert node.limits[-1] == 0.0
    verdict, status = camera.told[-1]
    assert verdict.state == 'familiar' and status.values['verdict'] == 'unknown', 'it is latched'


def test_without_nav2_msgs_it_is_said_and_nothing_is_published(monkeypatch):
    monkeypatch.setattr(SpeedLimiter, 'message', None)
    limiter = SpeedLimiter(None)
    limiter.ask('', 50.0, 0.0)
    predict, model = SimpleNamespace(max_batch=1), SimpleNamespace(embedded=False, name='m')
    for settings, said in ((Settings(), False), (Settings(domain_speed_unusable=20.0), True)):
        lines = advice(predict, model, settings)
        assert any('nav2_msgs is not installed' in line for line in lines) is said


def test_pixels_of_the_robot_itself_are_not_judged(node):
    camera = Camera(SpeedLimiter(node))
    robot = np.zeros(GOOD.shape[:2], bool)
    robot[20:] = True
    camera.see(ignored=robot)
    assert camera.watch.verdict.values['unlabeled_fraction'] == 0
    everything = np.ones(GOOD.shape[:2], bool)
    camera.see(ignored=everything)


def fitted(usual):
    """A domain whose signatures lie about a point, and a shift that moves them far off."""
    result = Segmentation(*np.full((2, *GOOD.shape[:2]), SURE, np.uint8))
    result.signature = usual
    clean = np.stack([features(other(), result) for _ in range(60)])
    clean[:, -4:] += RNG.normal(0, 1, (60, 4))
    moved = clean + np.r_[np.zeros(clean.shape[1] - 1), 9]
    return fit({str(n): clean[n::3] for n in range(3)}, {'fog': Copies(clean, moved)})


def test_a_model_file_that_knows_other_drives_is_judged_by_at_once(node):
    here, fog = np.zeros(4, np.float32), np.float32([0, 0, 0, 9])
    domain = fitted(here)
    camera = Camera(SpeedLimiter(node), domain=domain)
    assert camera.see(signature=here) == 'familiar'
    assert camera.see(signature=fog, count=10) == 'shifted'
    camera.watch.adopt(type(domain).from_dict(domain.to_dict()))
    assert camera.see(signature=here, count=1) == 'shifted', 'the same: what was seen holds'
    camera.watch.adopt(fitted(fog))
    assert camera.see(signature=fog) == 'familiar'
