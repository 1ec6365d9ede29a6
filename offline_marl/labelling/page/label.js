"use strict";
// The page: asks for questions ahead, shows one, takes an answer, and goes on whether or not the server is there.
import { Queue } from "/queue.js";
import { Clock, Player, unhurried } from "/players.js";

const AHEAD = 8, LOADERS = 2, ASK_AGAIN = 3000, RENEW = 60000, PATIENCE = 30000, MENDED = 10000;
const REASONS = ["I cannot tell what happens", "the clips do not play", "they cannot be compared", "another reason"];
const at = (id) => document.getElementById(id);
const kept = (name, fallback) => { try { return localStorage.getItem(name) ?? fallback; } catch { return fallback; } };
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* for this visit alone */ } };

const token = (() => {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    keep("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return given || kept("token", "");
})();

const call = (path, body, more = {}) => fetch(path, {
  method: body === undefined ? "GET" : "POST",
  headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { "content-type": "application/json" }) },
  body: body === undefined ? undefined : JSON.stringify(body),
  signal: AbortSignal.timeout(PATIENCE),
  ...more,
});

let annotator = kept("annotator", "");
let questions = []; // the first one is shown
let shown = null;
let seen = null; // the same once its films can be seen; only then it is answered, though it can be skipped before
let since = 0; // when it was shown
let progress = null;
let agents = 0;
let asking = null; // a lease that is on its way
let passing = new Set(); // questions whose answers are on their way while a reply is, which may still hold them
let idle = true;
const clips = new Map(); // by name, promises
const answered = []; // for undo, the last one last
const queue = new Queue(call, (news, whose) => { if (news && whose === annotator) progress = news; tell(); }, () => anew());
const clock = new Clock((part) => {
  at("time").value = Math.round(part * 1000);
  clock.players.forEach(({ over, clip }, number) => {
    const line = at("players").children[number].querySelector(".over"), text = over ? `Ended after ${stepsOf(clip)}` : "";
    if (line.textContent !== text) line.textContent = text;
  });
  if (part === 1) controls(); // what does not loop stands still from here on
});

const key = () => crypto.randomUUID ? crypto.randomUUID()
  : [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const complain = (text) => { at("alert").textContent = text; at("alert").hidden = !text; };

const tell = () => {
  const parts = [];
  if (progress) {
    const total = progress.answered + progress.open;
    at("bar").max = Math.max(total, 1);
    at("bar").value = progress.answered;
    parts.push(`${progress.answered} of ${total} questions answered, ${progress.yours} of them by you`);
  }
  if (queue.items.length) parts.push(`${queue.items.length} waiting to be sent`);
  if (queue.elsewhere) parts.push(`${queue.elsewhere} about another folder wait until it is served again`);
  if (!queue.online || !navigator.onLine) parts.push("no connection: go on, answers are kept here");
  const text = parts.join("; ");
  if (at("progress").textContent !== text) at("progress").textContent = text;
  complain(queue.trouble);
  at("undo").disabled = at("undo-idle").disabled = !answered.length;
};

// Few at a time: a browser opens six connections to a server, and answers should not wait for clips.
let loading = 0;
const waiting = [];
const inTurn = async (work) => {
  if (loading >= LOADERS) await new Promise((go) => waiting.push(go));
  loading++;
  try { return await work(); } finally { loading--; waiting.shift()?.(); }
};

const failed = (clip) => clip.kind === "none";

const clipOf = (name) => {
  if (!clips.has(name)) {
    const load = async () => {
      for (;;) {
        const reply = await inTurn(() => call(`/api/clips/${name}`));
        if (reply.status === 200) return reply.json();
        if (reply.status !== 202) throw new Error((await reply.json().catch(() => ({}))).error || reply.status);
        await new Promise((done) => setTimeout(done, 300));
      }
    };
    const drop = () => clips.delete(name); // what failed is asked for anew by whoever needs it next
    clips.set(name, load().then((clip) => { if (failed(clip)) drop(); return clip; }, (error) => { drop(); throw error; }));
  }
  return clips.get(name);
};

const forget = () => {
  const wanted = new Set(questions.flatMap((question) => question.segments));
  for (const question of answered.slice(-3)) for (const name of question.segments) wanted.add(name);
  for (const name of clips.keys()) if (!wanted.has(name)) clips.delete(name);
};

// Nothing of what was asked so far is asked, or taken back, any more.
const leave = () => {
  shown = seen = progress = null;
  questions = [];
  answered.length = 0;
  passing = new Set();
  clips.clear(); // another folder may name its segments alike
};

const giveBack = (who, held) => {
  if (held.length) call("/api/release", { annotator: who, held }, { keepalive: true }).catch(() => {});
};

const namesHeld = () => questions.map((question) => question.id).filter((id) => !queue.holds(id));

const lease = async () => {
  const who = annotator;
  passing = new Set(queue.items.map((item) => item.body.question));
  let reply, said;
  try {
    reply = await call("/api/lease", { annotator: who, count: AHEAD, held: namesHeld() });
    said = await reply.json();
  } catch (error) {
    queue.online = false;
    throw error;
  }
  if (who !== annotator) {
    if (reply.ok) giveBack(who, said.questions.map((question) => question.id));
    throw new Error("It was asked for somebody who has left.");
  }
  if (!reply.ok) {
    const name = reply.status === 422 && /\bannotator\b/.test(said.error);
    queue.trouble = name ? `The name “${who}” is not taken here: choose another.` : said.error;
    if (name) greet();
    throw new Error(said.error);
  }
  queue.online = true;
  if (said.store !== queue.store) {
    leave();
    queue.store = said.store;
    queue.flush();
  }
  take(said);
};

// What a lease has brought.
const take = (said) => {
  queue.trouble = queue.items.length ? queue.trouble : "";
  if (!progress || !passing.size) progress = said.progress; // else the answers' own replies are newer
  agents = said.agents;
  at("title").textContent = said.title ? `Comparing ${said.title}` : "Comparing";
  const known = new Set(said.questions.map((question) => question.id));
  // A question that somebody else has by now is not asked any more, unless it is being looked at.
  questions = questions.filter((question) => question === shown || known.has(question.id));
  for (const question of said.questions) {
    const here = questions.some((other) => other.id === question.id);
    if (!here && !passing.has(question.id) && !queue.holds(question.id)) questions.push({ ...question, store: said.store });
  }
  for (const question of questions) for (const name of question.segments) clipOf(name).catch(() => {});
  if (questions.length && idle && document.visibilityState !== undefined) ring();
  show();
};

const leased = () => (asking ??= lease().finally(() => { asking = null; tell(); }));

// Have a few questions, with their clips, before they are needed.
const ask = () => { if (annotator) leased().catch(() => {}); };

// A lease that leaves after this call: one that is on its way may be for somebody else, or of another server.
const anew = async () => {
  await asking?.catch(() => {});
  if (!annotator) throw new Error("Nobody has said who they are.");
  await leased();
};

const ring = () => {
  if (!at("sound").checked || !started) return;
  const speaker = new AudioContext(), tone = speaker.createOscillator(), loud = speaker.createGain();
  loud.gain.setValueAtTime(0.12, speaker.currentTime);
  loud.gain.exponentialRampToValueAtTime(0.001, speaker.currentTime + 0.5);
  tone.frequency.value = 660;
  tone.connect(loud).connect(speaker.destination);
  tone.start();
  tone.stop(speaker.currentTime + 0.5);
  document.body.dataset.rung = Number(document.body.dataset.rung || 0) + 1;
};
let started = false; // the first questions of a visit are no news

const element = (name, text, fields = {}) => {
  const made = Object.assign(document.createElement(name), fields);
  if (text) made.append(text);
  return made;
};

const asked = (question) => {
  const who = question.target === "team" ? "the team" : question.target.replace("_", " ");
  if (question.kind === "rating") return `How well does ${who} do?`;
  if (question.kind === "credit") return "Which agent does best?";
  return question.target === "team" ? "Which is better?" : `In which does ${who} do better?`;
};

const choices = (question) => {
  if (question.kind === "pair") {
    return [["first", "First", "1 or ←"], ["equal", "Both alike", "0 or ="], ["second", "Second", "2 or →"]];
  }
  if (question.kind === "rating") {
    return ["bad", "poor", "middling", "good", "very good"].map((word, number) => [`${number + 1}`, word, `${number + 1}`]);
  }
  const names = Array.from({ length: agents }, (_, agent) => [`agent_${agent}`, `agent ${agent}`, `${agent + 1}`]);
  return [...names, ["equal", "All alike", "0 or ="]];
};

const show = () => {
  const question = questions[0] || null;
  at("question").hidden = !question;
  at("idle").hidden = Boolean(question) || !annotator;
  if (!question) {
    idle = started = true;
    shown = null;
    clock.playing = false;
    clock.show([]);
    return;
  }
  idle = false;
  started = true;
  if (shown && shown.id === question.id) return;
  shown = question;
  seen = null;
  at("asked").textContent = asked(question);
  at("about").textContent = question.repeat ? "" : question.target === "team" ? ""
    : `The question is about ${question.target.replace("_", " ")} alone, which is marked.`;
  at("reasons").hidden = true;
  at("skip").setAttribute("aria-expanded", "false");
  at("choices").replaceChildren(...choices(question).map(([answer, text, keys]) => {
    const button = element("button", text, { type: "button", disabled: true });
    button.dataset.answer = answer;
    button.setAttribute("aria-keyshortcuts", keys.replace(" or ", " ").replace("←", "ArrowLeft").replace("→", "ArrowRight"));
    button.append(element("small", `key ${keys}`));
    button.addEventListener("click", () => give(answer));
    return button;
  }));
  const names = question.segments.length > 1 ? ["First", "Second"] : ["Segment"];
  const figures = question.segments.map((name, number) => {
    const canvas = element("canvas", "", { width: 320, height: 320 });
    canvas.setAttribute("role", "img");
    canvas.dataset.name = name;
    canvas.setAttribute("aria-label", `${names[number]}: being loaded`);
    const figure = element("figure", "", { className: "player" });
    const over = element("p", "", { className: "over" }), note = element("p", "Being loaded…", { className: "note" });
    figure.append(element("figcaption", names[number]), canvas, over, note);
    return figure;
  });
  at("players").replaceChildren(...figures);
  at("asked").focus({ preventScroll: true });
  since = performance.now();
  clock.show([]);
  load(question, figures, names);
};

const load = async (question, figures, names) => {
  const players = [];
  await Promise.all(question.segments.map(async (name, number) => {
    const [, canvas, , note] = figures[number].children;
    for (;;) {
      try {
        const clip = await clipOf(name);
        const player = new Player(canvas, clip, question.target);
        await player.ready;
        players[number] = player;
        note.textContent = clip.note || "";
        canvas.setAttribute("aria-label", `${names[number]}: ${describe(clip)}`);
        return;
      } catch (error) {
        if (shown !== question) return;
        note.textContent = `The clip is not here yet (${error.message}); it is tried again.`;
        await new Promise((done) => setTimeout(done, 1500));
      }
    }
  }));
  if (shown !== question || !figures[0].isConnected) return; // it may have been left, and come back to
  since = performance.now();
  const colors = players[0].clip.agents;
  at("agents").replaceChildren(...colors.map(({ name, color }) => {
    const line = element("li", "", { className: question.target === name ? "asked" : "" });
    const dot = element("span", "", { className: "dot" });
    dot.style.background = color;
    line.append(dot, name.replace("_", " "));
    return line;
  }));
  clock.show(players);
  pace();
  players.forEach(({ canvas, clip, reach }, number) => {
    if (failed(clip) || reach === clock.longest.reach) return;
    canvas.setAttribute("aria-label", `${names[number]}: ended before the other, after ${describe(clip)}`);
  });
  clock.playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  controls();
  seen = question;
  for (const button of at("choices").children) button.disabled = false;
  document.body.dataset.shown = question.id;
  const count = players.filter(({ clip }) => failed(clip)).length;
  if (count) retry(question, figures, names, count);
};

// The server draws a clip that failed again a minute later: whoever still looks at the question sees it then.
const retry = async (question, figures, names, count) => {
  for (let left = count; left >= count;) {
    await new Promise((done) => setTimeout(done, MENDED));
    if (shown !== question || !figures[0].isConnected) return;
    const found = await Promise.all(question.segments.map(clipOf)).catch(() => null);
    if (found) left = found.filter(failed).length;
  }
  if (shown === question && figures[0].isConnected) load(question, figures, names);
};

const stepsOf = ({ steps }) => `${steps} step${steps === 1 ? "" : "s"}`;

// For those who do not see: what can be said of a clip in words, without judging it.
const describe = (clip) => {
  const what = `${stepsOf(clip)} of ${clip.agents.length} agent${clip.agents.length === 1 ? "" : "s"}`;
  if (clip.kind !== "positions") return what;
  const paths = clip.places.map((path, agent) => {
    const seen = path.filter(Boolean), end = seen[seen.length - 1];
    if (!end) return "";
    const near = Math.min(...clip.landmarks.map((mark) => mark.filter(Boolean).at(-1)).filter(Boolean)
      .map((mark) => Math.hypot(mark[0] - end[0], mark[1] - end[1])));
    const moved = Math.hypot(end[0] - seen[0][0], end[1] - seen[0][1]);
    return `agent ${agent} moves ${moved.toFixed(1)} and ends ${near.toFixed(1)} from the nearest landmark`;
  });
  return `${what}; ${paths.filter(Boolean).join("; ")}`;
};

const give = (answer, reason = "") => {
  if (!shown || (answer !== "skip" && seen !== shown)) return;
  const question = shown, body = { key: key(), annotator, question: question.id, answer };
  body.response_ms = Math.min(86400000, Math.max(0, Math.round(performance.now() - since)));
  if (reason) body.reason = reason;
  shown = null;
  questions = questions.filter((other) => other.id !== question.id);
  answered.push(question);
  passing.add(question.id);
  queue.push("/api/answers", body, question.store);
  show();
  forget();
  tell();
  if (questions.length <= AHEAD / 2) ask();
};

const undo = () => {
  const question = answered.pop();
  if (!question) return;
  if (!queue.drop(question.id)) queue.push("/api/undo", { key: key(), annotator, question: question.id }, question.store);
  shown = null;
  questions = [question, ...questions];
  show();
  tell();
};

const openReasons = () => {
  const list = at("reasons"), open = list.hidden;
  list.hidden = !open;
  at("skip").setAttribute("aria-expanded", String(open));
  if (!open) return at("skip").focus();
  list.replaceChildren(...REASONS.map((reason, number) => {
    const button = element("button", reason, { type: "button" });
    button.append(element("small", `key ${number + 1}`));
    button.addEventListener("click", () => give("skip", reason));
    return button;
  }));
  list.firstElementChild.focus();
};

const controls = () => {
  at("play").textContent = clock.playing ? "Pause" : "Play";
};

const SPEEDS = [...at("speed").options].map((option) => Number(option.value));
let chosen = Number(kept("speed", "")); // 0 before one was

const pace = () => {
  clock.speed = SPEEDS.includes(chosen) ? chosen : unhurried(clock.longest.seconds, SPEEDS);
  at("speed").value = String(clock.speed);
};

const play = () => {
  if (!clock.playing && clock.part >= 1) clock.seek(0);
  clock.playing = !clock.playing;
  controls();
};

const press = (event) => {
  const { target } = event;
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !shown) return;
  if (target.matches("input:not([type=checkbox]), select, textarea, summary")) return;
  if (event.key === " " && target.matches("button, input")) return; // it presses what has the focus
  const open = !at("reasons").hidden, number = "1234567890".indexOf(event.key);
  const done = () => { event.preventDefault(); return true; };
  if (open && event.key === "Escape") return done() && openReasons();
  if (open && number >= 0 && number < REASONS.length) return done() && give("skip", REASONS[number]);
  const answers = choices(shown).map(([answer]) => answer);
  if (!open && shown.kind === "pair") {
    const meant = { 1: "first", ArrowLeft: "first", 2: "second", ArrowRight: "second", 0: "equal", "=": "equal" }[event.key];
    if (meant) return done() && give(meant);
  } else if (!open && number >= 0 && number < 9 && answers[number] && answers[number] !== "equal") {
    return done() && give(answers[number]);
  } else if (!open && ["0", "="].includes(event.key) && answers.includes("equal")) return done() && give("equal");
  const act = {
    " ": play, s: openReasons, u: undo,
    l: () => { at("loop").click(); }, ",": () => { clock.step(-1); controls(); }, ".": () => { clock.step(1); controls(); },
  }[event.key.toLowerCase()];
  if (act) { done(); act(); }
};

// Ask for a name, also of the next person at this computer. What waits to be sent keeps the name of who answered it.
const greet = () => {
  giveBack(annotator, namesHeld());
  leave();
  at("name").value = annotator;
  annotator = "";
  keep("annotator", "");
  at("you").hidden = true;
  at("who").hidden = false;
  show();
  started = false;
  tell();
  at("name").focus();
  at("name").select();
};

const begin = () => {
  at("who").hidden = true;
  at("your-name").textContent = annotator;
  at("you").hidden = false;
  anew().catch(() => {});
};

addEventListener("keydown", press);
at("play").addEventListener("click", play);
at("time").addEventListener("input", (event) => { clock.playing = false; clock.seek(event.target.value / 1000); controls(); });
at("speed").addEventListener("change", (event) => {
  clock.speed = chosen = Number(event.target.value);
  keep("speed", event.target.value);
});
at("loop").addEventListener("change", (event) => { clock.loop = event.target.checked; });
at("skip").addEventListener("click", openReasons);
for (const id of ["undo", "undo-idle"]) at(id).addEventListener("click", undo);
for (const id of ["sound", "sound-idle"]) {
  at(id).checked = kept("sound", "no") === "yes";
  at(id).addEventListener("change", (event) => {
    keep("sound", event.target.checked ? "yes" : "no");
    at("sound").checked = at("sound-idle").checked = event.target.checked;
  });
}
at("who").addEventListener("submit", (event) => {
  event.preventDefault();
  annotator = at("name").value.trim().normalize("NFC");
  keep("annotator", annotator);
  queue.trouble = "";
  begin();
});
at("other").addEventListener("click", greet);
addEventListener("pagehide", () => giveBack(annotator, namesHeld()));
addEventListener("online", ask);
setInterval(() => { if (!questions.length && document.visibilityState === "visible") ask(); }, ASK_AGAIN);
setInterval(() => { if (questions.length && document.visibilityState === "visible") ask(); }, RENEW);

if (annotator) begin();
else greet();
queue.flush();
tell();
