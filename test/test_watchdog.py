# SPDX-License-Identifier: Apache-2.0
import threading

from dgtl_ros.watchdog import overdue, Stuck, Watchdog
from dgtl_ros.worker import Worker


def test_a_worker_is_overdue_while_it_is_busy_for_too_long():
    entered, go = threading.Event(), threading.Event()

    def work(_):
        entered.set()
        assert go.wait(20)

    worker = Worker(work, lambda: 0.0)
    assert worker.busy_since is None and overdue(worker, 'it runs', 1.0, 1e12) is None
    worker.mailbox.put(1)
    assert entered.wait(20)
    since = worker.busy_since
    assert overdue(worker, 'it runs', 5.0, since + 4.9) is None
    assert overdue(worker, 'it runs', 0.0, since + 1e6) is None, 'no limit'
    found = overdue(worker, 'it runs', 5.0, since + 7.25)
    assert found == Stuck('it runs', since)
    assert found.text(since + 7.25).startswith('it runs for 7.2 s, since ')
    go.set()
    assert worker.stop(20) and worker.busy_since is None
    assert overdue(None, 'it runs', 5.0, since) is None


def test_it_bites_at_the_second_look_and_once():
    dog, hung, again = Watchdog(), Stuck('a', 1.0), Stuck('a', 9.0)
    looks = [5.0, 5.5, 6.0, 6.5]
    assert [dog.bites('model', hung, now) for now in looks] == [False, True, False, False]
    assert not dog.bites('front', hung, 7.0), 'another one, the first look'
    assert [dog.bites('model', again, 10 + now) for now in looks] == [False, True, False, False]


def test_two_looks_at_once_are_one():
    """After a pause of the whole process its timers come one upon the other."""
    dog, late = Watchdog(), Stuck('a', 1.0)
    assert not dog.bites('model', late, 5.0)
    assert not dog.bites('model', late, 5.01)
    assert dog.bites('model', late, 5.5)
