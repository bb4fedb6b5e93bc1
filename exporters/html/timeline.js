// The last minutes of one loop: the share of each second in which it was active as bars, its longest iteration as
// points on a logarithmic scale (1 ms to 10 s), slow callbacks as marks at the top.

const MOST = 300;
const LEAST = 60;

// The seconds that the timelines of a run show, the same for all its loops: from the first in which one of them ran
// to the last, or to now while the run lasts.
function axisOf(timelines, live, now) {
  const moments = timelines.flat().map((point) => Math.floor(point.time));
  const last = Math.max(...moments, ...(live ? [Math.floor(now)] : []));
  const span = Math.min(MOST, Math.max(live ? LEAST : 1, last - Math.min(...moments) + 1));
  return {first: last - span + 1, span, live};
}

class Timeline {
  constructor(label) {
    this.label = label;
    this.canvas = element("canvas", {tabindex: 0, role: "img", "aria-label": `Timeline of loop ${label}`});
    this.note = element("p", {class: "dim", "aria-live": "polite"});
    this.element = element("div", {}, element("p", {text: label}), this.canvas, this.note);
    this.chosen = null;
    this.span = LEAST;
    this.first = 0;
    this.live = false;
    this.canvas.addEventListener("mousemove", (event) =>
      this.choose(Math.floor(event.offsetX / this.canvas.clientWidth * this.span)));
    this.canvas.addEventListener("mouseleave", () => this.choose(null));
    this.canvas.addEventListener("keydown", (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!step) return;
      event.preventDefault();
      this.choose(Math.min(this.span - 1, Math.max(0, (this.chosen ?? this.span) + step)));
    });
  }

  choose(index) {
    this.chosen = index;
    this.draw();
  }

  update(points, stalls, axis) {
    this.span = axis.span;
    this.first = axis.first;
    this.live = axis.live;
    if (this.chosen !== null && this.chosen >= this.span) this.chosen = null;
    this.bySecond = new Map(points.map((point) => [Math.floor(point.time) - this.first, point]));
    this.stalls = stalls.filter((stall) => stall.start !== null && stall.start + stall.seconds >= this.first);
    this.draw();
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth, height = 130;
    if (!width || !this.bySecond) return;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const paint = this.canvas.getContext("2d");
    paint.scale(ratio, ratio);
    paint.fillStyle = color("--bg");
    paint.fillRect(0, 0, width, height);
    const step = width / this.span, top = 12, room = height - top;
    for (const [index, point] of this.bySecond) {
      if (index < 0) continue;
      paint.fillStyle = color("--bar");
      const high = point.active_seconds * room;
      paint.fillRect(index * step, height - high, Math.max(1, step - 0.5), high);
      const level = (Math.log10(Math.max(1e-3, Math.min(10, point.longest_seconds))) + 3) / 4;
      paint.fillStyle = color("--text");
      paint.fillRect(index * step, height - level * room - 1, Math.max(1.5, step), 2);
    }
    paint.fillStyle = color("--mark");
    for (const stall of this.stalls) {
      paint.fillRect((stall.start - this.first) * step, 0, Math.max(3, stall.seconds * step), 8);
    }
    if (this.chosen !== null) {
      paint.strokeStyle = color("--accent");
      paint.strokeRect(this.chosen * step, 0.5, step, height - 1);
    }
    this.describe();
  }

  describe() {
    if (this.chosen === null) {
      const which = this.live ? `the last ${this.span} seconds` : `${this.span} seconds from ${clock(this.first)} on`;
      this.note.textContent =
        `${which}; bars: active; points: longest iteration, 1 ms to 10 s; marks: slow callbacks`;
      return;
    }
    const when = this.first + this.chosen, point = this.bySecond.get(this.chosen);
    const slow = this.stalls.filter((stall) => stall.start < when + 1 && stall.start + stall.seconds >= when);
    const text = point
      ? `${clock(when)}: active ${percent(point.active_seconds)}, ${count(point.callbacks)} callbacks, `
        + `longest iteration ${seconds(point.longest_seconds)}`
      : `${clock(when)}: nothing ran`;
    this.note.textContent = text + slow.map((stall) => `; slow: ${stall.culprit} ${seconds(stall.seconds)}`).join("");
  }
}
