# SPDX-License-Identifier: Apache-2.0
"""A list of weights of our own, offered by a server of our own."""

from dgtl_core.zoo import convert, download, entries
import yaml

BASE = {'name': 'base', 'kind': 'backbone', 'backbone': 'dinov2', 'trained_on': 'x',
        'licence': 'Apache-2.0'}
MODEL = {'name': 'tiny-soma', 'kind': 'model', 'backbone': 'dinov2', 'trained_on': 'y',
         'licence': 'MIT', 'method': 'soma', 'image_size': 64, 'needs': 'base'}


def offering(server, tmp_path, monkeypatch):
    """A list of weights of our own, an empty cache folder, and no way to convert anything."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(download.time, 'sleep', lambda seconds: None)
    converted = []

    def to_checkpoint(entry, files, out, source):
        converted.append((entry.name, dict(files), source))
        out.write_bytes(b'checkpoint')

    def to_model_file(checkpoint, out, size=None):
        out.write_bytes(b'model %r' % (size,))
        return 'all equal'

    monkeypatch.setattr(convert, 'to_checkpoint', to_checkpoint)
    monkeypatch.setattr(convert, 'to_model_file', to_model_file)
    server.files.update({'/base.pth': b'base' * 1000, '/soma.pth': b'soma' * 1000})

    def offer(*changes):
        listed = [{**BASE, 'url': f'{server.url}/base.pth'},
                  {**MODEL, 'url': f'{server.url}/soma.pth'}]
        for index, change in enumerate(changes):
            listed[index] = {key: value for key, value in {**listed[index], **change}.items()
                             if value is not None}
        path = tmp_path / 'zoo.yaml'
        path.write_text(yaml.safe_dump({'entries': listed}))
        monkeypatch.setattr(entries, 'shipped', lambda name: path)
        entries.published.cache_clear()
        return converted

    yield offer
    entries.published.cache_clear()
