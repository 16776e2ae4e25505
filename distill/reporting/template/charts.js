"use strict";

const MARGIN = { left: 58, right: 16, top: 12, bottom: 42 };
const TIME_UNITS = [[1, "s", 180], [60, "min", 3 * 3600], [3600, "h", 3 * 86400], [86400, "days", Infinity]];

/** About `count` round numbers from `low` to `high`, and the number of decimals to show. */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-6);
  const last = Math.floor(high / step + 1e-6);
  const values = Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => (first + index) * step);
  const digits = [0, 1, 2, 3, 4, 5, 6].find((d) => Math.abs(step * 10 ** d - Math.round(step * 10 ** d)) < 1e-6 * 10 ** d * step) ?? 6;
  return { values, digits };
}

const timeUnit = (seconds) => TIME_UNITS.find(([, , limit]) => seconds <= limit);

/**
 * A line chart. `series`: [{name, colour, dash, steps, seconds, values}]. A series with `level` is drawn as a horizontal line at
 * its last value. `marks`: [{name, step, seconds}], drawn as vertical lines. Returns {figure, draw}; `draw(axis)` takes "step"
 * or "seconds".
 */
function lineChart({ title, unit, series, marks = [], format }) {
  const curves = series.filter((one) => !one.level);
  const values = series.map(() => h("span", { class: "value" }));
  const place = h("span", { class: "place" });
  const spoken = h("span", { class: "unseen", "aria-live": "polite" });
  const legend = h(
    "ul",
    { class: "legend" },
    series.map((one, index) =>
      h("li", {}, swatch(one), h("span", {}, one.name), " ", values[index]),
    ),
  );
  const svg = s("svg", { tabindex: 0, role: "img" });
  const figure = h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("strong", {}, title), unit ? ` in ${unit}` : "", place),
    legend,
    svg,
    numbers(title, series, format),
    spoken,
  );
  let axis = "step";
  let cursor = null;

  const xs = (one) => (axis === "step" ? one.steps : one.seconds);

  function show() {
    series.forEach((one, index) => {
      const at = one.level || cursor === null ? one.values.length - 1 : nearest(xs(one), cursor);
      values[index].textContent = format(one.values[at]);
    });
    const last = Math.max(...curves.map((one) => xs(one).at(-1)));
    place.textContent = `${cursor === null ? "last: " : ""}${describe(cursor ?? last)}`;
  }

  const describe = (x) => (axis === "step" ? `step ${fixed(x, 0)}` : clockText(x));

  function draw(newAxis = axis) {
    if (newAxis !== axis) cursor = null;
    axis = newAxis;
    const width = Math.max(240, figure.clientWidth);
    const height = clamp(width * 0.5, 210, 290);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", summary());
    const scale = scales(width, height);
    svg.replaceChildren(...frame(scale, width, height), ...markLines(scale, width, height), ...series.map((one) => line(one, scale, width)));
    svg.append(cursorLine(scale, height));
    svg.onpointermove = (event) => {
      const x = event.clientX - svg.getBoundingClientRect().left;
      moveTo(scale.invert(x), scale, height);
    };
    svg.onpointerleave = () => moveTo(null, scale, height);
    svg.onkeydown = (event) => onKey(event, scale, height);
    svg.onblur = () => moveTo(null, scale, height);
    show();
  }

  function summary() {
    const parts = curves.map((one) => {
      const known = one.values.filter((value) => value !== null);
      return `${one.name} from ${format(known[0])} to ${format(known.at(-1))}`;
    });
    return `${title}${unit ? ` in ${unit}` : ""}: ${parts.join("; ")}. Arrow keys read single points.`;
  }

  function scales(width, height) {
    const right = Math.max(...curves.map((one) => xs(one).at(-1)), 1e-9);
    const shown = series.flatMap((one) => (one.level ? [one.values.at(-1)] : one.values)).filter((value) => value !== null);
    let [low, high] = [Math.min(...shown), Math.max(...shown)];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.02 || 1;
    low = low >= 0 && low - room < 0 ? 0 : low - room;
    high += room;
    const inner = width - MARGIN.left - MARGIN.right;
    return {
      x: (value) => MARGIN.left + (value / right) * inner,
      invert: (x) => clamp(((x - MARGIN.left) / inner) * right, 0, right),
      y: (value) => height - MARGIN.bottom - ((value - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom),
      low,
      high,
      right,
    };
  }

  function frame(scale, width, height) {
    const y = ticks(scale.low, scale.high, 5);
    const [size, name] = axis === "step" ? [1, ""] : timeUnit(scale.right);
    const x = ticks(0, scale.right / size, width < 420 ? 4 : 7);
    const whole = axis === "step" ? x.values.filter(Number.isInteger) : x.values;
    const bottom = height - MARGIN.bottom;
    return [
      ...y.values.map((value) =>
        s(
          "g",
          { class: "tick" },
          s("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: scale.y(value), y2: scale.y(value) }),
          s("text", { x: MARGIN.left - 8, y: scale.y(value) + 4, "text-anchor": "end" }, fixed(value, y.digits)),
        ),
      ),
      ...whole.map((value) =>
        s(
          "g",
          { class: "tick" },
          s("line", { x1: scale.x(value * size), x2: scale.x(value * size), y1: bottom, y2: bottom + 5 }),
          s("text", { x: scale.x(value * size), y: bottom + 19, "text-anchor": anchor(scale.x(value * size), width) }, fixed(value, axis === "step" ? 0 : x.digits)),
        ),
      ),
      s("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
      s(
        "text",
        { class: "axis-name", x: width - MARGIN.right, y: height - 6, "text-anchor": "end" },
        axis === "step" ? "training steps" : `training time in ${name}`,
      ),
    ];
  }

  function markLines(scale, width, height) {
    return marks.map((mark) => {
      const x = scale.x(axis === "step" ? mark.step : mark.seconds);
      const label = x > width / 2 ? { x: x - 4, "text-anchor": "end" } : { x: x + 4 };
      return s(
        "g",
        { class: "mark" },
        s("line", { x1: x, x2: x, y1: MARGIN.top, y2: height - MARGIN.bottom }),
        s("text", { ...label, y: MARGIN.top + 10 }, `stage ${mark.name}`),
      );
    });
  }

  function line(one, scale, width) {
    const style = { class: `curve ${one.colour}`, "stroke-dasharray": one.dash };
    if (one.level) {
      const y = scale.y(one.values.at(-1));
      return s("g", {}, s("line", { ...style, x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }));
    }
    const points = xs(one)
      .map((x, index) => [scale.x(x), one.values[index]])
      .filter(([, value]) => value !== null)
      .map(([x, value]) => [x.toFixed(1), scale.y(value).toFixed(1)]);
    const dots = points.length <= 12 ? points.map(([cx, cy]) => s("circle", { class: `dot ${one.colour}`, cx, cy, r: 3.2 })) : [];
    return s("g", {}, s("polyline", { ...style, points: points.map((point) => point.join(",")).join(" ") }), dots);
  }

  function cursorLine(scale, height) {
    const group = s("g", { class: "cursor" });
    if (cursor !== null) {
      const x = scale.x(cursor);
      group.append(s("line", { x1: x, x2: x, y1: MARGIN.top, y2: height - MARGIN.bottom }));
      for (const one of curves) {
        const at = nearest(xs(one), cursor);
        if (one.values[at] !== null) {
          group.append(s("circle", { class: `dot ${one.colour}`, cx: scale.x(xs(one)[at]), cy: scale.y(one.values[at]), r: 4.5 }));
        }
      }
    }
    return group;
  }

  function moveTo(x, scale, height) {
    // Snaps to the nearest measured point.
    const points = curves.map((one) => xs(one)[nearest(xs(one), x ?? 0)]);
    cursor = x === null ? null : points.reduce((best, point) => (Math.abs(point - x) < Math.abs(best - x) ? point : best));
    svg.lastChild.replaceWith(cursorLine(scale, height));
    show();
  }

  function onKey(event, scale, height) {
    const points = [...new Set(curves.flatMap((one) => xs(one)))].sort((a, b) => a - b);
    const now = cursor === null ? points.length - 1 : points.indexOf(cursor);
    const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: points.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    moveTo(points[clamp(next, 0, points.length - 1)], scale, height);
    spoken.textContent = `${place.textContent}: ${series.map((one, index) => `${one.name} ${values[index].textContent}`).join("; ")}`;
  }

  return { figure, draw };
}

/** A label close to the right edge ends at its tick: centred, it would leave the chart. */
const anchor = (x, width) => (x > width - MARGIN.right - 24 ? "end" : "middle");

function nearest(sorted, x) {
  let best = 0;
  sorted.forEach((value, index) => {
    if (Math.abs(value - x) <= Math.abs(sorted[best] - x)) best = index;
  });
  return best;
}

function clockText(seconds) {
  const [size, name] = timeUnit(seconds);
  return size === 1 ? `${fixed(seconds, 0)} s` : `${fixed(seconds / size, 1)} ${name}`;
}

function swatch(one) {
  return s(
    "svg",
    { width: 26, height: 10, "aria-hidden": "true" },
    s("line", { class: `curve ${one.colour}`, "stroke-dasharray": one.dash, x1: 1, x2: 25, y1: 5, y2: 5 }),
  );
}

/** The chart's values as tables, built when first opened. */
function numbers(title, series, format) {
  const details = h("details", { class: "numbers" }, h("summary", {}, "Numbers"));
  details.addEventListener(
    "toggle",
    () => {
      const groups = new Map();
      for (const one of series) groups.set(one.steps, [...(groups.get(one.steps) ?? []), one]);
      for (const [steps, group] of groups) {
        const rows = steps.map((step, index) => [
          fixed(step, 0),
          clockText(group[0].seconds[index]),
          ...group.map((one) => format(one.values[index])),
        ]);
        details.append(table(`${title}, numbers`, ["step", "time", ...group.map((one) => one.name)], rows));
      }
    },
    { once: true },
  );
  return details;
}
