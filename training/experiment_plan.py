# SPDX-License-Identifier: Apache-2.0
"""What training.experiment compares: methods, what they learn from and what they are tested on."""

from __future__ import annotations

from typing import Any, NamedTuple

SEVERITY = 3
PLAIN = {'adapter': {'method': 'none', 'text_link': 'off', 'mask_link': False},
         'head': {'queries': 'learned'}}


def _head(head: dict[str, Any], *, mask_link: bool) -> dict[str, Any]:
    """Return our method with another head, on a backbone that learns too."""
    return {
        'model': {
            'adapter': {'text_link': 'all', 'scale': 1.0, 'zero_start': True, 'query_norm': True,
                        'mask_link': mask_link},
            'backbone': {'trainable': True}, **({'head': head} if head else {})},
        'optim': {'backbone_lr': 0.1}}


METHODS: dict[str, dict[str, Any]] = {  # differences to the recipe
    'frozen': {'model': PLAIN},
    'finetuned': {'model': {**PLAIN, 'backbone': {'trainable': True}},
                  'optim': {'backbone_lr': 0.1}},
    'rein': {'model': {'adapter': {'method': 'rein', 'text_link': 'off', 'mask_link': False}}},
    'dgtl-released': {'model': {'adapter': {'text_link': 'present'}},
                      'loss': {'alignment': 'released'}},
    'dgtl': {'model': {'adapter': {
        'text_link': 'all', 'scale': 1.0, 'zero_start': True, 'query_norm': True}},
        'loss': {'alignment': 'similarity'}},
    # what a part of ours is worth
    'dgtl-released-start': {'model': {'adapter': {'text_link': 'all'}},
                            'loss': {'alignment': 'similarity'}},
    'dgtl-no-text': {'model': {'adapter': {
        'text_link': 'off', 'scale': 1.0, 'zero_start': True, 'query_norm': True}}},
    # what a head is worth
    'head-mask2former': _head({}, mask_link=True),
    'head-light-tokens': _head(
        {'kind': 'light', 'queries': 'tokens', 'num_blocks': 3, 'num_queries': 32},
        mask_link=True),
    'head-light-texts': _head(
        {'kind': 'light', 'queries': 'texts', 'num_blocks': 3}, mask_link=False),
    'head-light-own': _head(
        {'kind': 'light', 'queries': 'texts', 'num_blocks': 3, 'blocks': 'own'}, mask_link=False),
}
MAIN = ('frozen', 'finetuned', 'rein', 'dgtl-released', 'dgtl')


class Domain(NamedTuple):
    """Pictures to test on."""

    name: str
    data: str  # as on the command line of training.evaluate
    corruption: str = ''


class SourceDomain(NamedTuple):
    """What is learned from, and what is tested on: first the source itself, then the unseen."""

    data: str
    domains: tuple[Domain, ...]


def sources(camvid: str, size: tuple[int, int]) -> dict[str, SourceDomain]:
    """Return the two labelled domains with their tests; ``size`` of StreetWorld's pictures."""
    def street(condition: str, count: int, seed: int, margin: float = 1.0) -> str:
        height, width = (round(side * margin) for side in size)
        return (f'streetworld:{condition},count={count},seed={seed},severity={SEVERITY},'
                f'height={height},width={width}')

    conditions = ('fog', 'night', 'rain', 'snow', 'low_sun')
    corruptions = ('fog', 'night', 'rain', 'snowfall', 'glare')
    test = f'camvid:{camvid},split=test'
    clear = Domain('clear', street('clear', 40, 1000))
    return {
        'streetworld': SourceDomain(street('clear', 600, 100, 1.125), (
            clear, *(Domain(name, street(name, 40, 1000)) for name in conditions),
            Domain('real (CamVid)', test))),
        'camvid': SourceDomain(f'camvid:{camvid},split=train', (
            Domain('day', f'camvid:{camvid},split=val'), Domain('another place', test),
            *(Domain(name, test, name) for name in corruptions),
            clear._replace(name='synthetic (StreetWorld)'))),
    }


def pretraining_data(camvid: str, size: tuple[int, int]) -> list[str]:
    """Return what the backbone sees without labels; no picture of a test is among them."""
    height, width = (round(side * 1.125) for side in size)
    streets = [
        f'streetworld:{condition},count=400,seed={seed},height={height},width={width}'
        for seed, condition in enumerate(('clear', 'fog', 'night', 'rain', 'snow', 'low_sun'))]
    return [*streets, *[f'camvid:{camvid},split=train'] * 3]  # more than a quarter is real
