# SPDX-License-Identifier: Apache-2.0
"""The recipes that come with the project, and how a recipe is read."""

from pathlib import Path

from dgtl_core.learning.recipe import read_recipe
import pytest

RECIPES = Path(__file__).resolve().parents[1] / 'training' / 'recipes'
SOURCES = {'gta5': ('gta5',), 'synthia': ('synthia',), 'urbansyn': ('urbansyn',),
           'cityscapes': ('cityscapes:,split=train',),
           'synthetic': ('gta5', 'synthia', 'urbansyn')}


@pytest.mark.parametrize('path', sorted(RECIPES.glob('*.yaml')), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.segmenter().name == recipe.preset


@pytest.mark.parametrize('path', sorted(RECIPES.glob('*.yaml')), ids=lambda path: path.stem)
def test_recipes_name_no_file_that_only_its_author_has(path):
    recipe = read_recipe(path)
    config = recipe.segmenter()
    for file in (config.text.file, config.backbone.weights, recipe.init):
        assert file in ('', 'timm') or file.startswith('runs/'), file  # a command makes these


@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('method', ['dgtl', 'rein', 'vltseg'])
def test_released_set_ups_are_there(method, source):
    recipe = read_recipe(RECIPES / f'{method}_{source}.yaml')
    config = recipe.segmenter()
    assert config.method == method and recipe.data == SOURCES[source]
    assert recipe.precision == 'fp32' and recipe.loss.num_points == 12544
    assert recipe.loss.semantic_weight == 0 and recipe.transforms.max_share == 0.75
    assert recipe.optim.lr == 1e-4 and recipe.optim.weight_decay == 0.05
    assert recipe.optim.schedule == 'poly' and recipe.optim.power == 0.9
    if method == 'vltseg':
        real = source == 'cityscapes'
        assert (recipe.steps, recipe.batch) == ((20000, 8) if real else (5000, 16))
        assert recipe.transforms.crop == ((1024, 1024) if real else (512, 512))
        assert (recipe.optim.begin, recipe.optim.clip_norm, recipe.optim.backbone_lr) == (
            500, 0.01, 0.1)
        assert config.backbone.trainable
        assert config.window_stride == ((768, 768) if real else (426, 426))
    else:
        assert (recipe.steps, recipe.batch) == (40000, 4)
        assert recipe.optim.clip_norm == 0 and recipe.optim.begin == 0
        assert not config.backbone.trainable
        assert config.adapter.text_link == ('present' if method == 'dgtl' else 'off')
    assert recipe.loss.alignment == ('released' if method == 'dgtl' else 'off')
    # mmseg's RandomChoiceResize: the shorter side is 0.5 to 2 times 512; VLTSeg has one size
    many = tuple(int(512 * x * 0.1) for x in range(5, 21))
    assert recipe.transforms.short_edge == (() if method == 'vltseg' else many)
    if method == 'vltseg':
        assert recipe.transforms.scale == (1.0, 1.0)
        assert recipe.transforms.resize == ((0, 0) if source == 'cityscapes' else (720, 1280))


def write(folder, text, name='a.yaml'):
    path = folder / name
    path.write_text(text)
    return path


def test_differences_lie_over_the_base_and_changes_over_both(tmp_path):
    write(tmp_path, 'preset: dgtl-mini\nsteps: 10\noptim: {lr: 1.0e-3, warmup: 5}\n', 'base.yaml')
    path = write(tmp_path, 'base: base.yaml\nbatch: 2\noptim: {lr: 2.0e-3}\n')
    recipe = read_recipe(path, ['optim.clip_norm=1', 'model.head.encoder_layers=1', 'steps=7'])
    assert (recipe.steps, recipe.batch) == (7, 2)
    assert (recipe.optim.lr, recipe.optim.warmup, recipe.optim.clip_norm) == (2e-3, 5, 1.0)
    assert recipe.segmenter().head.encoder_layers == 1


@pytest.mark.parametrize(('text', 'message'), [
    ('preset: dgtl-mini\nstep: 3\n', 'unknown key step; did you mean steps'),
    ('preset: dgtl-mini\nmodel: {head: {num_querys: 3}}\n', 'did you mean num_queries'),
    ('preset: dgtl-mini\nsteps: many\n', 'steps must be int'),
    ('preset: dgtl-mini\nsteps: 0\n', 'must be positive'),
    ('preset: dgtl-mini\naverage: 1.5\n', r'average must be in \[0, 1\)'),
    ('preset: dgtl-mini\nseed: -1\n', 'must not be negative'),
    ('preset: dgtl-mini\nworkers: -1\n', 'must not be negative'),
    ('preset: dgtl-mini\nevaluation: {every: 0}\n', 'evaluation.every must be positive'),
    ('preset: dgtl-mini\nevaluation: {limit: -1}\n', 'evaluation.limit not negative'),
    ('steps: 3\n', 'missing keys'),
    ('- a\n', 'must be a mapping'),
    ('a: [\n', 'is not valid YAML'),
    ('base: none.yaml\npreset: dgtl-mini\n', 'there is no recipe'),
])
def test_wrong_recipes_are_refused_in_words(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_recipe(write(tmp_path, text))


def test_another_kind_of_head_does_not_inherit_the_settings_of_the_one_before(tmp_path):
    write(tmp_path, 'preset: dgtl-mini\nmodel: {head: {hidden_dim: 96}}\n', 'base.yaml')
    light = 'head: {kind: light, queries: learned, num_queries: 50}'
    path = write(tmp_path, f'base: base.yaml\nmodel: {{{light}, adapter: {{mask_link: true}}}}\n')
    assert read_recipe(path).segmenter().head.num_blocks == 4
    head = read_recipe(path, ['model.head.num_blocks=3']).segmenter().head
    assert (head.kind, head.queries, head.num_blocks) == ('light', 'learned', 3)


def test_bases_have_no_base(tmp_path):
    write(tmp_path, 'preset: dgtl-mini\n', 'root.yaml')
    write(tmp_path, 'base: root.yaml\n', 'middle.yaml')
    with pytest.raises(ValueError, match='must not have a base of its own'):
        read_recipe(write(tmp_path, 'base: middle.yaml\n'))
