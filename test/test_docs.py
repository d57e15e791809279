# SPDX-License-Identifier: Apache-2.0
"""What the pages say exists: commands, options, launch arguments, imports, links."""

import ast
import importlib.util
import json
from pathlib import Path
import re
import shlex
import subprocess
import sys

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
GENERATED = {'reference/parameters.md', 'reference/commands.md'}  # docs/generate.py makes them
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SHELLS = ('', 'bash', 'sh', 'console')
UNKNOWN = {'ros2', 'colcon', 'rosdep', 'git', 'cd', 'sudo', 'source', '.', 'export', 'printf',
           'python3', 'torchrun', 'pip', 'docker', 'cp', 'scp'}  # not ours


def fences(page, *kinds):
    """Return the code blocks of a page that are of one of the kinds."""
    found = re.findall(r'^```(\w*)[^\n]*\n(.*?)^```', page.read_text(encoding='utf-8'),
                       re.M | re.S)
    return [text for kind, text in found if kind in kinds]


def lines_of(page):
    """Return the commands of a page, each in one line without its comment."""
    for text in fences(page, *SHELLS):
        for line in re.sub(r'\\\n\s*', ' ', text).splitlines():
            for part in re.split(r' && ', line):
                words = shlex.split(part, comments=True, posix=True) if part.strip() else []
                if words and (words[0] in UNKNOWN or words[0] in ('dgtl', 'python', 'make')):
                    yield words


# One process for all, so that torch is loaded once.
HELPS = """
import contextlib, io, json, runpy, sys
found = {}
for module, *words in json.load(sys.stdin):
    text = io.StringIO()
    sys.argv = [module, *words, '--help']
    with contextlib.redirect_stdout(text):
        try:
            runpy.run_module(module, run_name='__main__', alter_sys=True)
        except SystemExit as end:
            assert not end.code, (module, end.code)
    found[' '.join([module, *words])] = text.getvalue()
print(json.dumps(found))
"""


def program(words):
    """Return the module of ours that a command runs, its subcommand, and the other words."""
    if words[0] == 'dgtl' and len(words) > 1 and not words[1].startswith('-'):
        return ('dgtl_core.cli', words[1]), words[2:]
    if words[:2] == ['python', '-m'] or words[0] == 'torchrun' and '-m' in words:
        at = words.index('-m') + 1
        if words[at].split('.')[0] in ('dgtl_core', 'dgtl_ros', 'training'):
            return (words[at],), words[at + 1:]
    return None, words


@pytest.fixture(scope='module')
def helps():
    named = {program(words)[0] for page in PAGES for words in lines_of(page)} - {None}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', HELPS], cwd=ROOT, text=True,
                          input=json.dumps(sorted(named)), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_options(words, text):
    for word in words:
        option = word.partition('=')[0]
        if re.fullmatch(r'--[a-z][a-z-]*', option):
            assert option in text, f'{" ".join(words)}: there is no option {option}'


def check_launch(words):
    file = ROOT / 'launch' / words[3]
    assert file.is_file(), f'there is no launch file {words[3]}'
    known = file.read_text(encoding='utf-8')
    if words[3] != 'segment.launch.py' and 'IncludeLaunch' in known:
        known += (ROOT / 'launch' / 'segment.launch.py').read_text(encoding='utf-8')
    for word in words[4:]:
        name, separator, _ = word.partition(':=')
        if separator:
            assert re.search(rf"['\"]{name}['\"]", known), f'{words[3]} has no argument {name}'


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.timeout(400)
def test_commands_and_their_options_exist(name, helps):
    extras = (ROOT / 'setup.py').read_text(encoding='utf-8')
    targets = (ROOT / 'Makefile').read_text(encoding='utf-8')
    for words in lines_of(ROOT / name):
        module, rest = program(words)
        if module:
            check_options(rest, helps[' '.join(module)])
        elif words[0] == 'make' and len(words) > 1 and '=' not in words[1]:
            assert re.search(rf'^{words[1]}:', targets, re.M), f'{name}: no target {words[1]}'
        elif words[:3] == ['ros2', 'launch', 'dgtl_ros']:
            check_launch(words)
        elif words[:3] == ['ros2', 'run', 'dgtl_ros']:
            assert f"'{words[3]} = " in extras, f'{name}: no executable {words[3]}'
        for extra in re.findall(r'\.\[([\w,-]+)\]', ' '.join(words)):
            for one in extra.split(','):
                assert f"'{one}': [" in extras, f'{name}: setup.py has no extra {one}'


@pytest.mark.parametrize('name', NAMES)
def test_snippets_are_python_and_import_what_exists(name):
    for text in fences(ROOT / name, 'python'):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and \
                    node.module.split('.')[0] in ('dgtl_core', 'dgtl_ros', 'training'):
                spec = importlib.util.find_spec(node.module)
                assert spec is not None, f'{name}: no module {node.module}'
                source = Path(spec.origin).read_text(encoding='utf-8')
                for alias in node.names:
                    assert re.search(rf'\b{alias.name}\b', source), f'{name}: no {alias.name}'


@pytest.mark.parametrize('name', NAMES)
def test_yaml_is_yaml(name):
    for text in fences(ROOT / name, 'yaml'):
        assert yaml.safe_load(text) is not None


def anchors(page):
    found = re.findall(r'^#+ (.+)$', page.read_text(encoding='utf-8'), re.M)
    return {re.sub(r'[^\w\- ]', '', title.lower()).strip().replace(' ', '-') for title in found}


@pytest.mark.parametrize('name', NAMES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    text = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.S)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?:|mailto:', target):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        if path and str(file.relative_to(ROOT / 'docs') if file.is_relative_to(ROOT / 'docs')
                        else '') in GENERATED:
            continue
        assert file.exists(), f'{name}: {target} leads nowhere'
        if anchor and file.suffix == '.md':
            assert anchor in anchors(file), f'{name}: {target} has no such heading'


@pytest.mark.parametrize('name', NAMES)
def test_test_files_that_a_page_names_exist(name):
    text = (ROOT / name).read_text(encoding='utf-8')
    for file in re.findall(r'\btest_\w+\.py\b', text):
        assert (ROOT / 'test' / file).is_file(), f'{name}: there is no test/{file}'


@pytest.mark.parametrize('name', [
    *NAMES, 'QUALITY_DECLARATION.md', 'SECURITY.md'])
def test_lines_are_not_wider_than_120(name):
    wide = [line for line in (ROOT / name).read_text(encoding='utf-8').splitlines()
            if len(line) > 120 and not line.startswith(('|', '```'))]
    assert not wide, wide[0]
