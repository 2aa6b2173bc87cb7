"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { report, pictures, faults, places, outcomes } = data;
const byId = (id) => document.getElementById(id);
const CLASSES = ["private", "shared", "file", "zero"];
const TITLES = ["private", "shared, copied at the next write", "page of a file", "zero page"];
const number = (n) => n.toLocaleString("en-US");
const time = (ticks) => {
  const seconds = ticks / data.hz;
  return seconds >= 1 ? `${seconds.toFixed(3)} s` : seconds >= 1e-3 ? `${(seconds * 1e3).toFixed(3)} ms` : `${(seconds * 1e6).toFixed(2)} µs`;
};
// Of a path, the last two parts.
const short = (source) => source.file ? `${source.function} (${source.file.split("/").slice(-2).join("/")}:${source.line})` : source.function;
const hex = (n) => "0x" + n.toString(16);
const element = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

// A table: headings and rows of texts; columns in `left` are not numbers.
function table(target, headings, rows, left) {
  const place = (cell, column) => { if (left.includes(column)) cell.className = "left"; return cell; };
  const head = element("tr");
  headings.forEach((text, column) => head.append(place(element("th", text), column)));
  target.replaceChildren(head);
  for (const row of rows) {
    const line = element("tr");
    row.forEach((text, column) => line.append(place(element("td", text), column)));
    target.append(line);
  }
}

// Pages that were ever mapped, in pieces that lie close together, get columns next to each other.
function layout() {
  const NEAR = 32;
  const ranges = [];
  for (const picture of pictures)
    for (const [, runs] of picture.spaces)
      for (const [first, count] of runs) ranges.push([first, first + count]);
  ranges.sort((a, b) => a[0] - b[0]);
  const pieces = [];
  for (const [start, end] of ranges) {
    const last = pieces[pieces.length - 1];
    if (last && start <= last.end + NEAR) last.end = Math.max(last.end, end);
    else pieces.push({ start, end });
  }
  let column = 0;
  for (const piece of pieces) {
    piece.column = column;
    column += piece.end - piece.start;
  }
  return { pieces, columns: column };
}
const { pieces, columns } = layout();

function name(pid) {
  const process = report.processes.filter((p) => p.pid === pid).pop();
  return process && process.name ? `${pid} ${process.name}` : `${pid}`;
}

function mapping(page) {
  let found = "";
  for (const [first, label] of data.labels) {
    if (first > page) break;
    found = label;
  }
  return found;
}

const canvas = byId("map");
const slider = byId("time");
const ROW = 18, SPACE = 6, LEFT = 90, TOP = 18, GAP = 6;
let chosen = null;
let geometry = { rows: [], scale: 1 };

function draw() {
  const picture = pictures[Number(slider.value)];
  if (!picture) return;
  byId("moment").textContent = `${time(picture.time)}, after ${picture.after}`;
  const width = canvas.parentElement.clientWidth;
  const most = Math.max(...pictures.map((p) => p.spaces.length), 1);
  const height = TOP + most * (ROW + SPACE);
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.height = height + "px";
  const paint = canvas.getContext("2d");
  paint.scale(ratio, ratio);
  paint.clearRect(0, 0, width, height);
  paint.font = "12px system-ui, sans-serif";
  paint.textBaseline = "middle";
  const room = Math.max(width - LEFT - GAP * pieces.length, 50);
  const scale = room / Math.max(columns, 1);
  const x = (page, index) => LEFT + (pieces[index].column + page - pieces[index].start) * scale + GAP * index;
  geometry = { rows: picture.spaces.map(([pid]) => pid), scale };
  // Names of what is mapped, where there is room for them.
  paint.fillStyle = colour("dim");
  let free = 0;
  pieces.forEach((piece, index) => {
    const label = mapping(piece.start);
    const at = x(piece.start, index);
    if (label && at >= free) {
      paint.fillText(label, at, TOP / 2);
      free = at + paint.measureText(label).width + 10;
    }
  });
  const colours = CLASSES.map(colour);
  picture.spaces.forEach(([pid, runs], row) => {
    const y = TOP + row * (ROW + SPACE);
    paint.fillStyle = colour("text");
    paint.fillText(name(pid), 0, y + ROW / 2, LEFT - 8);
    paint.fillStyle = colour("back");
    pieces.forEach((piece, index) => paint.fillRect(x(piece.start, index), y, Math.max((piece.end - piece.start) * scale, 1), ROW));
    // What falls on one pixel is shown in proportion.
    const pixels = new Map();
    for (const [first, count, kind] of runs) {
      const index = pieces.findIndex((piece) => piece.start <= first && first < piece.end);
      const from = x(first, index), to = x(first + count, index);
      if (to - from >= 2) {
        paint.fillStyle = colours[kind];
        paint.fillRect(from, y, to - from - (scale >= 4 ? 1 : 0), ROW);
      } else {
        const pixel = Math.floor(from);
        const parts = pixels.get(pixel) || [0, 0, 0, 0];
        parts[kind] += count;
        pixels.set(pixel, parts);
      }
    }
    for (const [pixel, parts] of pixels) {
      const all = parts.reduce((a, b) => a + b);
      let at = y;
      parts.forEach((part, kind) => {
        const part_height = (ROW * part) / all;
        paint.fillStyle = colours[kind];
        paint.fillRect(pixel, at, Math.max(1, scale), part_height);
        at += part_height;
      });
    }
    if (chosen !== null) {
      const index = pieces.findIndex((piece) => piece.start <= chosen && chosen < piece.end);
      if (index >= 0) {
        paint.strokeStyle = colour("text");
        paint.strokeRect(x(chosen, index) - 1, y - 1, Math.max(scale, 2) + 1, ROW + 2);
      }
    }
  });
}

// The page and process under a point of the canvas.
function under(event) {
  const box = canvas.getBoundingClientRect();
  const row = Math.floor((event.clientY - box.top - TOP) / (ROW + SPACE));
  const at = event.clientX - box.left;
  for (let index = pieces.length - 1; index >= 0; index--) {
    const piece = pieces[index];
    const column = (at - LEFT - GAP * index) / geometry.scale;
    if (column >= piece.column && column < piece.column + piece.end - piece.start)
      return { pid: geometry.rows[row], page: piece.start + Math.floor(column - piece.column) };
  }
  return null;
}

function tell(pid, page) {
  const picture = pictures[Number(slider.value)];
  const space = picture.spaces.find(([number]) => number === pid);
  const run = space && space[1].find(([first, count]) => first <= page && page < first + count);
  const address = hex(page * 4096);
  byId("where").textContent = `${address}${mapping(page) ? " in " + mapping(page) : ""}${pid ? `, process ${name(pid)}: ${run ? TITLES[run[2]] : "nothing mapped"}` : ""}`;
}

function life(page) {
  chosen = page;
  // So that a link can lead to a page.
  history.replaceState(null, "", "#" + hex(page * 4096));
  const rows = faults.filter((fault) => fault[2] === page).map(([at, pid, , outcome, from, to, before, after, cost, place]) => [
    time(at), name(pid), outcomes[outcome], from && from !== to ? `${hex(from)} → ${hex(to)}` : to ? hex(to) : "–",
    before || after ? `${before} → ${after}` : "", number(cost), places[place],
  ]);
  const heading = element("h3", `The life of the page at ${hex(page * 4096)}`);
  const scroll = element("div", undefined, "scroll");
  const shown = element("table");
  table(shown, ["time", "process", "what was done", "frame", "references", "cycles", "at"], rows, [1, 2, 6]);
  scroll.append(rows.length ? shown : element("p", "No fault on it is in the trace."));
  byId("life").replaceChildren(heading, scroll);
  if (data.more_faults) byId("life").append(element("p", `${number(data.more_faults)} later faults of the trace are not in this file.`, "hint"));
  draw();
}

canvas.addEventListener("mousemove", (event) => { const at = under(event); if (at) tell(at.pid, at.page); });
canvas.addEventListener("click", (event) => { const at = under(event); if (at) { tell(at.pid, at.page); life(at.page); } });
slider.max = Math.max(pictures.length - 1, 0);
slider.addEventListener("input", draw);
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
let playing = null;
byId("play").addEventListener("click", () => {
  const stop = () => { clearInterval(playing); playing = null; byId("play").textContent = "Play"; };
  if (playing) return stop();
  if (Number(slider.value) >= Number(slider.max)) slider.value = 0;
  byId("play").textContent = "Stop";
  playing = setInterval(() => {
    if (Number(slider.value) >= Number(slider.max)) return stop();
    slider.value = Number(slider.value) + 1;
    draw();
  }, 120);
});
CLASSES.forEach((kind, index) => {
  const item = element("span");
  const box = element("i");
  box.style.background = `var(--${kind})`;
  item.append(box, TITLES[index]);
  byId("legend").append(item);
});

function decay(fork) {
  const points = fork.still_shared;
  const all = points.length ? points[0][1] : 0;
  const end = points.length ? points[points.length - 1][0] : 0;
  if (!all || !end) return null;
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", "0 0 100 50");
  svg.setAttribute("preserveAspectRatio", "none");
  let path = "M0 50";
  let shared = all;
  for (const [at, pages] of points) {
    const x = (at / end) * 100;
    path += `L${x} ${50 - (shared / all) * 46}L${x} ${50 - (pages / all) * 46}`;
    shared = pages;
  }
  const area = document.createElementNS(NS, "path");
  area.setAttribute("d", path + "L100 50Z");
  area.setAttribute("fill", "var(--shared)");
  area.setAttribute("fill-opacity", "0.55");
  svg.append(area);
  const figure = element("figure");
  const left = Math.floor((shared * 100) / all);
  const gone = fork.child_gone_by ? `until the child's ${fork.child_gone_by}` : "until the end of the trace";
  figure.append(svg, element("figcaption",
    `${fork.parent} > ${fork.child} (${fork.mode}): ${number(all)} pages, ${left} % still shared after ${time(end * data.hz)}, ${gone}`));
  return figure;
}

const machine = report.machine;
byId("machine").textContent = machine
  ? `${machine.board}, ${machine.cpus} × ${report.cpu}, fork=${machine.fork}: ${report.duration_seconds.toFixed(3)} s, ${number(report.events)} events, ${number(report.fork_count)} forks`
  : "An unknown machine (no hello in the trace)";
byId("loss").textContent = report.loss_line;
for (const advice of report.advice) {
  const item = element("li");
  const source = advice.place.source;
  const where = source ? short(source) : hex(advice.place.pc);
  item.append(element("strong", where), element("br"), `${advice.what}. `, element("em", `Instead: ${advice.instead}.`));
  byId("advice").append(item);
}
if (!report.advice.length) byId("advice").replaceWith(element("p", "Nothing stands out."));
const curves = report.forks.map(decay).filter((figure) => figure);
byId("decay").append(...(curves.length ? curves : [element("p", "No fork shared pages.")]));
// Whether the kernel compared copied pages when they went: bytes that had changed, of each on average.
const compared = report.amplification ? ["changed"] : [];
const changed = ({ pages, bytes }) => (pages ? `${(bytes / pages).toFixed(1)} B` : "");
table(byId("lines"), ["copies", "reuses", "cycles", ...compared, "line"], report.lines.map((line) => {
  const source = line.place.source;
  return [number(line.copies.count), number(line.reuses.count), number(line.copies.cycles + line.reuses.cycles),
    ...compared.map(() => changed(line.changed)), source ? short(source) : hex(line.place.pc)];
}), [3 + compared.length]);
table(byId("processes"), ["pid", "name", "faults", "copied", "reused", "forks", "debt", "stall"], report.processes.map((p) => [
  `${p.pid}`, p.name, number(p.faults_total.count), number(p.pages_copied), number(p.pages_reused), number(p.forks.count),
  number(p.debt.cycles), number(p.stall_cycles)]), [1]);
// The picture with most sharing is the best to begin with.
const sharing = (picture) => picture.spaces.reduce((sum, [, runs]) => sum + runs.reduce((s, run) => s + (run[2] === 1 ? run[1] : 0), 0), 0);
slider.value = pictures.reduce((best, picture, index) => (sharing(picture) > sharing(pictures[best]) ? index : best), 0);
draw();
const linked = Number(location.hash.slice(1));
if (location.hash && Number.isFinite(linked)) life(Math.floor(linked / 4096));
