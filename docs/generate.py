# SPDX-License-Identifier: Apache-2.0
"""
What MkDocs makes from the code: the parameters of the node, the help of every command, a drawing.

mkdocs.yml names this file as a hook. ``parameters()`` and ``commands()`` return Markdown.
"""

from __future__ import annotations

from pathlib import Path
import re
import subprocess
import sys
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ('train', 'evaluate', 'export', 'import_weights', 'embed_classes', 'pretrain',
            'mini', 'benchmark', 'describe', 'experiment', 'shift_report')


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages (MkDocs calls this)."""
    from mkdocs.structure.files import File
    for name, text in (('parameters', parameters()), ('commands', commands())):
        files.append(File.generated(config, f'reference/{name}.md', content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """
    Put a drawing in the place of the Mermaid graph (MkDocs calls this).

    A page with Mermaid would load it from the network.
    """
    if '<!-- architecture: begin -->' not in markdown:
        return markdown
    sys.path.insert(0, str(ROOT / 'docs'))
    try:
        from architecture import BEGIN, END, svg

        head, _, rest = markdown.partition(BEGIN)
        return f'{head}{svg()}\n{rest.partition(END)[2]}'
    finally:
        sys.path.pop(0)


def parameters() -> str:
    """Return the table of the node's parameters, from the file that people copy."""
    rows, text, group = [], [], ''
    source = (ROOT / 'config' / 'segment.yaml').read_text(encoding='utf-8')
    defaults = yaml.safe_load(source)['/**']['ros__parameters']
    for line in source.split('ros__parameters:\n', 1)[1].splitlines():
        line = line.strip()
        if line.startswith('# ---'):
            group = line.strip('#- ')
            rows.append(f'\n## {group}\n\n| name | default | meaning |\n|---|---|---|')
        elif line.startswith('#'):
            text.append(line.lstrip('# '))
        elif line:
            name = line.partition(':')[0]
            meaning = ' '.join(text).replace('|', '\\|')
            rows.append(f'| `{name}` | `{defaults[name]!r}` | {meaning} |')
            text = []
    return (
        '# Parameters of segment_node\n\nCopy `config/segment.yaml` and change what you need. '
        '[D] marks a parameter that may change while the node runs; change the others while the '
        'node is unconfigured. The node refuses a value that is out of range and says why. It '
        'logs a misspelled name with a suggestion.\n' + '\n'.join(rows) + '\n')


def commands() -> str:
    """Return the help of ``dgtl``, of each of its commands, and of the training programs."""
    main_help = _help('dgtl_core.cli')
    parts = ['# Commands\n', _block('dgtl', main_help)]
    names = re.findall(r'^  +([a-z]+) +\S', main_help, re.M)
    parts += [_block(f'dgtl {name}', _help('dgtl_core.cli', name)) for name in names]
    parts += [_block(f'python -m training.{name}', _help(f'training.{name}')) for name in PROGRAMS]
    return '\n'.join(parts)


def _help(module: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, '-m', module, *words, '--help'], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f'{module} {" ".join(words)} --help failed:\n{done.stdout}')
    return done.stdout


def _block(title: str, text: str) -> str:
    return f'## {title}\n\n```text\n{text.rstrip()}\n```\n'
