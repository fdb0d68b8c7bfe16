"use strict";
// The page of one rater. Texts are only ever put into text nodes.

const AHEAD = 6; // items fetched in advance, so that a rater goes on while the connection is away
const UNDOABLE = 20; // judgements that can be undone, also after the tab was closed
const LOOK = 5000; // milliseconds between two looks for more items, once all are judged
const AWAY = 60; // seconds without a key or a touch that count as time away

const QUESTIONS = {
  compare: "Which answer is better?",
  rate: "How good is this answer?",
  list: "Which of these do you like?",
  correct: "Write it as it should be",
};
const LETTERS = { a: "first", b: "second", tie: "equally good", both_bad: "both bad", skip: "skipped" };

const $ = (id) => document.getElementById(id);
const state = {
  session: null, outbox: null, tasks: [], task: null, history: [],
  done: 0, left: 0, paused: false, loading: false, finished: false, draft: {}, seconds: 0, lastActive: 0, pace: [],
};

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function announce(text) { $("announce").textContent = text; }

// Time that was spent on the item: pauses, other tabs and long absences are left out.
function tick() {
  const now = performance.now() / 1000;
  const passed = now - state.lastTick;
  state.lastTick = now;
  if (state.paused || document.hidden || !state.task || now - state.lastActive > AWAY) return;
  state.seconds += passed;
  if (state.task.kind === "list") dwell(passed);
}

function dwell(passed) {
  for (const card of $("answers").children) {
    const box = card.getBoundingClientRect();
    const seen = Math.min(box.bottom, innerHeight) - Math.max(box.top, 0);
    if (box.height && seen / box.height > 0.5) state.draft.dwell[Number(card.dataset.number)] += passed;
  }
}

// Drafts and what is on the page survive a closed tab. Another store's stay apart from this one's.
function kept(what) { return `${what}-${state.session.store}-${state.session.rater}`; }

function keepDraft() {
  localStorage.setItem(kept("draft"), JSON.stringify({ item: state.task.item, draft: state.draft }));
}

function takeDraft(item) {
  const found = JSON.parse(localStorage.getItem(kept("draft")) || "null");
  return found && found.item === item ? found.draft : null;
}

function keepHistory() {
  state.history = state.history.slice(-UNDOABLE);
  localStorage.setItem(kept("history"), JSON.stringify(state.history));
}

function refillIn(milliseconds) {
  clearTimeout(state.timer);
  state.timer = setTimeout(refill, milliseconds);
}

async function refill() {
  if (state.loading || state.tasks.length >= AHEAD) return;
  state.loading = true;
  const waiting = state.outbox.entries.map((entry) => entry.body.item).filter(Boolean);
  const have = [...state.tasks.map((task) => task.item), ...waiting];
  if (state.task) have.push(state.task.item);
  try {
    const got = await call("/api/tasks", { count: AHEAD - state.tasks.length, have: have.slice(-32) }, state.session.csrf);
    const known = new Set([...have, ...state.outbox.entries.map((entry) => entry.body.item)]);
    const judged = new Set(state.history.map((entry) => entry.task.item));
    for (const task of got.tasks) {
      if (known.has(task.item) || judged.has(task.item)) continue;
      state.tasks.push(task);
      if (task.picture) new Image().src = `/media/${task.picture}`; // into the browser's cache
    }
    if (!state.outbox.size) { state.done = got.done; state.left = got.left; }
    state.finished = got.tasks.length === 0;
    if (state.finished) refillIn(LOOK);
  } catch (error) {
    if (error.status === 401 || error.status === 403) { shutOut(error.message); return; }
    refillIn(state.finished ? LOOK : 2000);
  } finally {
    state.loading = false;
  }
  if (state.paused) return;
  if (state.task) showProgress(); else if (state.tasks.length) next(); else nothing();
}

function next() {
  state.task = state.tasks.shift() || null;
  if (state.task) show(takeDraft(state.task.item)); else nothing();
  refill();
}

function nothing() {
  $("task").hidden = true;
  showProgress();
  if (!state.finished) {
    message("One moment", "The next item is on its way.", null);
  } else if (state.outbox.size) {
    message("Sending", "Your last answers are on their way. Keep this page open until it says that all is kept.", null);
  } else {
    message("Done, thank you", `All ${state.done} answers are kept. You may close this page.`, {
      text: "Look for more", act: refill,
    });
  }
}

function message(title, text, button) {
  const same = $("message-title").textContent === title && $("message-text").textContent === text;
  if (same && !$("message").hidden) return; // a screen reader would say it again
  $("message-title").textContent = title;
  $("message-text").textContent = text;
  $("message-button").hidden = !button;
  if (button) {
    $("message-button").textContent = button.text;
    $("message-button").onclick = button.act;
  }
  $("message").hidden = false;
  announce(`${title}. ${text}`);
}

function stop(why) {
  state.task = null;
  $("task").hidden = true;
  message("This page cannot go on", why, { text: "Try again", act: () => location.reload() });
}

// A server that no longer takes this page may have another store by now, e.g. that of the next round.
async function shutOut(why) {
  const now = await call("/api/session").catch(() => null);
  if (now && now.store !== state.session.store) location.reload(); else stop(why);
}

function show(draft = null) {
  const { task } = state;
  const now = performance.now() / 1000;
  Object.assign(state, { seconds: 0, lastActive: now, lastTick: now });
  state.draft = draft || { ratings: {}, clicks: [], text: task.answers[0], dwell: task.answers.map(() => 0) };
  $("message").hidden = true;
  $("task").hidden = false;
  $("task").dataset.kind = task.kind;
  $("question").textContent = QUESTIONS[task.kind];
  $("prompt").hidden = !task.prompt;
  $("prompt").textContent = task.prompt;
  $("picture").hidden = !task.picture;
  if (task.picture) $("picture").src = `/media/${task.picture}`; else $("picture").removeAttribute("src");
  $("sound").hidden = !task.sound;
  if (task.sound) $("sound").src = `/media/${task.sound}`; else $("sound").removeAttribute("src");
  $("material").hidden = !(task.picture || task.sound || task.prompt);
  $("problem").textContent = "";
  ({ compare: showCompare, rate: showRate, list: showList, correct: showCorrect })[task.kind]();
  showProgress();
  announce(`${QUESTIONS[task.kind]} ${task.prompt}`);
  scrollTo(0, 0);
  if (task.kind !== "correct") $("main").focus({ preventScroll: true });
}

function key(letter) { return element("kbd", { "aria-hidden": "true" }, letter); }

function button(letter, text, act, className = "") {
  return element("button", { type: "button", onclick: act, className, "aria-keyshortcuts": letter }, key(letter), ` ${text}`);
}

function skipButton() { return button("S", "Skip", () => answer({ choice: "skip" })); }

// The answers stand in the order that the server drew; `number` is what they are called in the record.
function showCompare() {
  $("answers").replaceChildren(...state.task.shown.map((number, place) => element(
    "button",
    { type: "button", className: "answer", onclick: () => choose(place), "aria-keyshortcuts": `${place + 1}`,
      "aria-label": `Answer ${place + 1}: ${state.task.answers[number]}` },
    key(`${place + 1}`), element("span", { className: "text" }, state.task.answers[number]),
  )));
  $("controls").replaceChildren(
    button("T", "Tie", () => answer({ choice: "tie" })),
    button("B", "Both bad", () => answer({ choice: "both_bad" })),
    skipButton(),
  );
}

function choose(place) { answer({ choice: state.task.shown[place] === 0 ? "a" : "b" }); }

function plain(text) { return element("p", { className: "answer text" }, text); }

function showRate() {
  $("answers").replaceChildren(plain(state.task.answers[0]));
  const scales = state.session.aspects.map((aspect) => element(
    "fieldset", {}, element("legend", {}, aspect),
    element("span", { className: "scale" }, ...[1, 2, 3, 4, 5].map((number) => {
      const input = element("input", { type: "radio", name: aspect, value: `${number}`, "aria-label": `${aspect} ${number} of 5` });
      input.checked = state.draft.ratings[aspect] === number;
      input.onchange = () => rate(aspect, number);
      return element("label", {}, input, element("span", {}, `${number}`));
    })),
  ));
  $("controls").replaceChildren(...scales, button("⏎", "Keep", submit, "primary"), skipButton());
  markAspect();
}

function openAspect() { return state.session.aspects.find((aspect) => !(aspect in state.draft.ratings)); }

function markAspect() {
  const open = openAspect();
  for (const set of $("controls").querySelectorAll("fieldset")) {
    set.classList.toggle("open", set.querySelector("legend").textContent === open);
  }
}

function rate(aspect, number) {
  state.draft.ratings[aspect] = number;
  $("controls").querySelector(`input[name="${aspect}"][value="${number}"]`).checked = true;
  markAspect();
  keepDraft();
  announce(`${aspect} ${number}. ${openAspect() ? `Next: ${openAspect()}` : "Press Enter to keep"}`);
}

function showList() {
  $("answers").replaceChildren(...state.task.shown.map((number, place) => {
    const card = element("button", { type: "button", className: "answer", "aria-pressed": `${state.draft.clicks.includes(number)}` },
      key(place < 9 ? `${place + 1}` : "·"), element("span", { className: "text" }, state.task.answers[number]));
    card.dataset.number = number;
    card.onclick = () => like(number, card);
    return card;
  }));
  $("controls").replaceChildren(button("⏎", "Keep", submit, "primary"), skipButton());
}

function like(number, card) {
  const { clicks } = state.draft;
  if (clicks.includes(number)) clicks.splice(clicks.indexOf(number), 1); else clicks.push(number);
  card.setAttribute("aria-pressed", `${clicks.includes(number)}`);
  keepDraft();
}

function showCorrect() {
  $("answers").replaceChildren(plain(state.task.answers[0]));
  const area = element("textarea", { id: "correction", value: state.draft.text, rows: 4, maxLength: 20000, "aria-label": "Your correction" });
  area.oninput = () => { state.draft.text = area.value; keepDraft(); };
  $("controls").replaceChildren(area, button("Ctrl+⏎", "Keep", submit, "primary"), button("Esc", "Right as it is: skip", () => answer({ choice: "skip" })));
  area.focus({ preventScroll: true });
}

function submit() {
  const { task, draft } = state;
  if (task.kind === "rate") {
    if (openAspect()) { $("problem").textContent = `Still to rate: ${openAspect()}`; return; }
    answer({ ratings: draft.ratings });
  } else if (task.kind === "list") {
    tick();
    answer({ clicks: draft.clicks, dwell_seconds: draft.dwell.map((seconds) => Math.round(seconds * 100) / 100) });
  } else if (task.kind === "correct") {
    const text = draft.text.trim();
    if (!text || text === task.answers[0].trim()) { $("problem").textContent = "Change the text, or skip it if it is right."; return; }
    answer({ text });
  }
}

function answer(value) {
  if (!state.task || state.paused) return;
  tick();
  const entry = { key: randomKey(), task: state.task };
  const seconds = Math.min(Math.ceil(state.seconds * 1000) / 1000, 86400);
  state.history.push(entry);
  keepHistory();
  state.pace.push(seconds);
  state.done += 1;
  state.left = Math.max(0, state.left - 1);
  localStorage.removeItem(kept("draft"));
  state.task = null;
  state.outbox.add("/api/judgements", { key: entry.key, item: entry.task.item, answer: value, seconds });
  announce(value.choice ? `Kept: ${LETTERS[value.choice]}` : "Kept");
  next();
}

function undo() {
  if (state.paused || !state.history.length) return;
  const entry = state.history.pop();
  keepHistory();
  if (!state.outbox.withdraw(entry.key)) {
    state.outbox.add("/api/undo", { key: randomKey(), undone: entry.key });
  }
  if (state.task) state.tasks.unshift(state.task);
  state.done -= 1;
  state.left += 1;
  state.pace.pop();
  state.task = entry.task;
  show();
  announce("Undone. Judge it again.");
}

function pause() {
  tick();
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", `${state.paused}`);
  if (state.paused) {
    $("task").hidden = true;
    message("Paused", "Everything so far is kept. Take your time.", { text: "Go on", act: pause });
    $("message-button").focus();
  } else {
    $("message").hidden = true;
    state.lastActive = performance.now() / 1000;
    if (state.task) { $("task").hidden = false; $("main").focus({ preventScroll: true }); } else next();
  }
}

function showProgress() {
  const total = state.done + state.left;
  $("progress").textContent = `${state.done} done, ${state.left} to go`;
  $("bar").setAttribute("aria-valuemax", `${total}`);
  $("bar").setAttribute("aria-valuenow", `${state.done}`);
  $("bar-fill").style.width = `${total ? (100 * state.done) / total : 0}%`;
  const recent = [...state.pace.slice(-20)].sort((x, y) => x - y);
  const typical = recent[Math.floor(recent.length / 2)];
  const minutes = Math.ceil((typical * state.left) / 60);
  $("pace").textContent = recent.length < 3 ? "" : `${typical.toFixed(1)} s each, about ${minutes} min to go`;
  $("undo").disabled = !state.history.length;
}

function showConnection(waiting, problem) {
  const text = !problem ? "" : problem === "offline" ? `No connection: ${waiting} kept here, sent when it is back` : problem;
  if ($("connection").textContent !== text) $("connection").textContent = text;
  document.body.dataset.waiting = waiting;
  if (problem && problem !== "offline") shutOut(problem);
  if (!state.task && state.session && !state.paused && state.finished) nothing();
}

function onKey(event) {
  state.lastActive = performance.now() / 1000;
  const typing = event.target.matches("textarea, input:not([type=radio])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && state.task) { event.preventDefault(); submit(); return; }
  if (event.key === "Escape" && state.task?.kind === "correct") { answer({ choice: "skip" }); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const letter = event.key.toLowerCase();
  if (letter === "p") { pause(); return; }
  if (letter === "z") { undo(); return; }
  if (!state.task || state.paused) return;
  const { kind } = state.task;
  const number = "123456789".indexOf(letter);
  if (letter === "s") answer({ choice: "skip" });
  else if (kind === "compare" && number >= 0 && number < 2) choose(number);
  else if (kind === "compare" && letter === "t") answer({ choice: "tie" });
  else if (kind === "compare" && letter === "b") answer({ choice: "both_bad" });
  else if (kind === "rate" && number >= 0 && number < 5 && openAspect()) rate(openAspect(), number + 1);
  else if (kind === "list" && number >= 0 && $("answers").children[number]) $("answers").children[number].click();
  else if (event.key === "Enter" && kind !== "compare" && !event.target.matches("button")) submit();
  else return;
  event.preventDefault();
}

async function start() {
  try {
    state.session = await call("/api/session");
  } catch (error) {
    if (error.status) { stop(`Not let in: ${error.message}.`); return; }
    message("No connection", "The page goes on by itself when the server is back.", null);
    setTimeout(start, 2000);
    return;
  }
  const { csrf, done, left, name } = state.session;
  state.outbox = new Outbox(kept("outbox"), csrf, showConnection);
  Object.assign(state, { done: done + state.outbox.size, left: Math.max(0, left - state.outbox.size), lastTick: performance.now() / 1000 });
  state.history = JSON.parse(localStorage.getItem(kept("history")) || "[]");
  $("name").value = name;
  state.outbox.send();
  setInterval(tick, 250);
  next();
}

document.addEventListener("keydown", onKey);
for (const kind of ["pointerdown", "pointermove", "scroll"]) {
  document.addEventListener(kind, () => { state.lastActive = performance.now() / 1000; }, { passive: true });
}
$("undo").onclick = undo;
$("pause").onclick = pause;
$("name-form").onsubmit = async (event) => {
  event.preventDefault();
  try {
    $("name").value = (await call("/api/name", { name: $("name").value }, state.session.csrf)).name;
    $("name-kept").textContent = "Kept";
  } catch (error) {
    $("name-kept").textContent = error.message;
  }
};
start();
