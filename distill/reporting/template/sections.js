"use strict";

const ROWS = ["blurry", "student", "teacher"];
const DASH = { blurry: "2 4", teacher: "9 5", student: null, sharp: "9 4 2 4" };
const RUN_DASHES = [null, "6 3", "9 4 2 4", "3 2"];
const MANY = 30;
const LISTED = 12;

function heading(content) {
  const single = content.runs.length === 1;
  const run = content.runs[0];
  return h(
    "header",
    { class: "top" },
    h("p", { class: "eyebrow" }, single ? "Training report" : "Comparison of training runs"),
    h("h1", {}, content.title),
    single ? h("p", { class: "lead" }, run.lead.replaceAll("U-Net", "U\u2011Net")) : h("p", { class: "lead" }, content.runs.map((one) => one.label).join(", ")),
    single ? h("p", { class: `status ${run.status.kind}` }, run.status.text) : null,
    single ? tiles(run) : null,
  );
}

function gainOf(scores, row, measure = "psnr") {
  const [one, other] = [scores[row]?.[measure], scores.blurry?.[measure]];
  return one === undefined || one === null || other === undefined || other === null ? null : one - other;
}

/** The student's gain divided by the teacher's; null if one is unknown or the teacher gains nothing. */
function shareOf(scores) {
  const [student, teacher] = [gainOf(scores, "student"), gainOf(scores, "teacher")];
  return student === null || teacher === null || teacher <= 0 ? null : student / teacher;
}

function tiles(run) {
  const { scores } = run;
  const [gain, share] = [gainOf(scores, "student"), shareOf(scores)];
  const tile = (name, value, unit, text) =>
    h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, h("span", { class: "number" }, value), unit ? ` ${unit}` : "", h("small", {}, text)));
  return h(
    "dl",
    { class: "tiles" },
    gain === null
      ? null
      : tile("Gain over the blurry input", signed(gain, 2), "dB", `PSNR ${fixed(scores.blurry.psnr, 2)} to ${fixed(scores.student.psnr, 2)} dB`),
    share === null
      ? null
      : tile("Share of the teacher’s gain", fixed(100 * share, 0), "%", `the teacher gains ${signed(gainOf(scores, "teacher"), 2)} dB`),
    run.time === null ? null : tile("Training time", run.time, "", `${fixed(run.steps, 0)} steps, ${fixed(run.imagesPerS, 1)} images/s`),
    tile("Size of the student", compact(run.parameters), "", `parameters${run.teacherParameters ? `, teacher ${compact(run.teacherParameters)}` : ""}`),
  );
}

function remarks(run, named) {
  const title = (text) => (named ? `${run.label}: ${text}` : text);
  const check = run.teacherCheck;
  return [
    run.warnings.map((text) => callout("warning", title("Warning."), text)),
    check === null
      ? null
      : callout(check.kind, title({ good: "Teacher check passed.", warning: "Warning.", unknown: "Teacher check." }[check.kind]), check.text),
    run.notes.map((text) => callout("note", title("Note."), text)),
  ];
}

/** A mean score, and below it its gain over the blurry input. */
function withGain(scores, row, measure, digits) {
  const [value, gain] = [scores[row]?.[measure], gainOf(scores, row, measure)];
  return [fixed(value, digits), row === "blurry" || gain === null ? null : h("small", { class: "below" }, signed(gain, digits))];
}

function scoreTable(run) {
  const { scores } = run;
  const rows = ROWS.filter((row) => scores[row]).map((row) => [
    h("span", { class: `key ${row}` }, { blurry: "blurry input", student: "student", teacher: "teacher" }[row]),
    withGain(scores, row, "psnr", 2),
    withGain(scores, row, "ssim", 4),
  ]);
  const source = run.scoresStep === null ? "From evaluation.csv" : `Measured at step ${fixed(run.scoresStep, 0)}`;
  return [
    table("Scores on the validation images", ["", "PSNR, dB", "SSIM"], rows, { class: "figures" }),
    h("p", { class: "small" }, `${source}; ${BELOW}.`),
  ];
}

const BELOW = "small figures are the gain over the blurry input";
const SCORES_EXPLAINED =
  "How close each picture is to the sharp original, on average over validation images that were not trained on. PSNR measures the" +
  " error of the pixels: 1 dB more is about 11 % less error. SSIM measures likeness of structure, 1 being equal.";

function gainSection(run) {
  const { images } = run;
  if (!images.length) return null;
  const worse = images.filter((image) => image.gain < 0);
  const listed = worse.slice(0, LISTED).map((image) => `${image.name} (${signed(image.gain, 2)} dB)`);
  const more = worse.length > LISTED ? ` and ${worse.length - LISTED} more` : "";
  const sentence = worse.length
    ? `${worse.length} of ${images.length} images got worse than their blurry input: ${listed.join(", ")}${more}.`
    : `None of ${images.length} images got worse.`;
  const every = ["image", "blurry, dB", "student, dB", "teacher, dB", "gain, dB", "SSIM of student"];
  const rows = images.map((image) => [
    image.name,
    ...ROWS.map((row) => fixed(image.scores[row]?.psnr, 2)),
    signed(image.gain, 2),
    fixed(image.scores.student?.ssim, 4),
  ]);
  return section(
    "Image by image",
    "How many dB the student gains over the blurry input on each validation image, the worst first.",
    h("p", { class: worse.length ? "finding bad" : "finding" }, sentence),
    images.length <= MANY ? gainBars(images) : histogram(images),
    h("details", {}, h("summary", {}, "All images as a table"), table("Scores of all images", every, rows, { class: "figures" })),
  );
}

function gainBars(images) {
  const all = images.flatMap((image) => [image.gain, image.teacherGain ?? 0, 0]);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const at = (value) => `${(100 * (value - low)) / (high - low || 1)}%`;
  const width = (value) => `${(100 * Math.abs(value)) / (high - low || 1)}%`;
  const hasTeacher = images.some((image) => image.teacherGain !== null);
  return h(
    "div",
    { class: "gains" },
    h(
      "ul",
      { class: "legend" },
      h("li", {}, h("span", { class: "box student" }), "student"),
      hasTeacher ? h("li", {}, h("span", { class: "box teacher" }), "teacher") : null,
    ),
    images.map((image) =>
      h(
        "div",
        { class: "gain" },
        h("span", { class: "gain-name", title: image.name }, image.name),
        s(
          "svg",
          { class: "gain-bar", "aria-hidden": "true" },
          s("rect", { class: "track", x: 0, y: 11, width: "100%", height: 2 }),
          s("rect", { class: `bar-fill ${image.gain < 0 ? "worse" : "student"}`, x: at(Math.min(0, image.gain)), y: 4, width: width(image.gain), height: 16, rx: 2 }),
          image.teacherGain === null
            ? null
            : s("rect", { class: "bar-fill teacher", x: at(image.teacherGain), y: 1, width: 4, height: 22, transform: "translate(-2 0)" }),
          s("line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: 24 }),
        ),
        h(
          "span",
          { class: "gain-value" },
          `${signed(image.gain, 2)} dB`,
          image.teacherGain === null ? null : h("small", {}, ` teacher ${signed(image.teacherGain, 2)}`),
        ),
      ),
    ),
  );
}

/** A histogram of the gains, with a bin edge at zero. */
function histogram(images) {
  const gains = images.map((image) => image.gain);
  const [low, high] = [Math.min(...gains, 0), Math.max(...gains, 0)];
  const size = ticks(low, high, 20).values.slice(0, 2).reduce((one, other) => other - one, 0) || 1;
  const first = Math.floor(low / size);
  const counts = Array.from({ length: Math.max(1, Math.ceil(high / size) - first) }, () => 0);
  for (const gain of gains) counts[clamp(Math.floor(gain / size) - first, 0, counts.length - 1)] += 1;
  const figure = h("figure", { class: "chart histogram" }, h("figcaption", {}, h("strong", {}, "Number of images"), " by gain in dB"));
  const label = `Histogram of ${gains.length} gains, from ${fixed(gains[0], 2)} to ${fixed(gains.at(-1), 2)} dB, median ${fixed(gains[gains.length >> 1], 2)} dB`;
  const svg = s("svg", { role: "img", "aria-label": label });
  figure.append(svg);
  function draw() {
    const [width, height] = [Math.max(240, figure.clientWidth), 220];
    const [inner, top] = [width - MARGIN.left - MARGIN.right, Math.max(...counts)];
    const bottom = height - MARGIN.bottom;
    const y = (count) => bottom - (count / top) * (bottom - MARGIN.top);
    const x = (gain) => MARGIN.left + ((gain / size - first) / counts.length) * inner;
    const vertical = ticks(0, top, 4);
    const across = ticks(first * size, (first + counts.length) * size, width < 420 ? 4 : 8);
    Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` }).forEach(([name, value]) => svg.setAttribute(name, value));
    svg.replaceChildren(
      ...vertical.values.filter(Number.isInteger).map((count) =>
        s(
          "g",
          { class: "tick" },
          s("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(count), y2: y(count) }),
          s("text", { x: MARGIN.left - 8, y: y(count) + 4, "text-anchor": "end" }, fixed(count, 0)),
        ),
      ),
      ...counts.map((count, index) => {
        const left = x((first + index) * size);
        const kind = first + index < 0 ? "worse" : "student";
        return s("rect", { class: `bar-fill ${kind}`, x: left + 1, y: y(count), width: Math.max(1, inner / counts.length - 2), height: bottom - y(count) });
      }),
      ...across.values.map((gain) => s("g", { class: "tick" }, s("text", { x: x(gain), y: bottom + 19, "text-anchor": "middle" }, signed(gain, across.digits)))),
      s("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
      s("text", { class: "axis-name", x: width - MARGIN.right, y: height - 6, "text-anchor": "end" }, "gain of the student in dB"),
    );
  }
  REDRAWN.push(draw);
  return figure;
}

function trainingCharts(runs) {
  const charts = runs.length === 1 ? chartsOfOne(runs[0]) : chartsOfSeveral(runs);
  const averaged = Math.max(...runs.map((run) => run.curves.train.averaged));
  if (!charts.length) return null;
  let axis = "step";
  REDRAWN.push(() => charts.forEach((chart) => chart.draw(axis)));
  return section(
    "Training",
    "How the loss fell, how the validation scores rose, and how fast it went. Point at a curve, or use the arrow keys, to read it.",
    bar("Horizontal axis", "axis", [["step", "Steps"], ["seconds", "Time"]], "step", (value) => {
      axis = value;
      charts.forEach((chart) => chart.draw(axis));
    }),
    h("div", { class: "charts" }, charts.map((chart) => chart.figure)),
    averaged > 1 ? h("p", { class: "small" }, `Each point of the losses and the speed is the mean of ${averaged} logged ones.`) : null,
  );
}

const TERMS = [
  ["loss", "loss, weighted sum", "ink", null],
  ["l1", "l1, to the sharp image", "sharp", DASH.sharp],
  ["kd", "kd, to the teacher’s", "teacher", DASH.teacher],
  ["vgg", "vgg, of features", "extra", "3 3"],
];
const SHOWN = [
  ["psnr", "Validation PSNR", "dB", (value) => fixed(value, 2)],
  ["ssim", "Validation SSIM", "", (value) => fixed(value, 4)],
];

function curve(part, key, look) {
  const values = part.values[key];
  return values ? { ...look, steps: part.step, seconds: part.seconds, values } : null;
}

function chartsOfOne(run) {
  const { train, val, stages } = run.curves;
  const make = (title, unit, series, format) => {
    const found = series.filter((one) => one !== null);
    return found.some((one) => !one.level) ? lineChart({ title, unit, series: found, marks: stages, format }) : null;
  };
  return [
    make("Loss on training crops", "", TERMS.map(([key, name, colour, dash]) => curve(train, key, { name, colour, dash })), (value) => significant(value)),
    ...SHOWN.map(([measure, title, unit, format]) =>
      make(
        title,
        unit,
        ["teacher", "student", "blurry"].map((row) =>
          curve(val, `${row}_${measure}`, { name: row, colour: row, dash: DASH[row], level: row !== "student" }),
        ),
        format,
      ),
    ),
    make("Speed", "images per second", [curve(train, "images_per_s", { name: "training", colour: "student", dash: null })], (value) => fixed(value, 1)),
  ].filter((chart) => chart !== null);
}

function chartsOfSeveral(runs) {
  const look = (run, index) => ({ name: run.label, colour: `run${index % 6}`, dash: RUN_DASHES[index % RUN_DASHES.length] });
  const over = (title, unit, part, key, format, levels = []) => {
    const series = runs.map((run, index) => curve(run.curves[part], key, look(run, index))).filter((one) => one !== null);
    return series.length ? lineChart({ title, unit, series: [...series, ...levels], format }) : null;
  };
  return [
    ...SHOWN.map(([measure, title, unit, format]) => over(title, unit, "val", `student_${measure}`, format, sharedLevels(runs, measure))),
    ...TERMS.map(([key, name]) => over(name[0].toUpperCase() + name.slice(1), "", "train", key, (value) => significant(value))),
    over("Speed", "images per second", "train", "images_per_s", (value) => fixed(value, 1)),
  ].filter((chart) => chart !== null);
}

/** Horizontal lines for the blurry input and the teacher, each only if all runs have the same score. */
function sharedLevels(runs, measure) {
  return ["teacher", "blurry"]
    .map((row) => {
      const ends = runs.map((run) => run.curves.val.values[`${row}_${measure}`]?.at(-1));
      const same = ends.every((value) => value !== undefined && value !== null && Math.abs(value - ends[0]) < 5e-4);
      return same ? curve(runs[0].curves.val, `${row}_${measure}`, { name: row, colour: row, dash: DASH[row], level: true }) : null;
    })
    .filter((one) => one !== null);
}

function comparison(content) {
  const { runs, differences } = content;
  const rows = runs.map((run) => {
    const [share, of] = [shareOf(run.scores), gainOf(run.scores, "teacher")];
    const state = { complete: "complete", unfinished: "not finished", empty: "no steps yet" }[run.status.kind];
    return [
      [run.label, h("small", { class: "below" }, state)],
      withGain(run.scores, "student", "psnr", 2),
      withGain(run.scores, "student", "ssim", 4),
      share === null ? MISSING : [`${fixed(100 * share, 0)} %`, h("small", { class: "below" }, `of ${signed(of, 2)} dB`)],
      fixed(run.steps, 0),
      run.time ?? MISSING,
      fixed(run.imagesPerS, 1),
      compact(run.parameters),
    ];
  });
  const head = ["run", "PSNR, dB", "SSIM", "teacher’s gain", "steps", "time", "images/s", "parameters"];
  const changed = differences.map((row) => [row.key, ...row.values.map((value) => (value === "" ? MISSING : value))]);
  return [
    section("Results", SCORES_EXPLAINED, table("Results of the runs", head, rows, { class: "figures" }), h("p", { class: "small" }, `Of each run’s last validation; ${BELOW}.`)),
    section(
      "Where the configurations differ",
      differences.length ? "Everything else is the same in all runs." : "Nowhere, but for the folder that each run writes.",
      differences.length ? table("Differences of the configurations", ["key", ...runs.map((run) => run.label)], changed, { class: "settings" }) : null,
    ),
  ];
}

function setup(run, named) {
  return section(
    named ? `What was trained: ${run.label}` : "What was trained",
    null,
    named ? h("p", { class: "explanation" }, run.status.text) : null,
    h("dl", { class: "facts" }, run.facts.map(([topic, text]) => h("div", {}, h("dt", {}, topic), h("dd", {}, text)))),
    h("details", {}, h("summary", {}, "Complete configuration"), h("pre", { tabindex: 0, "aria-label": "Configuration in YAML" }, run.config)),
  );
}
