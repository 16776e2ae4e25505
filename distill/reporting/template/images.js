"use strict";

const MANY = 30;
const LISTED = 12;
// Of images that the teacher changes little, a share can be far below zero. Bars and the histogram end here, in percent.
const LOWEST = -100;

/** The gain of each image that has a sharp one. */
function gainSection(run) {
  const { images } = run;
  if (!images.length) return null;
  const which = run.toTeacher === null ? "" : " that has a sharp original";
  const worse = images.filter((image) => image.gain < 0);
  const names = listed(worse, (image) => `${image.name} (${signed(image.gain, 2)} dB)`);
  const sentence = worse.length
    ? `${worse.length} of ${images.length} images got worse than their blurry input: ${names}.`
    : `None of ${images.length} images got worse.`;
  const every = ["image", "blurry, dB", "student, dB", "teacher, dB", "gain, dB", "SSIM of student"];
  const rows = images.map((image) => [
    image.name,
    ...ROWS.map((row) => fixed(image.scores[row]?.psnr, 2)),
    signed(image.gain, 2),
    fixed(image.scores.student?.ssim, 4),
  ]);
  const shown = images.map(({ name, gain, teacherGain }) => ({
    name,
    value: gain,
    mark: teacherGain,
    text: `${signed(gain, 2)} dB`,
    markText: teacherGain === null ? null : ` teacher ${signed(teacherGain, 2)}`,
  }));
  return section(
    "Image by image",
    `How many dB the student gains over the blurry input on each validation image${which}, the worst first.`,
    h("p", { class: worse.length ? "finding bad" : "finding" }, sentence),
    images.length <= MANY
      ? bars(shown)
      : histogram({
          values: images.map((image) => image.gain),
          caption: " by gain in dB",
          axis: "gain of the student in dB",
          describe: (count, low, high, median) =>
            `Histogram of ${count} gains, from ${fixed(low, 2)} to ${fixed(high, 2)} dB, median ${fixed(median, 2)} dB`,
          tick: signed,
        }),
    h("details", {}, h("summary", {}, "All images as a table"), table("Scores of all images", every, rows, { class: "figures" })),
  );
}

/** What the student reproduces of the teacher’s correction on each image without a sharp one. */
function followedSection(run) {
  const { followed } = run;
  const images = followed.filter((image) => image.reproduced !== null);
  if (!followed.length) return null;
  const head = ["image", "reproduced", "blurry to teacher, dB", "student to teacher, dB", "SSIM of student to teacher"];
  const rows = followed.map((image) => [
    image.name,
    percent(image.reproduced, 1),
    ...["blurry", "student"].map((row) => fixed(image.scores[row]?.psnr, 2)),
    fixed(image.scores.student?.ssim, 4),
  ]);
  const values = images.map((image) => Math.max(LOWEST, 100 * image.reproduced));
  const shown = images.map(({ name, reproduced }, index) => ({ name, value: values[index], mark: null, text: percent(reproduced, 1) }));
  const clipped = images.some((image) => 100 * image.reproduced < LOWEST);
  return section(
    "What the student reproduces, image by image",
    "How much of the teacher’s correction the student makes too on each validation photograph without a sharp original, the least first." +
      " It does not say whether the teacher’s correction is right.",
    followedFindings(followed, images),
    images.length === 0 ? null : images.length <= MANY ? bars(shown, 100) : histogram({
      values,
      caption: " by reproduced share in %",
      axis: "reproduced share of the teacher’s correction in %",
      describe: (count, low, high, median) => `Histogram of ${count} shares, from ${fixed(low, 1)} to ${fixed(high, 1)} %, median ${fixed(median, 1)} %`,
      tick: fixed,
    }),
    clipped ? h("p", { class: "small" }, `Shares below ${fixed(LOWEST, 0)} % are drawn as ${fixed(LOWEST, 0)} %.`) : null,
    h("details", {}, h("summary", {}, "All images as a table"), table("What is reproduced of all images", head, rows, { class: "figures" })),
  );
}

function followedFindings(followed, images) {
  const farther = images.filter((image) => image.reproduced <= 0);
  const names = listed(farther, (image) => `${image.name} (${percent(image.reproduced, 1)})`);
  const unchanged = followed.filter((image) => image.reproduced === null);
  const than = "to the teacher’s picture than the blurry input";
  const sentence = farther.length
    ? `On ${farther.length} of ${images.length} images the student is no closer ${than}: ${names}.`
    : `The student is closer ${than} on each of ${images.length} images.`;
  return [
    images.length ? h("p", { class: farther.length ? "finding bad" : "finding" }, sentence) : null,
    unchanged.length ? h("p", {}, `The teacher changes nothing on ${listed(unchanged, (image) => image.name)}.`) : null,
  ];
}

const listed = (images, text) =>
  images.slice(0, LISTED).map(text).join(", ") + (images.length > LISTED ? ` and ${images.length - LISTED} more` : "");

/**
 * A bar for each image, all with one zero. `images`: [{name, value, text, mark: the teacher’s value or null, markText}]. A bar of
 * the value `reach` fits.
 */
function bars(images, reach = 0) {
  const all = [...images.flatMap((image) => [image.value, image.mark ?? 0]), 0, reach];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const at = (value) => `${(100 * (value - low)) / (high - low || 1)}%`;
  const width = (value) => `${(100 * Math.abs(value)) / (high - low || 1)}%`;
  const hasTeacher = images.some((image) => image.mark !== null);
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
          s("rect", { class: `bar-fill ${image.value < 0 ? "worse" : "student"}`, x: at(Math.min(0, image.value)), y: 4, width: width(image.value), height: 16, rx: 2 }),
          image.mark === null
            ? null
            : s("rect", { class: "bar-fill teacher", x: at(image.mark), y: 1, width: 4, height: 22, transform: "translate(-2 0)" }),
          s("line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: 24 }),
        ),
        h("span", { class: "gain-value" }, image.text, image.mark === null ? null : h("small", {}, image.markText)),
      ),
    ),
  );
}

/** A histogram with a bin edge at zero. `values` ascend. `describe(count, low, high, median)` is what a screen reader says. */
function histogram({ values, caption, axis, describe, tick }) {
  const [low, high] = [Math.min(...values, 0), Math.max(...values, 0)];
  const size = ticks(low, high, 20).values.slice(0, 2).reduce((one, other) => other - one, 0) || 1;
  const first = Math.floor(low / size);
  const counts = Array.from({ length: Math.max(1, Math.ceil(high / size) - first) }, () => 0);
  for (const value of values) counts[clamp(Math.floor(value / size) - first, 0, counts.length - 1)] += 1;
  const figure = h("figure", { class: "chart histogram" }, h("figcaption", {}, h("strong", {}, "Number of images"), caption));
  const label = describe(values.length, values[0], values.at(-1), values[values.length >> 1]);
  const svg = s("svg", { role: "img", "aria-label": label });
  figure.append(svg);
  function draw() {
    const [width, height] = [Math.max(240, figure.clientWidth), 220];
    const [inner, top] = [width - MARGIN.left - MARGIN.right, Math.max(...counts)];
    const bottom = height - MARGIN.bottom;
    const y = (count) => bottom - (count / top) * (bottom - MARGIN.top);
    const x = (value) => MARGIN.left + ((value / size - first) / counts.length) * inner;
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
      ...across.values.map((value) => s("g", { class: "tick" }, s("text", { x: x(value), y: bottom + 19, "text-anchor": "middle" }, tick(value, across.digits)))),
      s("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
      s("text", { class: "axis-name", x: width - MARGIN.right, y: height - 6, "text-anchor": "end" }, axis),
    );
  }
  REDRAWN.push(draw);
  return figure;
}
