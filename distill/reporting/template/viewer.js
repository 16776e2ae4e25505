"use strict";

const ZOOMS = [["2", "2×"], ["4", "4×"], ["8", "8×"]];

/** Shows blurry, student, teacher and, if there is one, sharp: two of them with a divider between, and a magnified detail of each. */
function viewer({ pictures, pictureNotes, webpQuality }) {
  const state = { picture: pictures[0], ...firstSides(pictures[0]), zoom: 4, x: 0.33, y: 0.36 };
  const under = h("img", { class: "layer", alt: "", draggable: "false" });
  const over = h("img", { class: "layer over", alt: "", draggable: "false" });
  const leftBadge = h("span", { class: "badge left", "aria-hidden": "true" });
  const rightBadge = h("span", { class: "badge right", "aria-hidden": "true" });
  const target = h("div", {
    class: "target",
    tabindex: 0,
    role: "slider",
    "aria-roledescription": "two-dimensional slider",
    "aria-label": "Magnified detail: arrow keys move it",
    "aria-valuemin": 0,
    onkeydown: onTargetKey,
  });
  const stage = h("div", { class: "stage" }, under, over, h("div", { class: "divide" }), leftBadge, rightBadge, target);
  const range = h("input", {
    type: "range",
    id: "divider",
    min: 0,
    max: 100,
    step: 1,
    value: 50,
    oninput: () => setDivider(Number(range.value)),
  });
  const choosers = ["left", "right"].map((side) =>
    h("select", { id: `${side}-picture`, onchange: (event) => setLayer(side, Number(event.target.value)) }),
  );
  const caption = h("p", { class: "picture-name", "aria-live": "polite" });
  const loupe = h("div", { class: "loupe" });
  const thumbs = pictures.map((picture, index) => thumbnail(picture, index));

  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    follow(event, true);
  });
  stage.addEventListener("pointermove", (event) => follow(event, stage.hasPointerCapture(event.pointerId)));

  function follow(event, divides) {
    const box = stage.getBoundingClientRect();
    const x = clamp((event.clientX - box.left) / box.width, 0, 1);
    moveDetail(x, clamp((event.clientY - box.top) / box.height, 0, 1));
    if (divides) setDivider(Math.round(x * 100));
  }

  function setDivider(percent) {
    range.value = percent;
    const { left, right } = layersShown();
    range.setAttribute("aria-valuetext", `${percent} % ${left.label}, ${100 - percent} % ${right.label}`);
    stage.style.setProperty("--at", `${percent}%`);
    leftBadge.hidden = percent < 15;
    rightBadge.hidden = percent > 85;
  }

  function layersShown() {
    return { left: state.picture.layers[state.left], right: state.picture.layers[state.right] };
  }

  function setLayer(side, place) {
    state[side] = place;
    showLayers();
  }

  function showLayers() {
    const { left, right } = layersShown();
    over.src = left.src;
    under.src = right.src;
    over.alt = `${state.picture.name}, ${left.label}`;
    under.alt = `${state.picture.name}, ${right.label}`;
    leftBadge.textContent = left.label;
    rightBadge.textContent = right.label;
    choosers.forEach((chooser, index) => {
      chooser.value = String(index ? state.right : state.left);
    });
    setDivider(Number(range.value));
  }

  function showPicture(picture) {
    state.picture = picture;
    const fits = (place) => place < picture.layers.length;
    if (!fits(state.left) || !fits(state.right)) Object.assign(state, firstSides(picture));
    choosers.forEach((chooser) =>
      chooser.replaceChildren(...picture.layers.map((layer, place) => h("option", { value: place }, layer.label))),
    );
    stage.style.aspectRatio = `${picture.width} / ${picture.height}`;
    thumbs.forEach((thumb, index) => thumb.setAttribute("aria-pressed", String(pictures[index] === picture)));
    caption.replaceChildren(h("strong", {}, picture.name), placeText(picture, pictures));
    loupe.replaceChildren(...picture.layers.map(loupeCell));
    showLayers();
    moveDetail(state.x, state.y);
  }

  function loupeCell(layer) {
    const image = new Image();
    image.onload = () => drawDetail();
    image.src = layer.src;
    const canvas = h("canvas", { role: "img", "aria-label": `Detail of ${layer.label}` });
    canvas.source = image;
    const score = layer.psnr === null ? "" : `${fixed(layer.psnr, 2)} dB${layer.against === null ? "" : ` to ${layer.against}`}`;
    return h(
      "figure",
      {},
      canvas,
      h("figcaption", {}, h("span", { class: `key ${layer.look}` }, layer.label), h("span", { class: "value" }, score)),
    );
  }

  function moveDetail(x, y) {
    Object.assign(state, { x, y });
    drawDetail();
  }

  /** The magnified square, in pixels of the picture. Moves its centre in `state` if the square would leave the picture. */
  function detail() {
    const canvas = loupe.querySelector("canvas");
    const { width, height } = state.picture;
    const side = Math.min((canvas ? canvas.clientWidth : 200) / state.zoom, width, height);
    const [halfX, halfY] = [side / 2 / width, side / 2 / height];
    Object.assign(state, { x: clamp(state.x, halfX, 1 - halfX), y: clamp(state.y, halfY, 1 - halfY) });
    return { left: state.x * width - side / 2, top: state.y * height - side / 2, side };
  }

  function drawDetail() {
    const { width, height } = state.picture;
    const { left, top, side } = detail();
    Object.assign(target.style, {
      left: `${(100 * left) / width}%`,
      top: `${(100 * top) / height}%`,
      width: `${(100 * side) / width}%`,
      height: `${(100 * side) / height}%`,
    });
    const [x, y] = [Math.round(left + side / 2), Math.round(top + side / 2)];
    target.setAttribute("aria-valuemax", width);
    target.setAttribute("aria-valuenow", x);
    target.setAttribute("aria-valuetext", `${x} from the left, ${y} from the top, of ${width} by ${height} pixels`);
    for (const canvas of loupe.querySelectorAll("canvas")) {
      const shown = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
      if (canvas.width !== shown) canvas.width = canvas.height = shown;
      const brush = canvas.getContext("2d");
      brush.imageSmoothingEnabled = false;
      brush.clearRect(0, 0, shown, shown);
      brush.drawImage(canvas.source, left, top, side, side, 0, 0, shown, shown);
    }
  }

  function onTargetKey(event) {
    const step = event.shiftKey ? 0.1 : 0.02;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    moveDetail(state.x + move[0], state.y + move[1]);
  }

  function thumbnail(picture, index) {
    const student = picture.layers.find((layer) => layer.role === "student") ?? picture.layers[0];
    return h(
      "button",
      { type: "button", class: "thumb", onclick: () => showPicture(pictures[index]) },
      h("img", { src: student.src, alt: "" }),
      h("span", { class: "thumb-name" }, picture.name),
      h("span", { class: "thumb-gain" }, picture.rank ? `${picture.rank} ` : "", valueText(picture)),
    );
  }

  const element = h(
    "div",
    { class: "viewer" },
    pictures.length > 1 ? h("div", { class: "thumbs", role: "group", "aria-label": "Choose an image" }, thumbs) : null,
    h(
      "div",
      { class: "compare" },
      h(
        "div",
        {},
        caption,
        stage,
        h("label", { class: "range" }, h("span", { class: "unseen" }, "Divider between left and right picture"), range),
        h(
          "div",
          { class: "sides" },
          choosers.map((chooser, index) => h("label", {}, index ? "Right " : "Left ", chooser)),
        ),
      ),
      h(
        "div",
        { class: "magnifier" },
        h("div", { class: "magnifier-head" }, h("h3", {}, "The same detail in each"), bar("Magnification", "zoom", ZOOMS, "4", (value) => {
          state.zoom = Number(value);
          drawDetail();
        })),
        loupe,
      ),
    ),
    h(
      "p",
      { class: "small" },
      `Centres of validation images, stored as WebP of quality ${webpQuality}. ${psnrText(pictures)}`,
    ),
    pictureNotes.map((note) => h("p", { class: "small" }, note)),
  );
  showPicture(pictures[0]);
  return { element, redraw: drawDetail };
}

/** The two layers shown first: blurry and student, or two students if several runs are compared. */
function firstSides(picture) {
  const students = [...picture.layers.keys()].filter((place) => picture.layers[place].role === "student");
  return students.length > 1 ? { left: students[0], right: students[1] } : { left: 0, right: 1 };
}

/** The gain of a picture that has a sharp one, and of the others the share of the teacher’s correction that is reproduced. */
function valueText({ gain, reproduced }) {
  if (gain !== null) return `${signed(gain, 2)} dB`;
  return reproduced === null ? "" : percent(reproduced, 0);
}

/** What the dB below a picture are. */
function psnrText(pictures) {
  const [sharp, others] = [pictures.some((picture) => picture.hasSharp), pictures.some((picture) => !picture.hasSharp)];
  const whole = "of the whole validation image before that";
  const toSharp = `PSNR (dB, higher is better) is ${whole}.`;
  const toTeacher = "says how close a picture is to the teacher’s, and not which is better";
  if (!others) return toSharp;
  return sharp ? `${toSharp} PSNR “to teacher” ${toTeacher}.` : `PSNR (dB) is ${whole}; it ${toTeacher}.`;
}

function placeText(picture, pictures) {
  const { gain, reproduced, rankedBy } = picture;
  if (gain === null && reproduced === null) return "";
  const both = new Set(pictures.map(({ hasSharp }) => hasSharp)).size > 1;
  const of = `of all images${both ? (picture.hasSharp ? " with sharp originals" : " without sharp originals") : ""}`;
  const rank = picture.rank ? `, the ${picture.rank} ${of}` : "";
  const by = rankedBy ? ` (${rankedBy})` : "";
  if (gain === null) return ` ${percent(reproduced, 1)} of the teacher’s correction reproduced${rank}${by}`;
  return ` ${gain < 0 ? "got worse by" : "gained"} ${fixed(Math.abs(gain), 2)} dB${rank}${by}`;
}
