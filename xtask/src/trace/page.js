"use strict";

// The page of a trace: decodes the records and spans that the page carries, draws them, and moves
// from record to record. Nothing is loaded, and nothing is sent.

window.addEventListener("error", (event) => {
  const line = document.getElementById("error");
  line.textContent = `Error in this page: ${event.message}`;
  line.hidden = false;
});

const DATA = JSON.parse(document.getElementById("data").textContent);
const { events: EVENTS, bands: BANDS, moments: MOMENTS, vectors: VECTORS } = DATA;

// The moments that are mistakes.
const BAD = ["no EOI", "EOI on the wrong CPU", "switch in an interrupt", "panic"];

// Rows of a lane, in pixels: thread, state, interrupt.
const LEFT = 64, TOP = 34, THREAD = 20, STATE = 18, SERVICE = 18;
const LANE = THREAD + STATE + SERVICE + 4, PITCH = LANE + 18;
// The order in which bands are drawn, and each one's row, height and colour.
const DRAWN = {
  thread: [0, 0, 19], interrupt: [2, 0, 16, "handler"], section: [1, 12, 4, "section"],
  owes: [1, 0, 3, "owes"], call: [0, -5, 3, "phase"], phase: [1, 0, 11, "phase"],
  spin: [1, 0, 11, "spin"], barrier: [1, 0, 11, "barrier"], nmi: [2, 0, 16, "stopped"],
  stopped: [1, 0, 11, "stopped"], service: [2, 3, 10, "service"], window: [1, 0, 16, "window"],
};
const ROWS = [0, THREAD, THREAD + STATE];

// Bytes that Rust has packed: numbers of seven bits a byte, the lowest first.
class Packed {
  constructor(text) {
    const chars = atob(text);
    this.bytes = Uint8Array.from(chars, (c) => c.charCodeAt(0));
    this.at = 0;
  }
  get rest() { return this.at < this.bytes.length; }
  byte() { return this.bytes[this.at++]; }
  number() {
    let value = 0, factor = 1, byte;
    do {
      byte = this.byte();
      value += (byte & 127) * factor;
      factor *= 128;
    } while (byte & 128);
    return value;
  }
}

// A CPU's records, as columns.
function records(text) {
  const from = new Packed(text), count = from.number();
  const of = {
    count, bytes: from.bytes, time: new Float64Array(count), event: new Uint8Array(count),
    thread: new Uint16Array(count), word: new Uint32Array(count), args: new Uint32Array(count),
  };
  for (let i = 0, time = 0; i < count; i++) {
    time += from.number();
    of.time[i] = time;
    of.event[i] = from.byte();
    of.thread[i] = from.number();
    of.word[i] = from.number();
    of.args[i] = from.at;
    // Each argument is its length in bytes and the bytes: read when somebody looks.
    for (const _ of EVENTS[of.event[i]].args) from.at += from.bytes[from.at] + 1;
  }
  return of;
}

// The spans of a CPU. `last` is the latest end so far, to find the first one that is visible.
function spans(text) {
  const from = new Packed(text), all = [];
  let begin = 0, last = 0;
  while (from.rest) {
    const band = BANDS[from.byte()], vector = from.byte(), thread = from.number();
    const cpu = from.number(), index = from.number();
    begin += from.number();
    const length = from.number();
    const end = length === 0 ? Infinity : begin + length - 1;
    last = Math.max(last, end);
    all.push({ band, vector, thread, cpu, index, begin, end, last });
  }
  return all;
}

// The first place in a sorted array for which `is` holds.
function first(length, is) {
  let low = 0, high = length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (is(middle)) high = middle; else low = middle + 1;
  }
  return low;
}

class Panel {
  constructor(data, root) {
    this.data = data;
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.tip = root.querySelector(".tip");
    root.querySelector("h2").textContent = data.title;
    this.cpus = data.cpus.map((cpu) => ({ ...records(cpu.records), spans: spans(cpu.spans), lost: cpu.lost }));
    this.merge();
    this.decodeMarks();
    this.start = this.order.length ? this.timeOf(0) : 0;
    this.end = this.order.length ? this.timeOf(this.order.length - 1) : 1;
    this.selected = -1;
    this.listen();
    this.resize();
    this.all();
  }

  // All records in the order of time: `order` has the CPU and the index of each rank, `rank` the
  // other way round.
  merge() {
    const next = this.cpus.map(() => 0), total = this.cpus.reduce((sum, cpu) => sum + cpu.count, 0);
    this.order = new Array(total);
    this.rank = this.cpus.map((cpu) => new Uint32Array(cpu.count));
    for (let rank = 0; rank < total; rank++) {
      let best = -1;
      this.cpus.forEach((cpu, i) => {
        const earlier = () => best < 0 || cpu.time[next[i]] < this.cpus[best].time[next[best]];
        if (next[i] < cpu.count && earlier()) best = i;
      });
      this.order[rank] = [best, next[best]];
      this.rank[best][next[best]++] = rank;
    }
  }

  decodeMarks() {
    const marks = new Packed(this.data.marks), arrows = new Packed(this.data.arrows);
    this.marks = [];
    while (marks.rest) {
      const moment = MOMENTS[marks.byte()], vector = marks.byte();
      this.marks.push({ moment, vector, rank: this.rank[marks.number()][marks.number()] });
    }
    this.arrows = [];
    while (arrows.rest) {
      const wakes = arrows.byte() === 1;
      const [from, to] = [0, 1].map(() => this.rank[arrows.number()][arrows.number()]);
      this.arrows.push({ wakes, from, to });
    }
    this.forgotten = new Set(this.marks.filter((m) => m.moment === "no EOI").map((m) => m.rank));
    const ranks = (list) => [...new Set(list)].sort((a, b) => a - b);
    const windows = this.cpus.flatMap((cpu) => cpu.spans.filter((span) => span.band === "window"));
    const sends = this.order.keys().filter((rank) => this.name(rank) === "ipi_send");
    this.jumps = {
      w: ranks(windows.map((span) => this.rank[span.cpu][span.index])),
      i: ranks(sends),
      s: ranks(this.marks.filter((m) => m.moment === "switch").map((m) => m.rank)),
      e: ranks(this.marks.filter((m) => BAD.includes(m.moment)).map((m) => m.rank)),
    };
    for (const button of this.root.querySelectorAll("button")) {
      const jumps = this.jumps[button.dataset.key];
      if (jumps) {
        button.append(` (${jumps.length})`);
        button.disabled = jumps.length === 0;
      }
    }
  }

  timeOf(rank) {
    const [cpu, index] = this.order[rank];
    return this.cpus[cpu].time[index];
  }

  name(rank) {
    const [cpu, index] = this.order[rank];
    return EVENTS[this.cpus[cpu].event[index]].name;
  }

  threadName(number) { return this.data.threads[number] || `thread ${number}`; }

  // A duration in ticks, in words; exact to `step` ticks, if given.
  words(ticks, step) {
    if (!this.data.frequency) return `${ticks} ticks`;
    const [ns, exact] = [ticks, step].map((t) => (t / this.data.frequency) * 1e9);
    const [unit, name, digits] = ns < 1e3 ? [1, "ns", 0] : ns < 1e6 ? [1e3, "µs", 2] : ns < 1e9 ? [1e6, "ms", 3] : [1e9, "s", 4];
    const needed = step ? Math.max(Math.ceil(-Math.log10(exact / unit) - 1e-9), 0) : digits;
    return `${(ns / unit).toFixed(needed)} ${name}`;
  }

  // The fields of a record: name and text of each.
  fields(rank) {
    const [number, index] = this.order[rank], cpu = this.cpus[number];
    const event = EVENTS[cpu.event[index]], word = cpu.word[index];
    const fields = [
      ["event", event.name], ["", event.about], ["CPU", `cpu${number}`],
      ["thread", `${this.threadName(cpu.thread[index])} (${cpu.thread[index]})`],
      ["time", `${this.words(cpu.time[index])} after the kernel's entry`],
    ];
    if (rank > 0) fields.push(["", `${this.words(cpu.time[index] - this.timeOf(rank - 1))} after the record before`]);
    let at = cpu.args[index];
    for (const name of event.args) {
      const length = cpu.bytes[at];
      let hex = "";
      for (let i = length; i > 0; i--) hex += cpu.bytes[at + i].toString(16).padStart(2, "0");
      at += length + 1;
      fields.push([name, this.value(name, hex.replace(/^0+/, "") || "0")]);
    }
    // heart::critical has the layout.
    const parts = [["critnest", (word >> 1) & 1023], ["spinlocks", (word >> 11) & 127],
      ["interrupts off", (word >> 18) & 31], ["interrupts", word >>> 23]];
    fields.push(["owepreempt", word & 1 ? "no" : "yes"]);
    for (const [name, value] of parts) {
      if (value || name === "critnest") fields.push([name, String(value)]);
    }
    return fields;
  }

  // An argument in words: a name if its address has one.
  value(name, hex) {
    const thread = this.data.addresses[hex], known = this.data.names[hex];
    if (thread !== undefined) return `${this.threadName(thread)} (0x${hex})`;
    if (known !== undefined) return `${known} (0x${hex})`;
    const vector = name === "vector" && VECTORS[parseInt(hex, 16)];
    if (vector) return `0x${hex} (${vector})`;
    return hex.length < 4 ? `${parseInt(hex, 16)} (0x${hex})` : `0x${hex}`;
  }

  // The view: the ticks at the left and the right edge.
  look(from, to) {
    const least = 20, most = Math.max(this.end - this.start, least) * 1.04;
    const length = Math.min(Math.max(to - from, least), most), middle = (from + to) / 2;
    this.from = Math.min(Math.max(middle - length / 2, this.start - most * 0.02), this.end + most * 0.02 - length);
    this.to = this.from + length;
    this.redraw();
  }

  all() { this.look(this.start - 1, this.end + 1); }

  zoom(factor, at = (this.from + this.to) / 2) {
    this.look(at - (at - this.from) * factor, at + (this.to - at) * factor);
  }

  x(time) { return LEFT + ((time - this.from) / (this.to - this.from)) * (this.width - LEFT); }
  time(x) { return this.from + ((x - LEFT) / (this.width - LEFT)) * (this.to - this.from); }

  select(rank, near) {
    if (rank < 0 || rank >= this.order.length) return;
    this.selected = rank;
    const time = this.timeOf(rank);
    // Near: the eighth neighbour on the busier side is in sight.
    const away = (to) => Math.abs(this.timeOf(Math.min(Math.max(to, 0), this.order.length - 1)) - time);
    const half = 1.3 * (Math.min(away(rank - 8), away(rank + 8)) || Math.max(away(rank - 8), away(rank + 8)));
    if (near && this.to - this.from > 8 * half) this.look(time - half, time + half);
    const [left, right] = [this.x(time), this.width];
    if (left < LEFT + 40 || left > right - 40) {
      const half = (this.to - this.from) / 2;
      this.look(time - half, time + half);
    }
    const [cpu, index] = this.order[rank];
    Object.assign(this.root.dataset, { rank, cpu, index, event: this.name(rank) });
    this.tell(rank);
    this.redraw();
  }

  // The selected record's fields, and its neighbours.
  tell(rank) {
    const record = this.root.querySelector(".record"), list = this.root.querySelector(".list");
    record.replaceChildren(...this.fields(rank).flatMap(([name, text]) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = name;
      dd.textContent = text;
      dd.className = name;
      return [dt, dd];
    }));
    const around = Math.min(Math.max(rank - 7, 0), Math.max(this.order.length - 15, 0));
    const rows = this.order.slice(around, around + 15).map(([cpu, index], i) => {
      const other = around + i, of = this.cpus[cpu], li = document.createElement("li");
      const time = this.words(Math.abs(of.time[index] - this.timeOf(rank)));
      const sign = other < rank ? "-" : "+";
      const thread = this.threadName(of.thread[index]).slice(0, 16).padEnd(16);
      li.textContent = `${(sign + time).padStart(12)}  cpu${String(cpu).padEnd(3)} ${thread} ${this.name(other)}`;
      if (other === rank) li.setAttribute("aria-current", "true");
      li.addEventListener("click", () => this.select(other));
      return li;
    });
    list.replaceChildren(...rows);
  }

  step(by, same) {
    if (this.selected < 0) return this.select(this.firstVisible());
    let rank = this.selected;
    const cpu = this.order[rank][0];
    do rank += by; while (same && this.order[rank] && this.order[rank][0] !== cpu);
    this.select(rank);
  }

  firstVisible() {
    return Math.min(first(this.order.length, (rank) => this.timeOf(rank) >= this.from), this.order.length - 1);
  }

  // The record of another CPU that is nearest in time.
  cross(by) {
    if (this.selected < 0) return this.step(0);
    const time = this.timeOf(this.selected);
    let cpu = this.order[this.selected][0] + by;
    while (this.cpus[cpu] && this.cpus[cpu].count === 0) cpu += by;
    const of = this.cpus[cpu];
    if (!of) return;
    const after = first(of.count, (i) => of.time[i] >= time);
    const near = after > 0 && (after === of.count || time - of.time[after - 1] < of.time[after] - time);
    this.select(this.rank[cpu][near ? after - 1 : after]);
  }

  jump(key, back) {
    const list = this.jumps[key];
    if (!list.length) return;
    const at = first(list.length, (i) => list[i] > this.selected - (back ? 1 : 0));
    const to = back ? list[at - 1] ?? list[list.length - 1] : list[at] ?? list[0];
    this.select(to, true);
  }

  key(key, shift) {
    const length = this.to - this.from;
    const keys = {
      ArrowLeft: () => this.step(-1, shift), ArrowRight: () => this.step(1, shift),
      ArrowUp: () => this.cross(-1), ArrowDown: () => this.cross(1),
      Home: () => this.select(0), End: () => this.select(this.order.length - 1),
      PageUp: () => this.look(this.from - length * 0.8, this.to - length * 0.8),
      PageDown: () => this.look(this.from + length * 0.8, this.to + length * 0.8),
      "+": () => this.zoom(0.5, this.anchor()), "=": () => this.zoom(0.5, this.anchor()),
      "-": () => this.zoom(2, this.anchor()), a: () => this.all(),
    };
    const act = keys[key] ?? (this.jumps[key.toLowerCase()] && (() => this.jump(key.toLowerCase(), shift)));
    if (act) act();
    return Boolean(act);
  }

  // What stays in its place when the keyboard zooms: the selected record, if it is in sight.
  anchor() {
    const time = this.selected < 0 ? NaN : this.timeOf(this.selected);
    return time >= this.from && time <= this.to ? time : undefined;
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (this.key(event.key, event.shiftKey)) event.preventDefault();
    });
    for (const button of this.root.querySelectorAll("button")) {
      button.addEventListener("click", (event) => this.key(button.dataset.key, event.shiftKey));
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        const by = ((event.deltaX || event.deltaY) / this.width) * (this.to - this.from);
        this.look(this.from + by, this.to + by);
      } else {
        this.zoom(Math.exp(event.deltaY * 0.002), this.time(Math.max(event.offsetX, LEFT)));
      }
    }, { passive: false });
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      drag = { x: event.offsetX, from: this.from, to: this.to, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return this.hover(event.offsetX, event.offsetY);
      const by = ((drag.x - event.offsetX) / (this.width - LEFT)) * (drag.to - drag.from);
      drag.moved ||= Math.abs(drag.x - event.offsetX) > 3;
      if (drag.moved) this.look(drag.from + by, drag.to + by);
    });
    canvas.addEventListener("pointerup", (event) => {
      const record = drag && !drag.moved ? this.recordAt(event.offsetX, event.offsetY, 12) : -1;
      if (record >= 0) this.select(record);
      drag = null;
    });
    canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.resize());
  }

  laneAt(y) { return Math.floor((y - TOP + 9) / PITCH); }

  recordAt(x, y, reach) {
    const cpu = this.laneAt(y), of = this.cpus[cpu];
    if (!of || of.count === 0) return -1;
    const time = this.time(x), after = first(of.count, (i) => of.time[i] >= time);
    const near = [after - 1, after].filter((i) => i >= 0 && i < of.count)
      .map((i) => [Math.abs(this.x(of.time[i]) - x), i]).sort((a, b) => a[0] - b[0])[0];
    return near[0] <= reach ? this.rank[cpu][near[1]] : -1;
  }

  hover(x, y) {
    const record = this.recordAt(x, y, 5), cpu = this.laneAt(y), of = this.cpus[cpu];
    let text = "";
    if (record >= 0) {
      text = this.fields(record).map(([name, value]) => (name ? `${name}: ${value}` : value)).join("\n");
    } else if (of && x > LEFT) {
      const time = this.time(x), row = y - TOP - cpu * PITCH;
      const under = this.visible(of, time, time).filter((span) => {
        const [at, offset, height] = DRAWN[span.band];
        const top = ROWS[at] + offset;
        return span.begin <= time && span.end >= time && row >= top - 2 && row <= top + height + 2;
      });
      text = under.map((span) => this.told(span)).join("\n");
    }
    this.tip.hidden = text === "";
    this.tip.textContent = text;
    this.tip.style.left = `${Math.min(x + 14, this.width - 280)}px`;
    this.tip.style.top = `${y + 16}px`;
  }

  // A span in words.
  told(span) {
    const what = {
      thread: "runs", section: "is in a critical section", owes: "owes a preemption",
      window: "is in the window W: critnest 0, and a preemption is owed",
      interrupt: `is interrupted: ${this.vector(span)}`, service: `${this.vector(span)} is in service`,
      nmi: "is in an NMI", call: "makes a call", phase: "runs a phase of a call",
      barrier: "waits at a barrier", spin: "spins for a lock", stopped: "is stopped",
    }[span.band];
    const length = span.end === Infinity ? "to the end of the trace" : this.words(span.end - span.begin);
    const missing = span.band === "service" && this.isForgotten(span) ? ", and its EOI never comes" : "";
    return `${this.threadName(span.thread)} ${what}${missing}, ${length}`;
  }

  vector(span) { return VECTORS[span.vector] || `vector 0x${span.vector.toString(16)}`; }

  isForgotten(span) { return this.forgotten.has(this.rank[span.cpu][span.index]); }

  // The spans of a CPU that may be seen between two moments.
  visible(cpu, from, to) {
    const low = first(cpu.spans.length, (i) => cpu.spans[i].last >= from);
    const high = first(cpu.spans.length, (i) => cpu.spans[i].begin > to);
    return cpu.spans.slice(low, high).filter((span) => span.end >= from);
  }

  resize() {
    const width = this.canvas.parentElement.clientWidth, height = TOP + this.cpus.length * PITCH + 4;
    const ratio = window.devicePixelRatio || 1;
    this.width = width;
    this.height = height;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.height = `${height}px`;
    this.context = this.canvas.getContext("2d");
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(document.documentElement);
    this.colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.redraw();
  }

  redraw() {
    if (this.pending || this.from === undefined) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.draw();
    });
  }

  draw() {
    const { context: c } = this;
    c.fillStyle = this.colour("bg");
    c.fillRect(0, 0, this.width, this.height);
    this.axis();
    this.cpus.forEach((cpu, number) => this.lane(cpu, number));
    c.save();
    c.beginPath();
    c.rect(LEFT, 0, this.width - LEFT, this.height);
    c.clip();
    this.drawArrows();
    this.drawMarks();
    this.drawSelection();
    c.restore();
  }

  text(text, x, y, colour, align = "left", bold = false) {
    const { context: c } = this;
    c.font = `${bold ? "bold " : ""}11px system-ui, "DejaVu Sans", sans-serif`;
    c.fillStyle = this.colour(colour);
    c.textAlign = align;
    c.fillText(text, x, y);
  }

  axis() {
    const ticks = (this.to - this.from) / Math.max((this.width - LEFT) / 110, 1);
    const power = 10 ** Math.floor(Math.log10(ticks));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= ticks);
    const { context: c } = this;
    for (let time = Math.ceil(this.from / step) * step; time < this.to; time += step) {
      const x = this.x(time);
      c.fillStyle = this.colour("rule");
      c.fillRect(x, 18, 1, this.height - 18);
      this.text(this.words(time, step), x, 13, "dim", "center");
    }
  }

  lane(cpu, number) {
    const { context: c } = this, top = TOP + number * PITCH;
    this.text(`cpu${number}`, 8, top + 14, "ink", "left", true);
    if (cpu.lost) this.text(`lost ${cpu.lost}`, 8, top + 30, "bad");
    c.fillStyle = this.colour("lane");
    c.fillRect(LEFT, top, this.width - LEFT, LANE - 4);
    c.save();
    c.beginPath();
    c.rect(LEFT, top - 6, this.width - LEFT, LANE + 8);
    c.clip();
    const visible = this.visible(cpu, this.from, this.to);
    for (const band of Object.keys(DRAWN)) {
      const [row, offset, height, colour] = DRAWN[band], y = top + ROWS[row] + offset;
      let drawn = -1;
      for (const span of visible) {
        if (span.band !== band) continue;
        const left = Math.max(this.x(span.begin), LEFT - 5), right = Math.min(this.x(span.end), this.width + 5);
        // Many that share a pixel are one.
        if (right <= drawn) continue;
        drawn = Math.max(left + 1, right);
        this.band(span, band, colour, left, y, Math.max(right - left, 1), height);
      }
    }
    c.fillStyle = this.colour("dim");
    let drawn = -1;
    const begin = first(cpu.count, (i) => cpu.time[i] >= this.from);
    for (let i = begin; i < cpu.count && cpu.time[i] <= this.to; i++) {
      const x = Math.round(this.x(cpu.time[i]));
      if (x > drawn) c.fillRect(x, top + LANE - 5, 1, 4);
      drawn = x;
    }
    c.restore();
  }

  band(span, band, colour, x, y, width, height) {
    const { context: c } = this, name = this.threadName(span.thread);
    const idle = band === "thread" && name.includes("idle");
    if (band === "thread") colour = idle ? "idle" : `thread${span.thread % 4}`;
    c.fillStyle = this.colour(colour);
    c.fillRect(x, y, width, height);
    const forgotten = band === "service" && this.isForgotten(span);
    if (forgotten || band === "barrier") this.hatch(forgotten ? "bad" : "bg", x, y, width, height);
    if (band === "window" && width > 5) {
      c.strokeStyle = this.colour("windowink");
      c.strokeRect(x + 0.5, y + 0.5, Math.max(width - 1, 0.5), height - 1);
    }
    const label = {
      thread: name, window: "W", service: this.vector(span), phase: "phase", barrier: "waits",
      spin: "spins", stopped: "stopped", nmi: "NMI",
    }[band];
    if (!label || forgotten) return;
    c.font = "11px system-ui, sans-serif";
    const left = Math.max(x, LEFT), room = Math.min(x + width, this.width) - left;
    if (room < c.measureText(label).width + 8) return;
    const ink = idle ? "dim" : { window: "windowink", service: "serviceink", spin: "windowink",
      stopped: "bg", nmi: "bg" }[band] || "onthread";
    this.text(label, left + (band === "window" ? room / 2 - 5 : 5), y + height / 2 + 4, ink, "left", band === "window");
  }

  hatch(colour, x, y, width, height) {
    const { context: c } = this;
    c.save();
    c.beginPath();
    c.rect(x, y, width, height);
    c.clip();
    c.strokeStyle = this.colour(colour);
    c.globalAlpha = colour === "bg" ? 0.35 : 1;
    c.lineWidth = colour === "bg" ? 1.5 : 4;
    c.beginPath();
    const from = Math.floor(Math.max(x, LEFT - height) / 10) * 10;
    for (let at = from - height; at < Math.min(x + width, this.width); at += 10) {
      c.moveTo(at, y + height);
      c.lineTo(at + height, y);
    }
    c.stroke();
    c.restore();
  }

  drawArrows() {
    const { context: c } = this;
    const low = first(this.arrows.length, (i) => this.timeOf(this.arrows[i].to) >= this.from);
    const high = first(this.arrows.length, (i) => this.timeOf(this.arrows[i].to) > this.to);
    // More would cover everything.
    if (high - low > 300) return;
    for (let i = low; i < this.arrows.length; i++) {
      const { wakes, from, to } = this.arrows[i];
      const [start, end] = [this.timeOf(from), this.timeOf(to)];
      if (start > this.to && end > this.to) break;
      const [a, b] = [this.order[from][0], this.order[to][0]];
      if (a === b) continue;
      const down = a < b, row = wakes ? 0 : ROWS[2];
      const [x1, y1] = [this.x(start), TOP + a * PITCH + (down ? LANE - 4 : 0)];
      const [x2, y2] = [this.x(end), TOP + b * PITCH + row + (down ? 0 : 16)];
      const angle = Math.atan2(y2 - y1, x2 - x1);
      c.strokeStyle = c.fillStyle = this.colour(wakes ? "dim" : "ipi");
      c.lineWidth = wakes ? 1 : 1.6;
      c.setLineDash(wakes ? [4, 3] : []);
      c.beginPath();
      c.moveTo(x1, y1);
      c.lineTo(x2, y2);
      c.stroke();
      c.setLineDash([]);
      c.beginPath();
      c.moveTo(x2, y2);
      for (const turn of [2.75, -2.75]) c.lineTo(x2 + 8 * Math.cos(angle + turn), y2 + 8 * Math.sin(angle + turn));
      c.fill();
    }
  }

  drawMarks() {
    const { context: c } = this;
    const low = first(this.marks.length, (i) => this.timeOf(this.marks[i].rank) >= this.from);
    let drawn = -1;
    for (let i = low; i < this.marks.length; i++) {
      const { moment, rank } = this.marks[i], time = this.timeOf(rank);
      if (time > this.to) break;
      const x = this.x(time), top = TOP + this.order[rank][0] * PITCH;
      const bad = BAD.includes(moment);
      if (!bad && x - drawn < 0.7) continue;
      drawn = x;
      c.fillStyle = this.colour(bad ? "bad" : moment === "EOI" ? "good" : "ink");
      c.beginPath();
      if (moment === "EOI") c.arc(x, top + ROWS[2] + 8, 3.5, 0, 7);
      if (moment === "switch") [[-4, -6], [4, -6], [0, 0]].forEach(([dx, dy]) => c.lineTo(x + dx, top + dy));
      if (moment === "hits W") c.arc(x, top + ROWS[2] - 1, 4, 0, 7);
      c.fill();
      if (bad) {
        c.fillRect(x - 1, top - 4, 2.5, LANE + 4);
        this.text(`✕ ${moment}`, x + 5, top + (moment === "no EOI" ? LANE + 8 : -3), "bad", "left", true);
      }
    }
  }

  drawSelection() {
    if (this.selected < 0) return;
    const { context: c } = this, x = this.x(this.timeOf(this.selected));
    const top = TOP + this.order[this.selected][0] * PITCH;
    c.fillStyle = this.colour("focus");
    c.fillRect(x - 0.5, 18, 1, this.height);
    c.strokeStyle = this.colour("focus");
    c.lineWidth = 2;
    c.strokeRect(x - 5, top - 3, 10, LANE + 1);
  }
}

function legend() {
  const signs = {
    section: "in a critical section", owes: "owes a preemption", window: "window W: outside all sections, and owes a preemption",
    handler: "in an interrupt", service: "its vector is in service", phase: "runs a phase of a call; above a lane: makes a call",
    barrier: "waits at a barrier", spin: "spins for a lock", stopped: "NMI, or stopped", good: "EOI", bad: "a mistake", ipi: "an IPI",
  };
  document.getElementById("legend").append(...Object.entries(signs).map(([name, text]) => {
    const [sign, item] = [document.createElement("i"), document.createElement("span")];
    sign.style.background = `var(--${name})`;
    item.append(sign, text);
    return item;
  }));
}

const panels = DATA.panels.map((data) => {
  const root = document.getElementById("panel").content.cloneNode(true).firstElementChild;
  document.getElementById("panels").append(root);
  return new Panel(data, root);
});
legend();
if (panels.length) panels[0].canvas.focus({ preventScroll: true });
// `#w` in the address jumps as the key does.
const asked = location.hash.slice(1);
if (asked && panels.length) panels[0].key(asked, false);
