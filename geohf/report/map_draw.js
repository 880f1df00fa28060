// The canvas: what is shown, where, and how it is drawn. map_panel.js moves it and tells about points.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const { points, truth, labels, details, distance_km: km, radius_m: radius, headings, regions, thumbnails } = data;
const n = points.length, SHADES = 32, NO_SHADE = SHADES;
const canvas = $("map"), pen = canvas.getContext("2d");

// What colors the points, and what ranks them in filter and table: the error where there is one.
const colored = data.value ? details[data.value] : km;
const ranked = km && km.some((d) => d !== null) ? km : data.value ? colored : null;
const sortedOf = (list) => list.filter((v) => v !== null).sort((a, b) => a - b);
const rankText = (v) => (ranked === km ? distance(v) : number(v));
const nameOf = (i) => (labels ? labels[i] : `row ${i}`);
const hasTruth = (i) => truth !== null && truth[i][0] !== null;

// Of the split that is shown, see show() in map_panel.js.
let split = Object.keys(data.views)[0], scale = null, shade = [], order = [], first = 0;

const px = points.map((p) => worldX(p[1])), py = points.map((p) => worldY(p[0]));
const tx = points.map((_, i) => (hasTruth(i) ? worldX(truth[i][1]) : NaN));
const ty = points.map((_, i) => (hasTruth(i) ? worldY(truth[i][0]) : NaN));
const lines = points.map((p, i) => (hasTruth(i) ? track(greatCircle(truth[i], p), true) : null));
const borders = data.outlines.map((polygon) => polygon.map((ring) => track(ring, false)));
const layer = (name, lines) => data.world[name].map((outline) => outline.map(decodeLine).flatMap(lines).map((line) => track(line, false)));
const whole = (line) => [line];
const world = { land: layer("land", whole), coasts: layer("land", coasts).flat(), lakes: layer("lakes", whole), countries: layer("countries", whole).flat(), states: layer("states", whole).flat() };

// ---- view ---------------------------------------------------------------------------------------
const view = { x: 0.5, y: 0.5, scale: 1 }; // middle in world coordinates, pixels a world
let W = 0, H = 0, ratio = 1, theme = {}, sprites = [], ring = null, asked = false, grid = null;
let hover = -1, pinned = -1, fitted = true; // fitted: nobody has moved the view since fit()
const sx = (x) => (x - view.x) * view.scale + W / 2;
const sy = (y) => (y - view.y) * view.scale + H / 2;
const near = (x) => x - Math.round(x - view.x); // the copy in the world that is shown, the one around the middle
const least = () => 0.95 * Math.min(W, H);

function settle() {
  view.scale = Math.max(least(), Math.min(2 ** 32, view.scale));
  view.x -= Math.floor(view.x);
  const half = H / 2 / view.scale;
  view.y = half >= 0.5 ? 0.5 : Math.max(half, Math.min(1 - half, view.y));
  grid = null;
  redraw();
}
function fit() {
  fitted = true;
  const [west, south, east, north] = data.views[split], pad = Math.min(56, 0.12 * Math.min(W, H));
  const top = worldY(north), bottom = worldY(south);
  view.x = worldX((west + east) / 2);
  view.y = (top + bottom) / 2;
  view.scale = Math.min((W - 2 * pad) / Math.max((east - west) / 360, 1e-9), (H - 2 * pad) / Math.max(bottom - top, 1e-9));
  settle();
}
function zoom(factor, x = W / 2, y = H / 2) {
  const before = view.scale;
  fitted = false;
  view.scale = Math.max(least(), Math.min(2 ** 32, view.scale * factor));
  const shift = 1 / before - 1 / view.scale;
  view.x += (x - W / 2) * shift;
  view.y += (y - H / 2) * shift;
  settle();
}
function pan(dx, dy) {
  fitted = false;
  view.x -= dx / view.scale;
  view.y -= dy / view.scale;
  settle();
}
function redraw() {
  if (!asked) requestAnimationFrame(() => { asked = false; draw(); });
  asked = true;
}

// ---- drawing ------------------------------------------------------------------------------------
const dotSize = n > 5000 ? 2.5 : n > 500 ? 3.5 : 5;
// A dot is drawn once for each color and then copied: twenty thousand copies are cheap, arcs are not.
function sprite(fill, stroke, r, width) {
  const image = document.createElement("canvas"), half = Math.ceil((r + width) * ratio) + 1;
  image.width = image.height = 2 * half;
  const brush = image.getContext("2d");
  brush.arc(half, half, r * ratio, 0, 7);
  if (fill) { brush.fillStyle = fill; brush.fill(); }
  brush.lineWidth = width * ratio;
  brush.strokeStyle = stroke;
  brush.stroke();
  return { image, half: half / ratio };
}
function stamp({ image, half }, x, y) { // on whole pixels, where it stays sharp
  if (x < -half || x > W + half || y < -half || y > H + half) return;
  pen.drawImage(image, Math.round((x - half) * ratio) / ratio, Math.round((y - half) * ratio) / ratio, 2 * half, 2 * half);
}
function trace({ xy, west, east, top, bottom }) { // every copy of a track that reaches into the shown world
  if (sy(bottom) < 0 || sy(top) > H) return;
  const reach = Math.min(0.5, W / 2 / view.scale);
  for (let k = Math.ceil(view.x - reach - east); k <= Math.floor(view.x + reach - west); k++) {
    pen.moveTo(sx(xy[0] + k), sy(xy[1]));
    for (let j = 2; j < xy.length; j += 2) pen.lineTo(sx(xy[j] + k), sy(xy[j + 1]));
  }
}
function stroke(tracks, color, width) {
  pen.beginPath();
  tracks.forEach(trace);
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.stroke();
}
const colorOf = (i) => (shade[i] === NO_SHADE ? theme.accent : rampColor(shade[i] / (SHADES - 1)));

function draw() {
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.lineJoin = "round";
  pen.fillStyle = theme.beyond;
  pen.fillRect(0, 0, W, H);
  clipToWorld();
  drawWorld();
  const marks = graticule();
  for (const polygon of borders) stroke(polygon, theme.soft, 1);
  pen.restore();
  labelGraticule(marks); // under the points, or a label at the edge would hide one
  clipToWorld();
  const shown = order.slice(first);
  if ($("show-lines").checked) {
    pen.globalAlpha = Math.max(0.15, Math.min(0.75, 12 / Math.sqrt(n)));
    const groups = Array.from({ length: SHADES + 1 }, () => []);
    for (const i of shown) if (lines[i]) groups[shade[i]].push(i);
    for (const group of groups) if (group.length) stroke(group.map((i) => lines[i]), colorOf(group[0]), n > 2000 ? 0.8 : 1.3);
    pen.globalAlpha = 1;
  }
  if ($("show-truth").checked && truth) for (const i of shown) if (hasTruth(i)) stamp(ring, sx(near(tx[i])), sy(ty[i]));
  if ($("show-predicted").checked) {
    if (headings) arrows(shown);
    for (const i of shown) stamp(sprites[shade[i]], sx(near(px[i])), sy(py[i]));
  }
  const active = hover >= 0 ? hover : pinned;
  if (active >= 0) highlight(active);
  pen.restore();
  scaleBar();
}
function clipToWorld() {
  pen.save();
  pen.beginPath();
  pen.rect(sx(view.x - 0.5), sy(0), view.scale, view.scale);
  pen.clip();
}
function arrows(shown) { // which way the camera looked; north is up
  const length = 4 * dotSize, wing = 1.4 * dotSize;
  pen.beginPath();
  for (const i of shown) {
    if (headings[i] === null) continue;
    const x = sx(near(px[i])), y = sy(py[i]), a = headings[i] * RAD;
    const tip = [x + length * Math.sin(a), y - length * Math.cos(a)];
    pen.moveTo(x, y);
    pen.lineTo(...tip);
    for (const turn of [2.6, -2.6]) {
      pen.moveTo(...tip);
      pen.lineTo(tip[0] + wing * Math.sin(a + turn), tip[1] - wing * Math.cos(a + turn));
    }
  }
  pen.strokeStyle = theme.ink;
  pen.lineWidth = 1.5;
  pen.stroke();
}
function drawWorld() { // where the map is wide enough for its outlines
  const wide = (360 * W) / view.scale >= data.narrowest;
  pen.fillStyle = wide ? theme.sea : theme.land;
  pen.fillRect(0, 0, W, H);
  if (!wide) return;
  for (const [polygons, color] of [[world.land, theme.land], [world.lakes, theme.sea]]) {
    for (const polygon of polygons) {
      pen.beginPath();
      polygon.forEach(trace);
      pen.fillStyle = pen.strokeStyle = color;
      pen.lineWidth = 0.5;
      pen.fill("evenodd");
      pen.stroke(); // or the cut at the antimeridian would show
    }
  }
  pen.setLineDash([3, 2]);
  stroke(world.states, theme.border, 0.6);
  pen.setLineDash([]);
  stroke(world.countries, theme.border, 0.9);
  stroke(world.coasts, theme.shore, 0.7);
  for (const polygon of world.lakes) stroke(polygon, theme.shore, 0.5);
}
function highlight(i) {
  const meters = Array.isArray(radius) ? radius[i] : radius;
  if (hasRegions(i)) drawRegions(i);
  else if (meters) {
    pen.setLineDash([6, 4]);
    stroke([track(circleAround(points[i], meters), true)], theme.ink, 1.5);
    pen.setLineDash([]);
  }
  if (lines[i]) {
    stroke([lines[i]], theme.halo, 5);
    stroke([lines[i]], theme.ink, 2);
    stamp(sprite(theme.halo, theme.ink, dotSize + 1, 2.5), sx(near(tx[i])), sy(ty[i]));
  }
  stamp(sprite(colorOf(i), theme.ink, dotSize + 3, 2.5), sx(near(px[i])), sy(py[i]));
}
const hasRegions = (i) => regions !== null && Object.keys(regions[i]).length > 0;
function drawRegions(i) { // the wide one first, so that the narrow one lies darker on it
  pen.fillStyle = theme.ink;
  for (const percent of Object.keys(regions[i]).sort((a, b) => b - a)) {
    for (const polygon of regions[i][percent]) {
      pen.globalAlpha = 0.16;
      pen.beginPath();
      polygon.forEach((ring) => trace(track(ring, false)));
      pen.fill("evenodd");
      pen.globalAlpha = 1;
      stroke(polygon.flatMap(coasts).map((line) => track(line, false)), theme.ink, 1);
    }
  }
}
function graticule() {
  const step = degreeStep((110 * 360) / view.scale), digits = Math.max(0, Math.ceil(-Math.log10(step) - 1e-9));
  const marks = { step, digits, x: [], y: [] }, reach = Math.min(0.5, W / 2 / view.scale);
  const low = 360 * (view.x - 0.5 - reach), high = 360 * (view.x - 0.5 + reach);
  for (let k = Math.ceil(low / step); k * step <= high; k++) marks.x.push([k * step, sx(worldX(k * step))]);
  const south = latitudeAt(Math.min(1, view.y + H / 2 / view.scale)), north = latitudeAt(Math.max(0, view.y - H / 2 / view.scale));
  for (let k = Math.ceil(south / step); k * step <= north; k++) marks.y.push([k * step, sy(worldY(k * step))]);
  pen.beginPath();
  for (const [, x] of marks.x) { pen.moveTo(x, 0); pen.lineTo(x, H); }
  for (const [, y] of marks.y) { pen.moveTo(0, y); pen.lineTo(W, y); }
  pen.strokeStyle = theme.grid;
  pen.lineWidth = 1;
  pen.stroke();
  return marks;
}
function text(words, x, y, align) {
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = align;
  pen.textBaseline = "middle";
  pen.strokeStyle = theme.halo;
  pen.lineWidth = 3;
  pen.strokeText(words, x, y);
  pen.fillStyle = theme.soft;
  pen.fillText(words, x, y);
}
function labelGraticule({ digits, x, y }) {
  const wrapped = (lon) => lon - 360 * Math.round(lon / 360);
  for (const [lon, at] of x) if (at > 66 && at < W - 60) text(degrees(wrapped(lon), Math.abs(wrapped(lon)) === 180 ? "  " : "EW", digits), at, 12, "center");
  for (const [lat, at] of y) if (at > 24 && at < H - 12) text(degrees(lat, "NS", digits), W - 8, at, "right");
}
function scaleBar() {
  const kmPerPixel = (2 * Math.PI * EARTH_KM * Math.cos(latitudeAt(view.y) * RAD)) / view.scale;
  const length = niceStep(130 * kmPerPixel, true), wide = length / kmPerPixel, x = 14, y = H - 14;
  for (const [color, width] of [[theme.halo, 5], [theme.ink, 2]]) {
    pen.beginPath();
    pen.moveTo(x, y - 6);
    pen.lineTo(x, y);
    pen.lineTo(x + wide, y);
    pen.lineTo(x + wide, y - 6);
    pen.strokeStyle = color;
    pen.lineWidth = width;
    pen.stroke();
  }
  text(distance(length), x + wide / 2, y - 10, "center");
}
