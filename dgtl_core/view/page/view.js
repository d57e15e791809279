// SPDX-License-Identifier: Apache-2.0
// One frame at a time: the page says that it is ready, gets the newest, draws it.

import {Plot} from './plot.js';

const $ = (id) => document.getElementById(id);
const picture = $('picture').getContext('2d');
const overlay = $('overlay').getContext('2d');
const hidden = new Set();        // ids of classes that are not shown
let frame = null;                // the header of the newest, with labels and confidence
let state = {};
let socket = null;
let pointer = null;              // where the cursor is on the picture, 0..1
let seeking = false;
let listed = '';                 // the classes that the legend shows
const arrivals = [];             // times of the newest frames, ms

const rate = new Plot($('rate-plot'));
const latency = new Plot($('latency-plot'));
const domain = new Plot($('domain-plot'));

function send(command) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
}

function connect() {
  const address = new URL('feed', location.href);
  address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  address.search = location.search;  // the token
  socket = new WebSocket(address);
  socket.binaryType = 'arraybuffer';
  socket.onopen = () => { status('live', 'live'); send({do: 'next'}); };
  socket.onmessage = async ({data}) => {
    if (typeof data === 'string') return showState(JSON.parse(data));
    try {
      await show(data);
    } finally {
      send({do: 'next'});
    }
  };
  socket.onclose = ({code}) => {
    status('lost', code === 1008 || code === 1006 && !frame
      ? 'refused: use the whole address that dgtl view printed' : 'connection lost');
    setTimeout(connect, 1000);
  };
}

function status(kind, text) {
  $('status').dataset.state = kind;
  $('status').textContent = text;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function show(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const parts = {};
  let at = 4 + length;
  for (const [name, size] of header.parts) {
    parts[name] = new Uint8Array(buffer, at, size);
    at += size;
  }
  const [bitmap, labels, confidence] = await Promise.all([
    createImageBitmap(new Blob([parts.picture], {type: 'image/jpeg'})),
    inflate(parts.labels), parts.confidence ? inflate(parts.confidence) : null]);
  frame = {...header, labels, confidence};
  resize($('picture'), bitmap.height, bitmap.width);
  picture.drawImage(bitmap, 0, 0);
  bitmap.close();
  showLegend();
  drawLabels();
  showNumbers();
  showTip();
}

function resize(canvas, height, width) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}

function drawLabels() {
  if (!frame) return;
  const [height, width] = frame.sizes.labels;
  resize($('overlay'), height, width);
  const alpha = Math.round($('opacity').value * 2.55);
  const colors = new Uint32Array(256);  // ABGR, as canvases have it on little-endian machines
  for (const {id, color: [r, g, b]} of frame.classes) {
    if (!hidden.has(id)) colors[id] = (alpha << 24 | b << 16 | g << 8 | r) >>> 0;
  }
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const {labels} = frame;
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[labels[i]];
  overlay.putImageData(image, 0, 0);
}

function showLegend() {
  const names = JSON.stringify(frame.classes);
  if (names !== listed) {
    listed = names;
    $('legend').classList.toggle('long', frame.classes.length > 20);
    $('legend').replaceChildren(...frame.classes.map(({id, name, color}) => {
      const row = document.createElement('li');
      const label = document.createElement('label');
      const box = document.createElement('input');
      box.type = 'checkbox';
      box.checked = !hidden.has(id);
      box.onchange = () => {
        box.checked ? hidden.delete(id) : hidden.add(id);
        drawLabels();
      };
      const patch = document.createElement('i');
      patch.style.background = `rgb(${color.join()})`;
      const text = document.createElement('b');
      text.textContent = name;
      const share = document.createElement('span');
      share.className = 'quiet number';
      label.dataset.id = id;
      label.append(box, patch, text, share);
      row.append(label);
      return row;
    }));
  }
  for (const label of $('legend').querySelectorAll('label')) {
    const share = frame.shares[label.dataset.id] ?? 0;
    if (share) label.parentNode.className = 'seen';  // which a long list has on top
    label.lastChild.textContent = share ? `${(share * 100).toFixed(1)} %` : '';
  }
}

function toggleAll(shown) {
  hidden.clear();
  for (const {id} of shown ? [] : frame?.classes ?? []) hidden.add(id);
  for (const box of $('legend').querySelectorAll('input')) box.checked = shown;
  drawLabels();
}

function showNumbers() {
  const now = performance.now();
  arrivals.push(now);
  while (arrivals.length > 2 && now - arrivals[0] > 2000) arrivals.shift();
  const hertz = arrivals.length > 1 ? (arrivals.length - 1) / (now - arrivals[0]) * 1000 : 0;
  const whole = Object.values(frame.times).reduce((sum, ms) => sum + ms, 0);
  rate.add(hertz);
  latency.add(whole);
  $('rate').textContent = `${hertz.toFixed(1)} Hz`;
  $('latency').textContent = `${whole.toFixed(0)} ms`;
  $('latency').title = Object.entries(frame.times)
    .map(([name, ms]) => `${name} ${ms.toFixed(1)} ms`).join(', ');
  $('domain').hidden = !frame.domain;
  if (frame.domain) {
    domain.add(frame.domain.score);
    const {verdict, score, causes} = frame.domain;
    $('verdict').textContent = `${verdict} ${score.toFixed(2)}`;
    $('verdict').dataset.verdict = verdict;
    $('causes').textContent = causes.join(', ');
  }
  $('frame').textContent = `${frame.name}  ${frame.size[1]}x${frame.size[0]}`;
  if (frame.position !== null) {
    if (!seeking) $('seek').value = frame.position;
    $('position').textContent = state.total
      ? `${frame.position + 1} of ${state.total}` : `${frame.position + 1}`;
  }
}

function showState(told) {
  state = told;
  $('title').textContent = told.title;
  document.title = `${told.title} - dgtl view`;
  $('play').textContent = told.playing ? 'Pause' : told.ended ? 'Again' : 'Play';
  $('controls').dataset.seekable = told.seekable;
  $('step').disabled = !told.seekable;
  $('seek').disabled = !told.seekable || !told.total;
  $('seek').hidden = !told.seekable;
  $('seek').max = Math.max((told.total ?? 1) - 1, 0);
  $('fault').hidden = !told.fault;
  $('fault').textContent = told.fault;
  $('diagnostics').replaceChildren(...told.diagnostics.map(({name, level, message}) => {
    const row = document.createElement('li');
    row.className = level;
    const text = document.createElement('span');
    text.textContent = `${name}: ${message}`;
    row.append(text);
    return row;
  }));
}

function showTip() {
  const tip = $('tip');
  const inside = pointer && frame && pointer.x >= 0 && pointer.x < 1
    && pointer.y >= 0 && pointer.y < 1;
  tip.hidden = !inside;
  const look = (values, [height, width]) =>
    values[Math.floor(pointer.y * height) * width + Math.floor(pointer.x * width)];
  const id = inside ? look(frame.labels, frame.sizes.labels) : -1;
  for (const label of $('legend').querySelectorAll('label')) {
    label.classList.toggle('under', Number(label.dataset.id) === id);
  }
  if (!inside) return;
  const name = frame.classes.find((entry) => entry.id === id)?.name ?? 'unlabelled';
  const sure = frame.confidence
    ? `  ${(look(frame.confidence, frame.sizes.confidence) / 2.55).toFixed(0)} %` : '';
  tip.textContent = name + sure;
  tip.style.left = `min(${pointer.x * 100}% + 14px, 100% - ${tip.offsetWidth + 4}px)`;
  tip.style.top = `min(${pointer.y * 100}% + 14px, 100% - ${tip.offsetHeight + 4}px)`;
}

$('overlay').onpointermove = (event) => {
  const box = $('overlay').getBoundingClientRect();
  pointer = {x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height};
  showTip();
};
$('overlay').onpointerleave = () => { pointer = null; showTip(); };
$('opacity').oninput = drawLabels;
$('all').onclick = () => toggleAll(true);
$('none').onclick = () => toggleAll(false);
$('play').onclick = () => send({do: state.playing ? 'pause' : 'play'});
$('step').onclick = () => send({do: 'step'});
$('seek').oninput = () => {
  seeking = true;
  send({do: 'seek', to: Number($('seek').value)});
};
$('seek').onchange = () => { seeking = false; };
$('theme').onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  for (const plot of [rate, latency, domain]) plot.draw();
};
document.onkeydown = (event) => {
  if (event.target instanceof HTMLInputElement || event.target instanceof HTMLButtonElement) return;
  if (event.key === ' ') { event.preventDefault(); $('play').click(); }
  if (event.key === 'ArrowRight') $('step').click();
};
connect();
