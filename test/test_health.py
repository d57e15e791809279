# SPDX-License-Identifier: Apache-2.0
"""One account: every picture that came is in exactly one class, whatever happens in what order."""

from dgtl_ros.health import Health, OUTCOMES
import pytest

hypothesis = pytest.importorskip('hypothesis')
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

EVENT = st.one_of(
    st.just(('image',)), st.just(('broken',)), st.just(('reset',)), st.just(('settle',)),
    st.tuples(st.just('end'), st.integers(0, 8), st.sampled_from(OUTCOMES)),
    st.tuples(st.just('look'), st.floats(0, 100)),
    st.tuples(st.just('count'), st.sampled_from(('lost_middleware', 'publish_errors')),
              st.integers(0, 50)))


@given(st.lists(EVENT, max_size=60))
def test_every_picture_is_in_exactly_one_class(events):
    health, tickets, now = Health(), [], 0.0
    for kind, *details in events:
        if kind == 'image':
            tickets.append(health.image('rgb8', 1, now))
        elif kind == 'broken':
            tickets.append(health.arrive())
            assert health.end(tickets[-1], 'decode_errors')
        elif kind == 'end' and tickets:  # some of them for the second time
            health.end(tickets[-1 - details[0] % len(tickets)], details[1])
        elif kind == 'reset':
            health.reset()
        elif kind == 'settle':
            health.settle()
        elif kind == 'count':
            health.count(*details)
        elif kind == 'look':
            now += details[0]
            recent = health.recent(now)
            assert all(value >= 0 for value in recent.values())
        counts = health.counts()
        assert counts['received'] == counts['waiting'] + sum(counts[name] for name in OUTCOMES)
        assert all(value >= 0 for value in counts.values())


def test_a_picture_ends_once():
    health = Health()
    ticket = health.arrive()
    assert health.end(ticket, 'published') and not health.end(ticket, 'unpublished')
    assert health.counts()['published'] == 1 and health.counts()['unpublished'] == 0


def test_pictures_on_their_way_outlive_a_reset():
    health = Health()
    ticket = health.arrive()
    health.end(health.arrive(), 'published')
    health.reset()
    assert (health.counts()['received'], health.counts()['published']) == (1, 0)
    assert health.end(ticket, 'published')
    assert health.counts()['received'] == health.counts()['published'] == 1
