# SPDX-License-Identifier: Apache-2.0
"""The page with the results of the demonstration: one HTML file that needs no other."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from dgtl_core.classes import ClassSet
from dgtl_ros.show.plots import line_plot, STYLE
from dgtl_ros.show.recorder import Recorder

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>dgtl_ros: what the node saw</title>
<style>
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --back: #fcfcfd;
  --card: #f0f0f3; --line: #d9d9e0; --one: #0b68cb; --two: #c2560c; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #b0b4ba;
  --back: #111113; --card: #1d1e21; --line: #3a3c41; --one: #70b8ff; --two: #ffa057; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 70rem; background: var(--back);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.2rem 0 .8rem; font-size: 1.2rem; }
p { margin: .4rem 0; } .soft, figcaption, th { color: var(--soft); }
.tiles, .clips { display: grid; gap: 1rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); margin-top: 1.2rem; }
.tiles div { padding: .7rem 1rem; border-radius: .5rem; background: var(--card); }
.tiles b { display: block; font-size: 1.4rem; line-height: 1.3; }
.clips { grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
figure { margin: 0; } img, video, svg { display: block; width: 100%; border-radius: .4rem; }
ul.legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; padding: 0; list-style: none; }
.legend i { display: inline-block; width: .9rem; height: .9rem; margin-right: .4rem;
  border: 1px solid var(--line); border-radius: .2rem; vertical-align: -.1rem; }
table { border-collapse: collapse; } td, th { padding: .25rem 1.2rem .25rem 0;
  border-bottom: 1px solid var(--line); text-align: left; font-weight: normal;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; vertical-align: top; }
pre { padding: .7rem 1rem; overflow-x: auto; border-radius: .4rem; background: var(--card); }
$plots</style></head><body>
<h1>dgtl_ros: what the node saw</h1>
<p class="soft">$model</p>
<div class="tiles">$tiles</div>
<h2>Camera and labels</h2>
<div class="clips">$clips</div>
<ul class="legend">$legend</ul>
<h2>Rate and latency</h2>
<div class="clips"><figure>$rates</figure><figure>$latency</figure></div>
<p class="soft">Latency: from the stamp of the picture until its labels arrived at another
process. The rate was limited by: $limit.</p>
<h2>Figures</h2>
<table><tr><th>condition</th><th>pictures in</th><th>labels out</th><th>median latency</th>
<th>mIoU</th></tr>$conditions</table>
<h2>What to try next</h2>
<p>Your own pictures, through the same node, and without ROS:</p>
<pre>make demo INPUT=my_video.mp4
.venv/bin/dgtl predict my_pictures/ --out labels --save overlay,video</pre>
<p>On a robot with ROS 2, beside its camera driver:</p>
<pre>ros2 launch dgtl_ros segment.launch.py image_topic:=/camera/image_raw</pre>
<p>The embedded model is small and learned from drawn streets alone. Published weights are one
command away, and your own are a recipe away:</p>
<pre>.venv/bin/dgtl fetch
.venv/bin/python -m training.train --help</pre>
$sheet
<details><summary>What the node said of itself</summary><table>$node</table></details>
</body></html>
""")


class Clip(NamedTuple):
    """The moving picture of one condition; a still one where no video could be written."""

    name: str
    video: Path | None
    still: Path | None


def page(recorder: Recorder, classes: ClassSet, clips: Iterable[Clip], sheet: Path | None) -> str:
    """Return the HTML text; pictures and videos are read from their files into it."""
    report = recorder.report()
    incoming, outgoing = recorder.rates()
    return _PAGE.substitute(
        model=_model(report['node'].get('model', {})),
        plots=STYLE, tiles=_tiles(report), limit=escape(report['limit']),
        clips=''.join(map(_figure, clips)),
        legend=''.join(
            f'<li><i style="background: rgb{tuple(map(int, c.color))}"></i>{escape(c.name)}</li>'
            for c in classes),
        rates=line_plot('pictures per second', 'seconds', [
            ('camera', list(enumerate(incoming))), ('labels', list(enumerate(outgoing)))]),
        latency=line_plot('latency in milliseconds', 'seconds', [('', recorder.timeline())]),
        conditions=''.join(map(_condition, report['conditions'].items())),
        sheet=(f'<h2>Contact sheet</h2><img alt="camera and labels" src="{_data(sheet)}">'
               if sheet else ''),
        node=''.join(_rows(report['node'])))


def _data(path: Path) -> str:
    kind = 'video/mp4' if path.suffix == '.mp4' else 'image/jpeg'
    return f'data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}'


def _figure(clip: Clip) -> str:
    name = escape(clip.name)
    if clip.video:
        body = (f'<video src="{_data(clip.video)}" aria-label="{name}" autoplay muted loop '
                'playsinline controls></video>')
    elif clip.still:
        body = f'<img alt="{name}" src="{_data(clip.still)}">'
    else:
        return ''
    return f'<figure>{body}<figcaption>{name}</figcaption></figure>'


def _model(values: dict[str, str]) -> str:
    if 'name' not in values:
        return 'Camera and node ran as two processes; a third one watched.'
    return (f'Model {escape(values["name"])}: {escape(values.get("message", ""))}. Camera and '
            'node ran as two processes; a third one watched.')


def _tiles(report: dict[str, Any]) -> str:
    latency = report['latency_ms']
    tiles = [
        (f'{report["input_rate_hz"]:.1f} Hz', 'pictures in'),
        (f'{report["output_rate_hz"]:.1f} Hz', 'labels out'),
        (_ms(latency['p50']), 'latency, median'),
        (_ms(latency['p95']), 'latency, 95 %'),
        (str(report['outputs']), 'label pictures'),
        (str(report['dropped']), 'passed over for newer ones')]
    return ''.join(f'<div><b>{value}</b><span class="soft">{text}</span></div>'
                   for value, text in tiles)


def _condition(item: tuple[str, dict[str, Any]]) -> str:
    name, c = item
    iou = '' if c['mean_iou'] is None else f'{100 * c["mean_iou"]:.1f} %'
    return _row([name, c['inputs'], c['outputs'], _ms(c['latency_ms_p50']), iou])


def _rows(node: dict[str, dict[str, str]]) -> Iterable[str]:
    for task, values in node.items():
        yield from (_row([task, key, value]) for key, value in values.items())


def _row(cells: Sequence[object]) -> str:
    return f'<tr>{"".join(f"<td>{escape(str(cell))}</td>" for cell in cells)}</tr>'


def _ms(value: float | None) -> str:
    return '' if value is None else f'{value:.0f} ms'
