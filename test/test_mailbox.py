# SPDX-License-Identifier: Apache-2.0
import random
import threading
import time

from dgtl_ros.mailbox import Mailbox, Worker
import pytest


def test_the_newest_wins_and_the_others_are_counted():
    box = Mailbox()
    assert [box.put(item) for item in (1, 2, 3)] == [False, True, True]
    assert box.take(0) == 3
    assert box.take(0) is None
    assert not box.put(4)


def test_take_waits_for_a_put_and_no_longer_than_told():
    box = Mailbox()
    threading.Timer(0.1, box.put, ['late']).start()
    assert box.take(5) == 'late'
    start = time.monotonic()
    assert box.take(0.05) is None
    assert 0.04 < time.monotonic() - start < 2


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
    assert results == [None] * 4
    assert not box.put('too late') and not box.put('too late')
    assert box.take() is None and box.closed


def test_none_is_refused():
    with pytest.raises(ValueError, match='None'):
        Mailbox().put(None)


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
            item = box.take(5)
            assert item is not None, 'the last item was lost'
            taken.append(item)

    threads = [threading.Thread(target=produce), threading.Thread(target=consume)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert taken[-1] == count
    assert taken == sorted(set(taken)), 'an item came twice or out of order'
    assert len(taken) + sum(superseded) == count


def test_worker_skips_what_came_while_it_was_busy():
    seen, busy, go = [], threading.Event(), threading.Event()

    def work(item):
        seen.append(item)
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
    assert seen == ['first', 'newest'] and skipped == [False, True, True]


def test_worker_keeps_the_interval_and_takes_what_is_newest_then():
    times, seen = [], []

    def work(item):
        times.append(time.monotonic())
        seen.append(item)

    worker = Worker(work, lambda: 0.1)
    end = time.monotonic() + 0.55
    number = superseded = 0
    while time.monotonic() < end:
        superseded += worker.mailbox.put(number := number + 1)
        time.sleep(0.005)
    assert worker.stop(5)
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert 3 <= len(times) <= 6 and min(gaps) > 0.095
    assert len(seen) + superseded >= number - 1


def test_worker_stops_in_the_middle_of_a_long_interval():
    worker = Worker(lambda item: None, lambda: 60.0)
    worker.mailbox.put(1)
    time.sleep(0.05)
    worker.mailbox.put(2)
    start = time.monotonic()
    assert worker.stop(5) and time.monotonic() - start < 1


def test_worker_says_when_it_does_not_end_in_time():
    go = threading.Event()
    worker = Worker(lambda item: go.wait(5), lambda: 0.0)
    worker.mailbox.put(1)
    time.sleep(0.05)
    assert not worker.stop(0.05)
    go.set()
    assert worker.stop(5)
