"use strict";
// What the judgements say so far, anew every few seconds.

const $ = (id) => document.getElementById(id);
const NONE = "–";
const NAMES = { a: "A", b: "B", tie: "tie", both_bad: "both bad" };

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const share = (value) => (value === null ? NONE : `${(100 * value).toFixed(0)} %`);
const decimal = (value, digits) => (value === null ? NONE : value.toFixed(digits).replace("-", "−"));

function facts(data) {
  const rows = {
    "Items finished": `${data.finished} / ${data.items}`,
    Judgements: data.judgements,
    Skipped: data.skipped,
    Ties: data.choices.tie || 0,
    "Raters agree": share(data.agreement),
    Alpha: decimal(data.alpha, 2),
  };
  $("facts").replaceChildren(...Object.entries(rows).map(([name, value]) => element(
    "div", {}, element("dt", {}, name), element("dd", {}, `${value}`),
  )));
  $("bar").setAttribute("aria-valuemax", data.items);
  $("bar").setAttribute("aria-valuenow", data.finished);
  $("bar-fill").style.width = `${data.items ? (100 * data.finished) / data.items : 0}%`;
}

function row(cells) {
  const [first, ...others] = cells;
  return element("tr", {}, element("th", { scope: "row" }, first), ...others.map((text) => element("td", {}, text)));
}

function drawing(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function pace(points) {
  if (points.length < 2) { $("pace-plot").replaceChildren("Nothing to plot yet."); return; }
  const [width, height, left, bottom] = [Math.max(280, $("pace-plot").clientWidth - 34), 220, 56, 26];
  const hours = points.at(-1)[0] || 1e-9;
  const most = points.at(-1)[1];
  const x = (value) => left + ((width - left - 10) * value) / hours;
  const y = (value) => (height - bottom) - ((height - bottom - 14) * value) / most;
  const plot = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${most} judgements in ${hours.toFixed(2)} hours` });
  for (const value of [0, most / 2, most]) {
    plot.append(drawing("line", { class: "grid", x1: left, x2: width - 10, y1: y(value), y2: y(value) }));
    plot.append(drawing("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(value)}`));
  }
  const unit = hours < 0.05 ? [3600, "s"] : hours < 2 ? [60, "min"] : [1, "h"];
  for (const value of [0, hours / 2, hours]) {
    const anchor = value === 0 ? "start" : value === hours ? "end" : "middle";
    plot.append(drawing("text", { x: x(value), y: height - 4, "text-anchor": anchor }, `${(value * unit[0]).toFixed(1)} ${unit[1]}`));
  }
  plot.append(drawing("path", { class: "line", d: points.map(([h, n], i) => `${i ? "L" : "M"}${x(h).toFixed(1)} ${y(n).toFixed(1)}`).join("") }));
  $("pace-plot").replaceChildren(plot);
}

function disputed(item) {
  const votes = item.votes.map(([name, choice]) => `${name}: ${NAMES[choice]}`).join(", ");
  const texts = element("div", {},
    ...(item.prompt ? [element("p", {}, item.prompt)] : []),
    ...item.answers.map((text, i) => element("p", {}, element("kbd", {}, "AB"[i]), ` ${text}`)),
    element("p", { className: "votes" }, votes));
  const picture = item.picture ? [element("img", { src: `/media/${item.picture}`, alt: "", loading: "lazy" })] : [];
  return element("article", { className: "card" }, ...picture, texts);
}

async function refresh() {
  try {
    const answer = await fetch("/api/dashboard", { cache: "no-store" });
    const data = await answer.json();
    if (!answer.ok) throw new Error(data.error);
    facts(data);
    pace(data.pace);
    $("raters").replaceChildren(...data.raters.map((rater) => row(
      [rater.name, `${rater.done}`, decimal(rater.seconds, 1), share(rater.agreement), share(rater.first), share(rater.checks)],
    )));
    const chosen = Object.entries(data.strategies).map(([name, count]) => `${name} ${count}`).join(", ");
    $("strategies").textContent = chosen ? `How the judged items were chosen: ${chosen}.` : "";
    $("aspects-section").hidden = !data.aspects.length;
    $("aspects").replaceChildren(...data.aspects.map((one) => row(
      [one.aspect, `${one.count}`, decimal(one.mean, 2), decimal(one.alpha, 2)],
    )));
    $("scores-section").hidden = !data.scores.length;
    $("scores").replaceChildren(...data.scores.map((one) => row(
      [one.source, decimal(one.score, 2), `${decimal(one.low, 2)} to ${decimal(one.high, 2)}`],
    )));
    $("disputed-section").hidden = !data.disputed.length;
    $("disputed").replaceChildren(...data.disputed.map(disputed));
    $("connection").textContent = "";
  } catch (error) {
    $("connection").textContent = `Not up to date: ${error.message}`;
  }
  setTimeout(refresh, 5000);
}

refresh();
