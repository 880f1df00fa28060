"use strict";
// Draws the data of this page on a canvas. World coordinates are Web Mercator: x and y in 0..1, y down;
// x may leave 0..1, since the world repeats. One world is shown, the one around the middle of the view.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const { points, truth, labels, details, distance_km: km, radius_m: radius } = data;
  const n = points.length, EARTH_KM = 6371.0088, RAD = Math.PI / 180, LIMIT = 85.05113;
  const RAMP = ["#2477b3", "#52a9b8", "#f2c14e", "#ee7a3a", "#c3203f"], SHADES = 32;
  const colourOf = data.value ? details[data.value] : km;
  const ranked = km && km.some((d) => d !== null) ? km : colourOf;
  const rankName = ranked === km ? "error" : data.value;
  const canvas = $("map"), pen = canvas.getContext("2d");

  // ---- geometry -----------------------------------------------------------------------------------
  const worldX = (lon) => lon / 360 + 0.5;
  const worldY = (lat) => {
    const s = Math.sin(Math.max(-LIMIT, Math.min(LIMIT, lat)) * RAD);
    return 0.5 - Math.log((1 + s) / (1 - s)) / (4 * Math.PI);
  };
  const latitude = (y) => Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) / RAD;
  const vector = ([lat, lon]) => [
    Math.cos(lat * RAD) * Math.cos(lon * RAD), Math.cos(lat * RAD) * Math.sin(lon * RAD), Math.sin(lat * RAD)];
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  const along = (a, b, s, t) => [a[0] * s + b[0] * t, a[1] * s + b[1] * t, a[2] * s + b[2] * t];
  const unit = (a) => { const l = Math.sqrt(dot(a, a)); return l < 1e-9 ? null : along(a, a, 1 / l, 0); };
  const place = (v) => [Math.atan2(v[2], Math.hypot(v[0], v[1])) / RAD, Math.atan2(v[1], v[0]) / RAD];

  // Vertices in world coordinates without jumps: every x is within half a world of the one before.
  function track(path) {
    const xy = new Float64Array(2 * path.length);
    let low = Infinity, high = -Infinity, top = Infinity, bottom = -Infinity;
    path.forEach(([lat, lon], i) => {
      let x = worldX(lon);
      const y = worldY(lat);
      if (i) x -= Math.round(x - xy[2 * i - 2]);
      xy[2 * i] = x; xy[2 * i + 1] = y;
      low = Math.min(low, x); high = Math.max(high, x);
      top = Math.min(top, y); bottom = Math.max(bottom, y);
    });
    return { xy, low, high, top, bottom };
  }
  function greatCircle(from, to) {
    const a = vector(from), b = vector(to);
    const c = dot(a, b), angle = Math.atan2(Math.sqrt(Math.max(0, dot(along(b, a, 1, -c), along(b, a, 1, -c)))), c);
    const steps = Math.max(1, Math.ceil(angle / RAD / 2));
    if (steps === 1) return [from, to];
    // Antipodes give no direction: over the pole, as in the Python that writes the GeoJSON.
    const ahead = unit(along(b, a, 1, -c)) || unit(along([0, 0, 1], a, 1, -a[2])) || [1, 0, 0];
    const path = [from];
    for (let i = 1; i < steps; i++) {
      const t = (angle * i) / steps;
      path.push(place(along(a, ahead, Math.cos(t), Math.sin(t))));
    }
    path.push(to);
    return path;
  }
  function circle(centre, metres) {
    const c = vector(centre), r = Math.min(metres / 1000 / EARTH_KM, Math.PI);
    const east = [-Math.sin(centre[1] * RAD), Math.cos(centre[1] * RAD), 0];
    const north = [c[1] * east[2] - c[2] * east[1], c[2] * east[0] - c[0] * east[2], c[0] * east[1] - c[1] * east[0]];
    const path = [];
    for (let i = 0; i <= 120; i++) {
      const side = along(east, north, Math.cos((i * Math.PI) / 60), Math.sin((i * Math.PI) / 60));
      path.push(place(along(c, side, Math.cos(r), Math.sin(r))));
    }
    return track(path);
  }

  // ---- text and colour ----------------------------------------------------------------------------
  const number = (v, digits = 4) => Number(v.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits });
  const distance = (d) => d >= 100 ? `${Math.round(d).toLocaleString("en")} km` : d >= 1 ? `${number(d, 3)} km` : `${number(d * 1000, 3)} m`;
  const degrees = (v, sides, digits) => `${Math.abs(v).toFixed(digits)}°${v > 1e-9 ? sides[0] : v < -1e-9 ? sides[1] : ""}`;
  const name = (i) => labels ? labels[i] : `row ${i}`;
  const rankText = (v) => ranked === km ? distance(v) : number(v);
  const mix = (t) => {
    const at = Math.max(0, Math.min(1, t)) * (RAMP.length - 1), i = Math.min(RAMP.length - 2, Math.floor(at));
    const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
    return `rgb(${[0, 1, 2].map((k) => Math.round(part(RAMP[i], k) + (part(RAMP[i + 1], k) - part(RAMP[i], k)) * (at - i)))})`;
  };
  let low = 0, high = 1;
  const log = colourOf === km;
  const known = colourOf ? colourOf.filter((v) => v !== null).sort((a, b) => a - b) : [];
  if (known.length) {
    low = known[Math.floor(0.02 * (known.length - 1))];
    high = known[Math.ceil(0.98 * (known.length - 1))];
    if (log) { low = Math.max(low, high / 1e4, 1e-6); high = Math.max(high, 10 * low); }
    else if (high <= low) high = low + 1;
  }
  const position = (v) => log ? Math.log(Math.max(v, 1e-9) / low) / Math.log(high / low) : (v - low) / (high - low);
  const shade = new Int16Array(n).fill(-1); // -1: nothing known
  if (known.length) colourOf.forEach((v, i) => { if (v !== null) shade[i] = Math.round(Math.max(0, Math.min(1, position(v))) * (SHADES - 1)); });
  const shades = Array.from({ length: SHADES }, (_, i) => mix(i / (SHADES - 1)));

  // ---- what is drawn ------------------------------------------------------------------------------
  const px = Float64Array.from(points, (p) => worldX(p[1])), py = Float64Array.from(points, (p) => worldY(p[0]));
  const has = (i) => truth && truth[i][0] !== null;
  const tx = new Float64Array(n), ty = new Float64Array(n), lines = new Array(n).fill(null);
  for (let i = 0; i < n; i++) if (has(i)) {
    tx[i] = worldX(truth[i][1]); ty[i] = worldY(truth[i][0]);
    lines[i] = track(greatCircle(truth[i], points[i]));
  }
  const borders = data.outlines.map((polygon) => polygon.map((ring) => track(ring)));
  // The worst come last, so that they lie on top.
  const order = Array.from({ length: n }, (_, i) => i);
  if (ranked) order.sort((a, b) => (ranked[a] ?? -Infinity) - (ranked[b] ?? -Infinity));
  const size = n > 5000 ? 2.5 : n > 500 ? 3.5 : 5;
  const view = { x: 0.5, y: 0.5, scale: 1 };
  const show = { predicted: true, truth: true, lines: true };
  let W = 0, H = 0, ratio = 1, theme = {}, sprites = {}, first = 0, hover = -1, pinned = -1, grid = null, asked = false;

  const sx = (x) => (x - view.x) * view.scale + W / 2;
  const sy = (y) => (y - view.y) * view.scale + H / 2;
  const near = (x) => x - Math.round(x - view.x); // the copy in the shown world

  function fit() {
    const [west, south, east, north] = data.view;
    const top = worldY(north), bottom = worldY(south), wide = (east - west) / 360, high = bottom - top;
    const pad = Math.min(56, 0.12 * Math.min(W, H));
    view.x = worldX((west + east) / 2); view.y = (top + bottom) / 2;
    view.scale = Math.min((W - 2 * pad) / Math.max(wide, 1e-9), (H - 2 * pad) / Math.max(high, 1e-9));
    settle();
  }
  function settle() {
    view.scale = Math.max(0.95 * Math.min(W, H), Math.min(2 ** 31, view.scale));
    view.x -= Math.floor(view.x);
    const half = H / 2 / view.scale;
    view.y = half >= 0.5 ? 0.5 : Math.max(half, Math.min(1 - half, view.y));
    grid = null;
    redraw();
  }
  function zoom(factor, x = W / 2, y = H / 2) {
    const wx = view.x + (x - W / 2) / view.scale, wy = view.y + (y - H / 2) / view.scale;
    view.scale = Math.max(0.95 * Math.min(W, H), Math.min(2 ** 31, view.scale * factor));
    view.x = wx - (x - W / 2) / view.scale; view.y = wy - (y - H / 2) / view.scale;
    settle();
  }
  function redraw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }

  // A dot is drawn once for each colour and then copied: twenty thousand copies are cheap, arcs are not.
  function sprite(fill, stroke, r, width) {
    const s = document.createElement("canvas"), half = Math.ceil((r + width) * ratio) + 1;
    s.width = s.height = 2 * half;
    const p = s.getContext("2d");
    p.arc(half, half, r * ratio, 0, 7);
    if (fill) { p.fillStyle = fill; p.fill(); }
    p.lineWidth = width * ratio; p.strokeStyle = stroke; p.stroke();
    return { s, half: half / ratio, side: (2 * half) / ratio };
  }
  const stamp = (k, x, y) => pen.drawImage(k.s, x - k.half, y - k.half, k.side, k.side);

  function trace(t) { // all copies of a track that reach into the view
    const west = Math.max(view.x - 0.5, view.x - W / 2 / view.scale), east = Math.min(view.x + 0.5, view.x + W / 2 / view.scale);
    if (sy(t.bottom) < -20 || sy(t.top) > H + 20) return;
    for (let k = Math.ceil(west - t.high); k <= Math.floor(east - t.low); k++) {
      pen.moveTo(sx(t.xy[0] + k), sy(t.xy[1]));
      for (let j = 2; j < t.xy.length; j += 2) pen.lineTo(sx(t.xy[j] + k), sy(t.xy[j + 1]));
    }
  }
