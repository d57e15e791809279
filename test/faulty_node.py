# SPDX-License-Identifier: Apache-2.0
"""The node with a backend that does what a script says."""

import os
from pathlib import Path

from dgtl_ros.health import OUTCOMES
from ros_world import PATIENCE, plane

TEST = Path(__file__).resolve().parent


class Faulty:
    """The node with a scripted backend."""

    def __init__(self, world, tmp_path, space, tiny_model, *arguments, **parameters):
        self.world, self.space, self._script = world, space, tmp_path / f'{space}.script'
        self.tell('fine')
        path = os.pathsep.join(filter(None, [str(TEST), os.environ.get('PYTHONPATH', '')]))
        self.running = world.start(
            'fake_backend', space, *arguments, package='',
            extra={'FAKE_SCRIPT': str(self._script), 'PYTHONPATH': path},
            **{'model_path': tiny_model, 'max_image_age': 0.0, 'warmup_iterations': 0,
               **parameters})

    def tell(self, words):
        part = self._script.with_suffix('.part')
        part.write_text(words, encoding='utf-8')
        os.replace(part, self._script)

    def status(self, task, level, words=''):
        """Wait for a status of this level whose message holds the words."""
        seen, found = len(self.world.diagnostics.items), []

        def right(array):
            for status in array.status:
                if status.name == f'/{self.space}/segmenter: {task}':
                    found.append((status.level, status.message))
                    if status.level == level and words in status.message:
                        return True
            return False

        try:
            array = self.world.diagnostics.wait(right, PATIENCE, seen)
        except AssertionError:
            raise AssertionError(f'{found}\n{self.running.text()}') from None
        return next(s for s in array.status if s.name == f'/{self.space}/segmenter: {task}')

    def last(self, task):
        """Return the newest message of a status."""
        name = f'/{self.space}/segmenter: {task}'
        found = [s.message for array in self.world.diagnostics.messages for s in array.status
                 if s.name == name]
        return found[-1] if found else ''

    def account(self, camera=''):
        """Return the counters, once nothing is on its way."""
        names = {f'/{self.space}/segmenter: {task} {camera}'.strip()
                 for task in ('input', 'inference', 'output')}

        def idle(array):
            found = {v.key: v.value for s in array.status if s.name in names for v in s.values}
            return found if found.get('waiting') == '0' else None

        values = idle(self.world.diagnostics.wait(
            idle, PATIENCE, len(self.world.diagnostics.items)))
        counts = {name: int(values[name]) for name in ('received', *OUTCOMES)}
        assert counts['received'] == sum(counts[name] for name in OUTCOMES), counts
        return counts


def faulty_nodes(world, tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp('faults')
    return lambda space, *arguments, **parameters: Faulty(
        world, folder, space, tiny_model, *arguments, **parameters)


def right(message):
    labels = plane(message)
    return labels[0, 0] == 2 and labels[0, -1] == 13
