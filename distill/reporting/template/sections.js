"use strict";

const ROWS = ["blurry", "student", "teacher"];
const DASH = { blurry: "2 4", teacher: "9 5", student: null, sharp: "9 4 2 4" };
const RUN_DASHES = [null, "6 3", "9 4 2 4", "3 2"];

function heading(content) {
  const single = content.runs.length === 1;
  const run = content.runs[0];
  return h(
    "header",
    {},
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
  const { scores, toTeacher } = run;
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
    toTeacher === null || toTeacher.reproduced === null
      ? null
      : tile("Teacher’s correction reproduced", percent(toTeacher.reproduced, 0), "", closer(toTeacher)),
    run.time === null ? null : tile("Training time", run.time, "", `${fixed(run.steps, 0)} steps, ${fixed(run.imagesPerS, 1)} images/s`),
    tile("Size of the student", compact(run.parameters), "", `parameters${run.teacherParameters ? `, teacher ${compact(run.teacherParameters)}` : ""}`),
  );
}

const closer = ({ scores }) => `PSNR to the teacher’s pictures: ${fixed(scores.blurry?.psnr, 2)} to ${fixed(scores.student?.psnr, 2)} dB`;

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

function scoreSections(run) {
  const parts = [];
  if (Object.keys(run.scores).length) parts.push(section("Scores", SCORES_EXPLAINED, scoreTable(run)));
  if (run.toTeacher !== null) parts.push(section("How closely the student follows the teacher", TO_TEACHER_EXPLAINED, toTeacherTable(run)));
  return parts;
}

const rowName = (row) => h("span", { class: `key ${row}` }, row === "blurry" ? "blurry input" : row);

function toTeacherTable(run) {
  const { scores, reproduced } = run.toTeacher;
  const rows = ["blurry", "student"].filter((row) => scores[row]).map((row) => [
    rowName(row),
    percent(row === "student" || reproduced === null ? reproduced : 0, 1),
    fixed(scores[row].psnr, 2),
    fixed(scores[row].ssim, 4),
    ...furtherScores([scores]).map((measure) => fixed(scores[row][measure], digitsOf(measure))),
  ]);
  const head = ["", "reproduced", "PSNR to teacher, dB", "SSIM to teacher", ...furtherScores([scores]).map((measure) => `${titleOf(measure)} to teacher`)];
  return [
    table("Closeness to the teacher’s pictures", head, rows, { class: "figures" }),
    h("p", { class: "small" }, `${sourceOf(run)}.`),
  ];
}

const sourceOf = (run) => (run.scoresStep === null ? "From evaluation.csv" : `Measured at step ${fixed(run.scoresStep, 0)}`);

function scoreTable(run) {
  const { scores } = run;
  const rows = ROWS.filter((row) => scores[row]).map((row) => [
    rowName(row),
    withGain(scores, row, "psnr", 2),
    withGain(scores, row, "ssim", 4),
    ...furtherScores([scores]).map((measure) => withGain(scores, row, measure, digitsOf(measure))),
  ]);
  return [
    table("Scores on the validation images", ["", "PSNR, dB", "SSIM", ...furtherScores([scores]).map(titleOf)], rows, { class: "figures" }),
    h("p", { class: "small" }, `${sourceOf(run)}; ${BELOW}.`),
  ];
}

/** The names of the scores beside PSNR and SSIM; each run's scores are {row: {name: value}}. */
const furtherScores = (runs) =>
  [...new Set(runs.flatMap((scores) => Object.values(scores).flatMap(Object.keys)))].filter((measure) => measure !== "psnr" && measure !== "ssim");
const digitsOf = (measure) => (measure.startsWith("psnr") ? 2 : 4);
const titleOf = (measure) => (measure.startsWith("psnr") ? `${measure}, dB` : ["lpips_vgg", "dists"].includes(measure) ? `${measure}, lower is better` : measure);

const BELOW = "small figures are the gain over the blurry input";
const SCORES_EXPLAINED =
  "How close each picture is to the sharp original, on average over validation images that were not trained on. PSNR measures the" +
  " error of the pixels: 1 dB more is about 11 % less error. SSIM measures likeness of structure, 1 being equal.";
const TO_TEACHER_EXPLAINED =
  "On average over validation photographs of which nobody has sharp originals. The teacher corrects the blurry input; the share that" +
  " is reproduced says how much of this correction the student makes too: 100 % is the teacher’s picture, and 0 % is as far from it as" +
  " the blurry input. PSNR and SSIM compare with the teacher’s picture. None of this says which picture is better.";

function trainingCharts(runs) {
  const charts = runs.length === 1 ? chartsOfOne(runs[0]) : chartsOfSeveral(runs);
  const averaged = Math.max(...runs.map((run) => run.curves.train.averaged));
  if (!charts.length) return null;
  let axis = "step";
  REDRAWN.push(() => charts.forEach((chart) => chart.draw(axis)));
  return section(
    "Training",
    `${followsOnly(runs) ? FOLLOWING : SCORED} Point at a curve, or use the arrow keys, to read it.`,
    bar("Horizontal axis", "axis", [["step", "Steps"], ["seconds", "Time"]], "step", (value) => {
      axis = value;
      charts.forEach((chart) => chart.draw(axis));
    }),
    h("div", { class: "charts" }, charts.map((chart) => chart.figure)),
    averaged > 1 ? h("p", { class: "small" }, `Each point of the losses and the speed is the mean of ${averaged} logged ones.`) : null,
  );
}

const SCORED = "How the loss fell, how the validation scores rose, and how fast it went.";
const FOLLOWING = "The loss, how closely the student follows the teacher on the validation photographs, and the speed.";

/** Whether no run was compared with sharp images. */
const followsOnly = (runs) => runs.some((run) => run.toTeacher !== null) && !runs.some((run) => Object.keys(run.scores).length);

const TERMS = [
  ["loss", "loss, weighted sum", "ink", null],
  ["l1", "l1, to the sharp image", "sharp", DASH.sharp],
  ["kd", "kd, to the teacher’s", "teacher", DASH.teacher],
  ["vgg", "vgg, of features", "extra", "3 3"],
];
/** Charts of validations: [measure, title, unit, how a value is written]. */
const SHOWN = [
  ["psnr", "Validation PSNR", "dB", (value) => fixed(value, 2)],
  ["ssim", "Validation SSIM", "", (value) => fixed(value, 4)],
];
const shownOf = (runs) => [
  ...SHOWN,
  ...furtherScores(runs.map((run) => run.scores)).map((measure) => [measure, `Validation ${titleOf(measure)}`, "", (value) => fixed(value, digitsOf(measure))]),
];

const REPRODUCED = ["reproduced", "Teacher’s correction reproduced", "%", (value) => fixed(value, 1)];
const TO_TEACHER = ["to_teacher_psnr", "PSNR to the teacher’s pictures", "dB", (value) => fixed(value, 2)];

function curve(part, key, look, scale = 1) {
  const values = part.values[key]?.map((value) => (value === null ? null : scale * value));
  return values ? { ...look, steps: part.step, seconds: part.seconds, values } : null;
}

function chartsOfOne(run) {
  const { train, val, stages } = run.curves;
  const make = (title, unit, format, series) => {
    const found = series.filter((one) => one !== null);
    return found.some((one) => !one.level) ? lineChart({ title, unit, series: found, marks: stages, format }) : null;
  };
  const scores = ([measure, ...about]) =>
    make(
      ...about,
      ["teacher", "student", "blurry"].map((row) =>
        curve(val, `${row}_${measure}`, { name: row, colour: row, dash: DASH[row], level: row !== "student" }),
      ),
    );
  const [reproduced, ...about] = REPRODUCED;
  return [
    make("Loss on training crops", "", significant, TERMS.map(([key, name, colour, dash]) => curve(train, key, { name, colour, dash }))),
    ...shownOf([run]).map(scores),
    make(...about, [curve(val, reproduced, { name: "student", colour: "student", dash: null }, 100)]),
    scores(TO_TEACHER),
    make("Speed", "images per second", (value) => fixed(value, 1), [curve(train, "images_per_s", { name: "training", colour: "student", dash: null })]),
  ].filter((chart) => chart !== null);
}

function chartsOfSeveral(runs) {
  const look = (run, index) => ({ name: run.label, colour: run.look, dash: RUN_DASHES[index % RUN_DASHES.length] });
  const over = (title, unit, format, part, key, levels = [], scale = 1) => {
    const series = runs.map((run, index) => curve(run.curves[part], key, look(run, index), scale)).filter((one) => one !== null);
    return series.length ? lineChart({ title, unit, series: [...series, ...levels], format }) : null;
  };
  const scores = ([measure, ...about]) => over(...about, "val", `student_${measure}`, sharedLevels(runs, `_${measure}`));
  const [reproduced, ...about] = REPRODUCED;
  return [
    ...shownOf(runs).map(scores),
    over(...about, "val", reproduced, [], 100),
    scores(TO_TEACHER),
    ...TERMS.map(([key, name]) => over(name[0].toUpperCase() + name.slice(1), "", significant, "train", key)),
    over("Speed", "images per second", (value) => fixed(value, 1), "train", "images_per_s"),
  ].filter((chart) => chart !== null);
}

/** Horizontal lines for the blurry input and the teacher, each only if all runs that have a score of this kind have the same. */
function sharedLevels(runs, ending) {
  const drawn = runs.filter((run) => run.curves.val.values[`student${ending}`]);
  return ["teacher", "blurry"]
    .map((row) => {
      const ends = drawn.map((run) => run.curves.val.values[row + ending]?.at(-1));
      const same = drawn.length && ends.every((value) => value !== undefined && value !== null && Math.abs(value - ends[0]) < 5e-4);
      return same ? curve(drawn[0].curves.val, row + ending, { name: row, colour: row, dash: DASH[row], level: true }) : null;
    })
    .filter((one) => one !== null);
}

/** The columns of a comparison's results: [title, the run's cell, whether a run has one]. Columns that no run has are left out. */
const COLUMNS = [
  ["PSNR, dB", (run) => withGain(run.scores, "student", "psnr", 2), (run) => run.scores.student],
  ["SSIM", (run) => withGain(run.scores, "student", "ssim", 4), (run) => run.scores.student],
  ["teacher’s gain", shareCell, (run) => run.scores.student],
  ["reproduced", reproducedCell, (run) => run.toTeacher],
  ["steps", (run) => fixed(run.steps, 0), () => true],
  ["time", (run) => run.time ?? MISSING, () => true],
  ["images/s", (run) => fixed(run.imagesPerS, 1), () => true],
  ["parameters", (run) => compact(run.parameters), () => true],
];

function shareCell(run) {
  const [share, of] = [shareOf(run.scores), gainOf(run.scores, "teacher")];
  return share === null ? MISSING : [`${fixed(100 * share, 0)} %`, h("small", { class: "below" }, `of ${signed(of, 2)} dB`)];
}

function reproducedCell({ toTeacher }) {
  if (toTeacher === null) return MISSING;
  return [percent(toTeacher.reproduced, 1), h("small", { class: "below" }, `to teacher ${fixed(toTeacher.scores.student?.psnr, 2)} dB`)];
}

function comparison(content) {
  const { runs, differences } = content;
  const further = furtherScores(runs.map((run) => run.scores)).map((measure) => [
    titleOf(measure),
    (run) => withGain(run.scores, "student", measure, digitsOf(measure)),
    (run) => run.scores.student,
  ]);
  const columns = [...COLUMNS.slice(0, 2), ...further, ...COLUMNS.slice(2)];
  const found = columns.filter(([, , has]) => runs.some(has));
  // Runs that have no scores at all yet: the columns of ordinary ones.
  const shown = runs.some((run) => run.scores.student || run.toTeacher) ? found : columns.filter(([title]) => title !== "reproduced");
  const rows = runs.map((run) => {
    const state = { complete: "complete", unfinished: "not finished", empty: "no steps yet" }[run.status.kind];
    return [[run.label, h("small", { class: "below" }, state)], ...shown.map(([, cell]) => cell(run))];
  });
  const [follows, scored] = [runs.some((run) => run.toTeacher !== null), !followsOnly(runs)];
  const explanation = [scored ? SCORES_EXPLAINED : null, follows ? TO_TEACHER_EXPLAINED : null].filter((text) => text !== null);
  const changed = differences.map((row) => [row.key, ...row.values.map((value) => (value === "" ? MISSING : value))]);
  return [
    section(
      "Results",
      explanation[0],
      explanation.slice(1).map((text) => h("p", { class: "explanation" }, `“Reproduced”: ${text[0].toLowerCase()}${text.slice(1)}`)),
      table("Results of the runs", ["run", ...shown.map(([title]) => title)], rows, { class: "figures" }),
      h("p", { class: "small" }, `Of each run’s last validation${scored ? `; ${BELOW}` : ""}.`),
    ),
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
