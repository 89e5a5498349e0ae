/* What pages do by themselves: they ask before a form that is hard to undo, renew their live parts, and draw charts.

   Every page can be read and every form sent without this file. Left out: how a live part is put in place of the old one (vendor/htmx), and
   how a chart is drawn (vendor/uPlot). */
"use strict";

(() => {
  const CALM_MS = 1500; // between two renewals of a part that names no time of its own
  const DAY = 24 * 3600;
  const TIMES = [ // how moments stand on an axis: the least step, what is written, and what is added when the year, month, day or hour is new
    [365 * DAY, "{YYYY}", null, null, null, null, null, null, 1],
    [28 * DAY, "{YYYY}-{MM}", null, null, null, null, null, null, 1],
    [DAY, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
    [1, ":{ss}", "\n{MM}-{DD} {HH}:{mm}", null, "\n{MM}-{DD} {HH}:{mm}", null, "\n{HH}:{mm}", null, 1],
  ];
  const CURVES = ["--accent", "--second", "--third", "--fourth", "--soft"];

  // Forms with data-confirm are asked about in a dialog, which says what would be done; a form is sent once.

  const dialog = document.createElement("dialog");
  dialog.className = "dialog";
  const [heading, told, buttons] = ["h2", "p", "div"].map((name) => dialog.appendChild(document.createElement(name)));
  heading.id = "asked";
  dialog.setAttribute("aria-labelledby", "asked");
  buttons.className = "acts";
  const [no, yes] = ["quiet", "danger"].map((look) => buttons.appendChild(document.createElement("button")));
  [no.className, yes.className, no.textContent] = ["quiet", "danger", "Leave it"];
  document.body.append(dialog);
  let asked = null;
  no.addEventListener("click", () => dialog.close());
  yes.addEventListener("click", () => {
    dialog.close();
    asked.form.dataset.asked = "yes";
    asked.form.requestSubmit(asked.submitter);
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.confirm && form.dataset.asked !== "yes") {
      event.preventDefault();
      asked = { form, submitter: event.submitter };
      heading.textContent = form.dataset.confirm;
      const reason = form.querySelector("[name=reason]");
      told.textContent = reason && reason.value ? `Reason: ${reason.value}` : "";
      yes.textContent = event.submitter ? event.submitter.textContent : "Do it";
      dialog.showModal();
      return;
    }
    if (form.dataset.sent) event.preventDefault();
    else if (form.method === "post") form.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", () => { // back again, perhaps from an error
    for (const form of document.querySelectorAll("form")) delete form.dataset.sent, delete form.dataset.asked;
  });

  // Parts with data-live name the kinds of news that they show. They are asked for again when there is such news.

  const parts = () => [...document.querySelectorAll("[data-live]")];
  const waiting = new Map();
  const loaded = Date.now();
  const changed = (field) => field.options ? field.selectedIndex !== Math.max(0, [...field.options].findIndex((one) => one.defaultSelected)) : field.value !== field.defaultValue;
  const begun = (part) => [...part.querySelectorAll("select, input:not([type=hidden])")].some((field) => // somebody fills a form in: it stays
    !field.closest("details:not([open])") && (field === document.activeElement || changed(field)));
  function renew(part) {
    if (waiting.has(part.id) || document.hidden) return;
    const calm = Number(part.dataset.calm || CALM_MS), since = Date.now() - Number(part.dataset.at || (part.dataset.calm ? loaded : 0));
    waiting.set(part.id, setTimeout(() => {
      waiting.delete(part.id);
      if (begun(part)) return renew(part);
      part.dataset.at = Date.now();
      part.dispatchEvent(new Event("news"));
    }, Math.max(250, calm - since)));
  }
  if (parts().length && window.EventSource) {
    const line = document.getElementById("line");
    const say = (text) => { if (line) line.textContent = text; };
    const news = new EventSource("/api/v1/events");
    let first = true; // what the first message tells is on the page already; after a gap it is news
    news.addEventListener("open", () => say("live"));
    news.addEventListener("error", () => say("not connected: what you see may be old"));
    news.addEventListener("change", (event) => {
      const { kinds } = JSON.parse(event.data);
      if (!first) parts().filter((part) => part.dataset.live.split(" ").some((kind) => kinds.includes(kind))).forEach(renew);
      first = false;
    });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) parts().forEach(renew); });
  }
  document.addEventListener("htmx:before:swap", (event) => {
    const answer = event.detail.ctx.response.raw;
    if (answer.ok && !answer.redirected) return;
    event.preventDefault(); // an error is no new content; the old stays, and says that it is old
    if (answer.redirected) window.location.reload(); // signed out
  });
  document.addEventListener("htmx:after:swap", () => drawAll());

  // Figures with data-chart hold what is drawn: {x, time, series: [{label, values, low, high}], marks: [{x, label}], lines: [{y, label}], span, range, log}.

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const drawn = new WeakMap();

  function draw(figure) {
    const before = drawn.get(figure);
    if (before && before.text === figure.dataset.chart) return;
    const place = figure.querySelector("div");
    if (before) before.plot.destroy();
    place.replaceChildren();
    const chart = JSON.parse(figure.dataset.chart);
    const data = [chart.x], series = [{ label: chart.time ? "time (UTC)" : chart.unit || "update", ...(chart.time ? { value: "{YYYY}-{MM}-{DD} {HH}:{mm}" } : {}) }], bands = [];
    chart.series.forEach((one, i) => {
      const stroke = colour(CURVES[i % CURVES.length]);
      series.push({ label: one.label, stroke, width: 2, spanGaps: true, points: { show: one.values.length < 40, size: 5 }, value: shown });
      data.push(one.values);
      if (!one.low) return;
      const edge = { stroke: "transparent", width: 0, points: { show: false }, class: "edge" };
      series.push({ ...edge, label: `${one.label}, to`, value: shown }, { ...edge, label: `${one.label}, from`, value: shown });
      data.push(one.high, one.low);
      bands.push({ series: [series.length - 2, series.length - 1], fill: `color-mix(in srgb, ${stroke} 18%, transparent)` });
    });
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const plot = new window.uPlot({
      width: Math.max(240, place.clientWidth), height: 190, series, bands,
      scales: { x: { time: Boolean(chart.time), ...(chart.span ? { range: chart.span } : {}) }, y: { distr: chart.log ? 3 : 1, ...(chart.range ? { range: chart.range } : {}) } },
      axes: [{ ...axis, ...(chart.time ? { values: TIMES } : {}) }, { ...axis, size: 56, values: (plot, splits) => splits.map((value) => value == null ? "" : short(value)) }],
      tzDate: (at) => window.uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      cursor: { drag: { x: true, y: false } },
      hooks: { draw: [(plot) => lines(plot, chart)] },
    }, data, place);
    drawn.set(figure, { plot, text: figure.dataset.chart });
  }

  const shown = (plot, value) => value == null ? "-" : Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(3);

  const short = (value) => value && Math.abs(value) < 0.001 ? value.toExponential(1).replace(".0e", "e") : String(Number(value.toPrecision(3)));

  function lines(plot, chart) {
    const { ctx, bbox } = plot;
    ctx.save();
    [ctx.strokeStyle, ctx.fillStyle] = [colour("--soft"), colour("--soft")];
    ctx.lineWidth = window.devicePixelRatio;
    ctx.setLineDash([4 * window.devicePixelRatio, 4 * window.devicePixelRatio]);
    [ctx.textAlign, ctx.textBaseline] = ["left", "alphabetic"];
    ctx.font = `${11 * window.devicePixelRatio}px system-ui, sans-serif`;
    const stroke = (...ends) => { ctx.beginPath(); ctx.moveTo(ends[0], ends[1]); ctx.lineTo(ends[2], ends[3]); ctx.stroke(); };
    let free = -Infinity;
    for (const mark of [...(chart.marks || [])].sort((a, b) => a.x - b.x)) {
      const x = plot.valToPos(mark.x, "x", true), wide = ctx.measureText(mark.label).width + 6;
      if (x < bbox.left - 1 || x > bbox.left + bbox.width + 1) continue;
      stroke(x, bbox.top, x, bbox.top + bbox.height);
      const from = Math.min(x + 3, bbox.left + bbox.width - wide);
      if (from < free) continue; // one label, not two on top of each other
      ctx.fillText(mark.label, from, bbox.top + 11 * window.devicePixelRatio);
      free = from + wide;
    }
    for (const line of chart.lines || []) {
      const y = plot.valToPos(line.y, "y", true);
      if (y < bbox.top || y > bbox.top + bbox.height) continue;
      stroke(bbox.left, y, bbox.left + bbox.width, y);
      ctx.fillText(line.label, bbox.left + 4, y - 4);
    }
    ctx.restore();
  }

  function drawAll(again = false) {
    if (!window.uPlot) return;
    for (const figure of document.querySelectorAll("[data-chart]")) {
      if (again && drawn.has(figure)) drawn.get(figure).text = "";
      draw(figure);
    }
  }

  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (width === window.innerWidth) return;
    width = window.innerWidth;
    drawAll(true);
  });
  dark.addEventListener("change", () => drawAll(true));
  drawAll();
})();
