"use strict";
// Geometry, numbers and colors of the map; map_draw.js draws with them. World coordinates are Web Mercator: x and y
// in 0..1, y down. A track's x may leave 0..1, since the world repeats. Points are [latitude, longitude].
const EARTH_KM = 6371.0088, RAD = Math.PI / 180, EDGE = 85.051129;

const worldX = (lon) => lon / 360 + 0.5;
const worldY = (lat) => 0.5 - Math.asinh(Math.tan(Math.max(-EDGE, Math.min(EDGE, lat)) * RAD)) / (2 * Math.PI);
const latitudeAt = (y) => Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) / RAD;

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const blend = (a, s, b, t) => [a[0] * s + b[0] * t, a[1] * s + b[1] * t, a[2] * s + b[2] * t];
const vector = ([lat, lon]) => {
  const ring = Math.cos(lat * RAD);
  return [ring * Math.cos(lon * RAD), ring * Math.sin(lon * RAD), Math.sin(lat * RAD)];
};
const place = (v) => [Math.atan2(v[2], Math.hypot(v[0], v[1])) / RAD, Math.atan2(v[1], v[0]) / RAD];

// Vertices in world coordinates and their bounds. With `join`, every x is within half a world of the one before.
function track(path, join) {
  const xy = new Float64Array(2 * path.length);
  let west = Infinity, east = -Infinity, top = Infinity, bottom = -Infinity;
  for (let i = 0; i < path.length; i++) {
    let x = worldX(path[i][1]);
    const y = worldY(path[i][0]);
    if (join && i) x -= Math.round(x - xy[2 * i - 2]);
    xy[2 * i] = x;
    xy[2 * i + 1] = y;
    west = Math.min(west, x);
    east = Math.max(east, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  return { xy, west, east, top, bottom };
}

// A line in Google's encoded polyline format with two decimals, as decode_line in world.py.
function decodeLine(text) {
  const path = [], at = [0, 0];
  let value = 0, shift = 0, axis = 0;
  for (let i = 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 63;
    value |= (digit & 31) << shift;
    shift += 5;
    if (digit >= 32) continue;
    at[axis] += value & 1 ? ~(value >> 1) : value >> 1;
    if (axis) path.push([at[0] / 100, at[1] / 100]);
    axis = 1 - axis;
    value = shift = 0;
  }
  return path;
}
// What of a ring of land is coast, and not a cut along the antimeridian or at the pole: as coasts in world.py.
function coasts(ring) {
  const pieces = [[ring[0]]];
  for (let i = 1; i < ring.length; i++) {
    const [a, b] = [ring[i - 1], ring[i]];
    if ((Math.abs(a[1]) === 180 && Math.abs(b[1]) === 180) || (a[0] === -90 && b[0] === -90)) pieces.push([]);
    pieces[pieces.length - 1].push(b);
  }
  return pieces.filter((piece) => piece.length > 1);
}

// As great_circle_path in paths.py: steps of 2 degrees at most, over the north pole between antipodes.
function greatCircle(from, to) {
  const a = vector(from), b = vector(to);
  let ahead = blend(b, 1, a, -dot(a, b)), length = Math.sqrt(dot(ahead, ahead));
  const angle = Math.atan2(length, dot(a, b)), steps = Math.max(1, Math.ceil(angle / RAD / 2));
  if (steps === 1) return [from, to];
  for (const goal of [[0, 0, 1], [1, 0, 0]]) {
    if (length > 1e-9) break;
    ahead = blend(goal, 1, a, -dot(a, goal));
    length = Math.sqrt(dot(ahead, ahead));
  }
  const path = [from];
  for (let i = 1; i < steps; i++) {
    const t = (angle * i) / steps;
    path.push(place(blend(a, Math.cos(t), ahead, Math.sin(t) / length)));
  }
  path.push(to);
  return path;
}

// The points `meters` away from a center, once around.
function circleAround(center, meters) {
  const r = Math.min(meters / 1000 / EARTH_KM, Math.PI), path = [];
  const [lat, lon] = [center[0] * RAD, center[1] * RAD];
  const north = [-Math.sin(lat) * Math.cos(lon), -Math.sin(lat) * Math.sin(lon), Math.cos(lat)];
  const east = [-Math.sin(lon), Math.cos(lon), 0];
  for (let i = 0; i <= 120; i++) {
    const turn = (i * Math.PI) / 60;
    path.push(place(blend(vector(center), Math.cos(r), blend(north, Math.cos(turn), east, Math.sin(turn)), Math.sin(r))));
  }
  return path;
}

const number = (v, digits = 4) => v.toLocaleString("en", { maximumSignificantDigits: Math.abs(v) >= 10 ** digits ? Math.ceil(Math.log10(Math.abs(v))) : digits });
const distance = (km) => (km >= 1 ? `${number(km, 3)} km` : `${number(km * 1000, 3)} m`);
const degrees = (v, sides, digits) => `${Math.abs(v).toFixed(digits)}°${v > 0 ? sides[0] : v < 0 ? sides[1] : ""}`;
const middle = (sorted) => (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;

// Small to large error; style.py has the same colors.
const RAMP = ["#2477b3", "#52a9b8", "#f2c14e", "#ee7a3a", "#c3203f"];
function rampColor(t) {
  const at = Math.max(0, Math.min(1, t)) * (RAMP.length - 1), i = Math.min(RAMP.length - 2, Math.floor(at));
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  const channel = (k) => Math.round(part(RAMP[i], k) * (i + 1 - at) + part(RAMP[i + 1], k) * (at - i));
  return `rgb(${channel(0)}, ${channel(1)}, ${channel(2)})`;
}

// From a sorted list of numbers: the ends of the color scale and v -> 0..1. Errors spread over decades.
function colorScale(sorted, log) {
  let low = sorted[Math.floor(0.02 * (sorted.length - 1))], high = sorted[Math.ceil(0.98 * (sorted.length - 1))];
  if (log) {
    high = Math.max(high, 1e-6);
    low = Math.max(low, high / 1e4);
    if (high < 10 * low) low = high / 10;
  } else if (high <= low) high = low + 1;
  const at = log ? (v) => Math.log(Math.max(v, 1e-9) / low) / Math.log(high / low) : (v) => (v - low) / (high - low);
  const inverse = log ? (t) => low * (high / low) ** t : (t) => low + t * (high - low);
  return { at: (v) => Math.max(0, Math.min(1, at(v))), inverse };
}

// The first of a list of steps that is at least `least`, for graticule and scale bar.
const DEGREE_STEPS = [45, 30, 20, 10, 5, 2, 1];
function degreeStep(least) {
  const whole = DEGREE_STEPS.filter((step) => step >= least).pop();
  return least > 1 ? whole || 45 : niceStep(least, false);
}
function niceStep(limit, down) {
  const power = 10 ** Math.floor(Math.log10(limit) + 1e-12);
  const steps = [1, 2, 5, 10].map((k) => k * power);
  return down ? steps.filter((step) => step <= limit * (1 + 1e-9)).pop() : steps.find((step) => step >= limit * (1 - 1e-9));
}
