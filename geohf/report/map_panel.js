// Pointer, keys, buttons, and what stands beside the map. All text goes in as textContent, never as HTML.

// ---- finding the point under the pointer --------------------------------------------------------
const CELL = 24;
function pick(x, y) {
  if (!grid) { // screen cells, made anew after every change of the view
    grid = new Map();
    for (const i of $("show-predicted").checked ? order.slice(first) : []) {
      const at = `${Math.floor(sx(near(px[i])) / CELL)},${Math.floor(sy(py[i]) / CELL)}`;
      if (grid.has(at)) grid.get(at).push(i);
      else grid.set(at, [i]);
    }
  }
  let best = -1, nearest = (dotSize + 7) ** 2;
  const column = Math.floor(x / CELL), row = Math.floor(y / CELL);
  for (let c = column - 1; c <= column + 1; c++) for (let r = row - 1; r <= row + 1; r++) for (const i of grid.get(`${c},${r}`) || []) {
    const d = (sx(near(px[i])) - x) ** 2 + (sy(py[i]) - y) ** 2;
    if (d <= nearest) { nearest = d; best = i; }
  }
  return best;
}

// ---- what stands beside the map -----------------------------------------------------------------
function element(tag, words, parent) {
  const made = document.createElement(tag);
  if (words !== undefined) made.textContent = words;
  if (parent) parent.append(made);
  return made;
}
function placeLink([lat, lon], parent) {
  const link = element("a", `${lat.toFixed(5)}, ${lon.toFixed(5)}`, parent);
  link.href = `https://www.openstreetmap.org/?mlat=${lat}&mlon=${lon}#map=12/${lat}/${lon}`;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.title = "Open in OpenStreetMap";
}
function tell(i) {
  const panel = $("panel");
  panel.replaceChildren();
  if (i < 0) return void (element("p", "Point at a prediction to see it; click to keep it.", panel).className = "hint");
  element("h2", nameOf(i), panel);
  if (thumbnails && thumbnails[i]) {
    const image = element("img", undefined, panel);
    image.src = thumbnails[i];
    image.alt = "";
  } else if (thumbnails) element("p", "This file does not hold its photograph.", panel).className = "hint";
  const list = element("dl", undefined, panel);
  const entry = (key, words) => { element("dt", key, list); return element("dd", words, list); };
  if (km && km[i] !== null) entry("error", distance(km[i]));
  placeLink(points[i], entry("predicted"));
  if (hasTruth(i)) placeLink(truth[i], entry("true"));
  else if (truth) entry("true", "unknown");
  const meters = Array.isArray(radius) ? radius[i] : radius;
  if (meters) entry("radius", distance(meters / 1000));
  if (hasRegions(i)) entry("regions", `${Object.keys(regions[i]).join(" and ")} % of places like this`);
  for (const [key, column] of Object.entries(details)) {
    const v = column[i];
    entry(key, v === null ? "–" : typeof v === "number" ? number(v) : typeof v === "object" ? JSON.stringify(v) : String(v));
  }
}
function activate(i) { // what is pointed at, or -1; the pinned point comes back when nothing is
  if (i === hover) return;
  hover = i;
  tell(i >= 0 ? i : pinned);
  redraw();
}
function pin(i) {
  pinned = i;
  tell(i);
  for (const row of $("rows").children) row.className = Number(row.dataset.point) === i ? "on" : "";
  redraw();
}
function showTip(i) {
  const tip = $("tip");
  tip.hidden = i < 0;
  if (i < 0) return;
  tip.textContent = nameOf(i) + (ranked && ranked[i] !== null ? ` · ${rankText(ranked[i])}` : "");
  const x = sx(near(px[i])) + 14, y = sy(py[i]) + 14;
  tip.style.transform = `translate(${Math.max(4, Math.min(x, W - tip.offsetWidth - 6))}px, ${Math.max(4, Math.min(y, H - tip.offsetHeight - 6))}px)`;
}
function look(i) { // from the table: bring both ends into view
  const path = lines[i] || { west: px[i], east: px[i], top: py[i], bottom: py[i] };
  view.x = (path.west + path.east) / 2;
  view.y = (path.top + path.bottom) / 2;
  const wide = Math.max(path.east - path.west, 1e-5), high = Math.max(path.bottom - path.top, 1e-5);
  view.scale = Math.min(view.scale, (0.7 * W) / wide, (0.7 * H) / high);
  hover = -1;
  fitted = false;
  settle();
  pin(i);
}

const ROWS = 100;
let largestFirst = true;
function fillTable() {
  const usable = order.slice(first).filter((i) => ranked[i] !== null);
  const listed = largestFirst ? usable.slice(-ROWS).reverse() : usable.slice(0, ROWS);
  $("order").textContent = `${ranked === km ? "error" : data.value} ${largestFirst ? "▼" : "▲"}`;
  $("order").parentElement.setAttribute("aria-sort", largestFirst ? "descending" : "ascending");
  $("rows").replaceChildren(...listed.map((i) => {
    const row = element("tr");
    row.dataset.point = i;
    if (i === pinned) row.className = "on";
    element("button", nameOf(i), element("td", undefined, row)).type = "button";
    element("td", rankText(ranked[i]), row);
    row.onclick = () => look(i);
    return row;
  }));
}
function filter() {
  const unknown = Math.max(0, order.findIndex((i) => ranked[i] !== null)), share = $("slider").value / 1000;
  // At the far left all points are shown, also those without a truth.
  const last = order.length - 1;
  first = share === 0 ? 0 : Math.min(last, unknown + Math.floor(share * (last + 1 - unknown)));
  const shown = (order.length - first).toLocaleString("en");
  $("filter-text").textContent = share === 0 ? `all ${shown} points` : `${shown} points of ${rankText(ranked[order[first]])} and more`;
  grid = null;
  fillTable();
  redraw();
}
function fillLegend() {
  for (const label of document.querySelectorAll(".truth")) label.hidden = !truth;
  const errors = km ? sortedOf(order.map((i) => km[i])) : [], count = order.length;
  $("summary").textContent = `${count.toLocaleString("en")}${data.splits && split !== "all" ? ` ${split}` : ""} point${count > 1 ? "s" : ""}` + (errors.length
    ? ` · median error ${distance(middle(errors))} · mean ${distance(errors.reduce((a, b) => a + b, 0) / errors.length)}` : "");
  $("scale").hidden = !scale;
  $("ticks").replaceChildren();
  if (scale) {
    $("scale-name").textContent = colored === km ? "error, logarithmic" : data.value;
    const ramp = $("ramp"), brush = ramp.getContext("2d");
    for (let i = 0; i < ramp.width; i++) { brush.fillStyle = rampColor(i / (ramp.width - 1)); brush.fillRect(i, 0, 1, ramp.height); }
    for (const t of [0, 0.5, 1]) {
      const v = scale.inverse(t);
      element("span", colored === km ? distance(Number(v.toPrecision(2))) : number(v, 3), $("ticks"));
    }
  }
  $("filter").hidden = $("worst").hidden = !ranked;
  if (ranked) filter();
}
function show(name) { // the points of one split, or all
  split = name;
  const all = points.map((_, i) => i);
  order = data.splits && name !== "all" ? all.filter((i) => data.splits[i] === name) : all;
  // Largest last, so that the worst lie on top and the filter is a cut through this list.
  if (ranked) order.sort((a, b) => (ranked[a] ?? -Infinity) - (ranked[b] ?? -Infinity));
  const known = colored ? sortedOf(order.map((i) => colored[i])) : [];
  scale = known.length ? colorScale(known, colored === km) : null;
  shade = points.map((_, i) => (scale && colored[i] !== null ? Math.round(scale.at(colored[i]) * (SHADES - 1)) : NO_SHADE));
  first = 0;
  $("slider").value = 0;
  hover = -1;
  pin(n === 1 ? 0 : -1);
  fillLegend();
}
function offerSplits() {
  const names = Object.keys(data.views);
  $("splits").hidden = names.length < 2;
  for (const name of names) element("option", name, $("split")).value = name;
  $("split").onchange = () => { show($("split").value); fit(); };
}

// ---- pointer and keys ---------------------------------------------------------------------------
const fingers = new Map();
let moved = 0;
const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (!fingers.size) moved = 0;
  fingers.set(event.pointerId, at(event));
};
canvas.onpointermove = (event) => {
  const [x, y] = at(event), old = fingers.get(event.pointerId);
  if (!old) {
    const i = pick(x, y);
    canvas.classList.toggle("hit", i >= 0);
    activate(i);
    return showTip(i);
  }
  const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
  fingers.set(event.pointerId, [x, y]);
  moved += Math.hypot(x - old[0], y - old[1]);
  if (moved < 4) return; // a click with a trembling hand
  showTip(-1);
  canvas.classList.add("drag");
  if (!others.length) return pan(x - old[0], y - old[1]);
  const [ox, oy] = others[0]; // pinch: the other finger stays where it is
  zoom(Math.hypot(x - ox, y - oy) / Math.max(1, Math.hypot(old[0] - ox, old[1] - oy)), ox, oy);
};
canvas.onpointerup = canvas.onpointercancel = (event) => {
  const [x, y] = at(event);
  if (event.type === "pointerup" && fingers.size === 1 && moved < 4) pin(pick(x, y));
  fingers.delete(event.pointerId);
  canvas.classList.remove("drag");
};
canvas.onpointerleave = () => { activate(-1); showTip(-1); };
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  showTip(-1);
  const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
  zoom(Math.exp(-Math.max(-240, Math.min(240, pixels)) / 300), ...at(event));
}, { passive: false });
canvas.ondblclick = (event) => zoom(2, ...at(event));
canvas.onkeydown = (event) => {
  const action = {
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit, Escape: () => pin(-1),
    ArrowLeft: () => pan(80, 0), ArrowRight: () => pan(-80, 0), ArrowUp: () => pan(0, 80), ArrowDown: () => pan(0, -80),
  }[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  action();
};
$("in").onclick = () => zoom(1.7);
$("out").onclick = () => zoom(1 / 1.7);
$("all").onclick = fit;
$("slider").oninput = filter;
$("order").onclick = () => { largestFirst = !largestFirst; fillTable(); };
for (const id of ["show-predicted", "show-truth", "show-lines"]) $(id).onchange = () => { grid = null; redraw(); };

// ---- start, and what follows the window ---------------------------------------------------------
function dress() { // colors from the style sheet, which knows light and dark
  const style = getComputedStyle(document.documentElement);
  theme = Object.fromEntries(["ink", "soft", "accent", "sea", "land", "border", "shore", "grid", "beyond", "halo"].map((key) => [key, style.getPropertyValue(`--${key}`).trim()]));
  sprites = Array.from({ length: SHADES + 1 }, (_, s) => sprite(s === NO_SHADE ? theme.accent : rampColor(s / (SHADES - 1)), theme.halo, dotSize, 1));
  ring = sprite(null, theme.ink, 0.85 * dotSize, 1);
  redraw();
}
function resize() {
  W = canvas.clientWidth;
  H = canvas.clientHeight;
  ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(W * ratio);
  canvas.height = Math.round(H * ratio);
  dress();
  if (fitted) fit();
  else settle();
  draw(); // at once: a canvas that has changed its size is empty
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
offerSplits();
show(split);
resize();
new ResizeObserver(resize).observe($("stage"));
