# SPDX-License-Identifier: Apache-2.0
import random
import threading
import time

from dgtl_ros.worker import Mailbox, Worker
import pytest


def test_the_newest_wins_and_the_others_are_counted():
    box = Mailbox()
    assert [box.put(item) for item in (1, 2, 3)] == [None, 1, 2]
    assert box.take(0) == [3]
    assert box.take(0) == []
    assert not box.put(4)


def test_take_waits_for_a_put_and_no_longer_than_told():
    box = Mailbox()
    threading.Timer(0.1, box.put, ['late']).start()
    assert box.take(5) == ['late']
    start = time.monotonic()
    assert box.take(0.05) == []
    assert time.monotonic() - start > 0.04


def test_close_wakes_everybody_and_keeps_nothing():
    box = Mailbox()
    results = []
    waiting = [threading.Thread(target=lambda: results.append(box.take())) for _ in range(3)]
    waiting.append(threading.Thread(target=lambda: results.append(box.pause(60))))
    for thread in waiting:
        thread.start()
    time.sleep(0.05)
    box.close()
    box.close()
    for thread in waiting:
        thread.join(5)
    assert sorted(results, key=str) == [None, [], [], []]
    assert box.put('too late') == 'too late' == box.put('too late')
    assert box.take() == [] and box.closed


def test_each_sender_has_a_place_and_waits_for_its_turn():
    box = Mailbox()
    assert not box.put('a1', 'a') and not box.put('b1', 'b') and box.put('a2', 'a') == 'a1'
    assert box.take(0) == ['a2'], 'newer, and still the first in the line'
    assert not box.put('a3', 'a')
    assert box.take(0, most=5) == ['b1', 'a3']
    for sender in 'abc':
        box.put(sender, sender)
    assert box.take(0, most=2) == ['a', 'b'] and box.take(0, most=2) == ['c']


def test_no_sender_can_keep_another_waiting():
    """One sends as fast as it can, the other again when it was served."""
    served, stop, answered = [], threading.Event(), threading.Event()

    def work(items):
        served.extend(items)
        time.sleep(0.002)
        if items != ['loud']:
            answered.set()

    worker = Worker(work, lambda: 0.0)

    def flood():
        while not stop.is_set():
            worker.mailbox.put('loud', 'loud')
            time.sleep(0.0002)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        for number in range(20):
            answered.clear()
            assert not worker.mailbox.put(number, 'quiet')
            assert answered.wait(20), f'{served.count("loud")} times it was the turn of the other'
    finally:
        stop.set()
        flooding.join(20)
        assert worker.stop(20)
    assert [item for item in served if item != 'loud'] == list(range(20))
    assert 'loud' in served


@pytest.mark.parametrize('seed', range(5))
def test_every_item_is_taken_or_superseded_and_order_is_kept(seed):
    box, taken, superseded, count = Mailbox(), [], [], 2000
    rng = random.Random(seed)

    def produce():
        for item in range(1, count + 1):
            superseded.append(box.put(item))
            if rng.random() < 0.05:
                time.sleep(0.0002)

    def consume():
        while not taken or taken[-1] != count:
            items = box.take(5)
            assert len(items) == 1, 'the last item was lost'
            taken.extend(items)

    threads = [threading.Thread(target=produce), threading.Thread(target=consume)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert taken[-1] == count
    assert taken == sorted(set(taken)), 'an item came twice or out of order'
    assert sorted(taken + [item for item in superseded if item]) == list(range(1, count + 1))


def test_worker_skips_what_came_while_it_was_busy():
    seen, busy, go = [], threading.Event(), threading.Event()

    def work(items):
        seen.extend(items)
        busy.set()
        go.wait(5)

    worker = Worker(work, lambda: 0.0)
    worker.mailbox.put('first')
    assert busy.wait(5)
    skipped = [worker.mailbox.put(item) for item in ('old', 'older', 'newest')]
    busy.clear()
    go.set()
    assert busy.wait(5)
    assert worker.stop(5)
    assert seen == ['first', 'newest'] and skipped == [None, 'old', 'older']


def test_worker_keeps_the_interval_and_takes_what_is_newest_then():
    times, seen = [], []

    def work(items):
        times.append(time.monotonic())
        seen.extend(items)

    worker = Worker(work, lambda: 0.1)
    end = time.monotonic() + 20
    number = superseded = 0
    while len(times) < 5 and time.monotonic() < end:
        superseded += worker.mailbox.put(number := number + 1) is not None
        time.sleep(0.005)
    assert worker.stop(5)
    assert times[4] - times[0] > 0.3, 'not the interval, but the sender set the pace'
    assert len(seen) + superseded >= number - 1


def in_a_long_interval():
    """Return a worker that has just worked, and works again in a minute at the earliest."""
    worked = threading.Event()
    worker = Worker(lambda items: worked.set(), lambda: 60.0)
    worker.mailbox.put(1)
    assert worked.wait(20)
    worker.mailbox.put(2)
    return worker


def test_worker_leaves_items_where_newer_ones_supersede_them_until_the_interval_is_over():
    worker = in_a_long_interval()
    time.sleep(0.1)
    assert worker.mailbox.put(3), 'the item before it was taken too early'
    assert worker.stop(20)


def test_worker_stops_in_the_middle_of_a_long_interval():
    assert in_a_long_interval().stop(20)


def test_a_shorter_interval_holds_at_once():
    interval, first, again = [60.0], threading.Event(), threading.Event()
    worker = Worker(lambda items: (again if items == [2] else first).set(), lambda: interval[0])
    worker.mailbox.put(1)
    assert first.wait(20)
    worker.mailbox.put(2)
    time.sleep(0.05)
    interval[0] = 0.0
    assert again.wait(20)
    assert worker.stop(20)


def test_worker_says_when_it_does_not_end_in_time():
    busy, go = threading.Event(), threading.Event()
    worker = Worker(lambda items: busy.set() or go.wait(20), lambda: 0.0)
    worker.mailbox.put(1)
    assert busy.wait(20)
    assert not worker.stop(0.05)
    go.set()
    assert worker.stop(5)
