// SPDX-License-Identifier: Apache-2.0
// A line over the last values, the newest at the right, with the largest one written beside it.

const KEPT = 120;

export class Plot {
  constructor(canvas) {
    this.canvas = canvas;
    this.values = [];
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > KEPT) this.values.shift();
    this.draw();
  }

  draw() {
    const {canvas, values} = this;
    const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !values.length) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext('2d');
    const style = getComputedStyle(canvas);  // the colours of the theme
    context.scale(ratio, ratio);
    const top = Math.max(...values, 1e-6);
    const y = (value) => height - 2 - (height - 16) * Math.max(value, 0) / top;
    context.font = '10px system-ui';
    context.fillStyle = style.outlineColor;
    context.fillText(top >= 10 ? top.toFixed(0) : top.toFixed(2), 0, 10);
    context.strokeStyle = style.color;
    context.lineWidth = 1.5;
    context.beginPath();
    values.forEach((value, i) => 
      context.lineTo(width - (values.length - 1 - i) * width / (KEPT - 1), y(value)));
    context.stroke();
  }
}
