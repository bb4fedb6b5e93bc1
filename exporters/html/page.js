// The page: lays out what the JSON says (docs/report-json.md). Every text is set as text.

const PERIOD_MS = 1000;
const PATIENCE_MS = 10000;
const many = () => state.data.processes.length > 1;
// The rows of a list that every process has. of: which of several processes, as it stands behind the first column.
const rowsOf = (processes, list) => processes.flatMap((process) =>
  list(process).map((row) => ({...row, of: many() ? ` (${process.pid || process.process})` : ""})));
const state = {
  data: null, paused: false, open: new Set(), timelines: new Map(), flames: new Map(), findings: "", names: new Map(),
};
const bare = (label) => label.split(".").slice(-2).join(".");
// asyncio's code and ours is called by what it does.
const readable = (label) => state.names.get(label) ?? label;
const nameOf = (row) => readable(row.culprit === "unknown" ? row.callback : row.culprit);
const placeOf = (wait) =>
  wait.file ? `${bare(wait.function)} (${wait.file.split("/").pop()}:${wait.line})` : wait.function;
// What several functions of the loop do together, one thing to the reader, is one row.
function byName(callbacks) {
  const rows = new Map();
  for (const each of callbacks) {
    const row = rows.get(each.name);
    rows.set(each.name, row === undefined ? {...each, names: [each.callback]} : {
      ...row,
      names: [...row.names, each.callback],
      runs: row.runs + each.runs,
      seconds: row.seconds + each.seconds,
      longest_seconds: Math.max(row.longest_seconds, each.longest_seconds),
      runs_by_duration: row.runs_by_duration.map((number, index) => number + each.runs_by_duration[index]),
    });
  }
  return [...rows.values()];
}

const isRough = (wait) => wait.estimated_seconds > 0.1 * wait.seconds;

function section(id, title, ...children) {
  return element("section", {id, "aria-label": title}, element("h2", {text: title}), ...children);
}

const drill = new CallbackView(state.open, () => {
  showDrill();
  tables.callbacks.element.querySelector("button.link")?.focus();
});

function openCallback(row) {
  drill.choose(row);
  showDrill();
  const part = document.getElementById("callback");
  part.scrollIntoView({block: "nearest"});
  part.querySelector("button").focus({preventScroll: true});
}

const tables = {
  loops: new SortedTable("Loops", [
    named("loop", (row) => row.where),
    measured("utilization", (row) => row.utilization, percent),
    measured("callbacks", (row) => row.callbacks, count),
    measured("delay p50", (row) => row.schedule_delay[0]?.p50_seconds ?? null),
    measured("delay p99", (row) => row.schedule_delay[0]?.p99_seconds ?? null),
    measured("slow", (row) => row.slow_callbacks, count),
    measured("tasks", (row) => row.tasks.alive, count),
    measured("timers", (row) => row.timers.live, count),
    measured("blocked for", (row) => row.stall ? row.stall.seconds : 0),
  ], 2),
  callbacks: new SortedTable("Callbacks", [
    named("callback", (row) => row.name, openCallback),
    named("loop", (row) => row.where),
    measured("runs", (row) => row.runs, count),
    measured("time", (row) => row.seconds),
    measured("share", (row) => row.share, percent),
    measured("mean", (row) => row.seconds / Math.max(1, row.runs)),
    measured("longest", (row) => row.longest_seconds),
  ], 3, true),
  slow: new SortedTable("Slow callbacks", [
    {...named("callback", (row) => row.callback), text: (row) => readable(row.callback)},
    {...named("culprit", (row) => row.culprit),
      text: (row) => row.culprit === "unknown" ? "no stack was taken" : readable(row.culprit)},
    named("cause", (row) => row.cause),
    measured("runs", (row) => row.runs, count),
    measured("time", (row) => row.seconds),
    measured("longest", (row) => row.longest_seconds),
    measured("others waited", (row) => row.blocked_seconds),
  ], 4),
  blocked: new SortedTable("Who waited for whom", [
    named("who blocked", nameOf),
    named("who waited", (row) => row.victim_name),
    measured("times", (row) => row.times, count),
    measured("waited", (row) => row.seconds),
  ], 3),
  executors: new SortedTable("Executors", [
    named("executor", (row) => row.where),
    measured("workers", (row) => row.max_workers, count),
    measured("active", (row) => row.active, count),
    measured("waiting", (row) => row.waiting, count),
    measured("runs", (row) => row.ran.count, count),
    measured("time", (row) => row.ran.sum_seconds),
    measured("queued p99", (row) => row.queued.p99_seconds),
    measured("ran p99", (row) => row.ran.p99_seconds),
    measured("full for", (row) => row.full_seconds),
  ], 5),
  profile: new SortedTable("Where the loop's time went by line", [
    named("line", (row) => row.file
      ? `${bare(row.function).replace(/^__main__\./, "")}, ${row.file.split("/").pop()}:${row.line}` : row.function),
    named("request or callback", (row) => row.request ?? row.callback),
    measured("time", (row) => row.seconds),
    measured("share", (row) => row.share, percent),
    measured("samples", (row) => row.samples, count),
  ], 2),
  waits: new SortedTable("Where tasks waited", [
    named("place", (row) => row.place),
    named("for", (row) => row.inside),
    named("task", (row) => row.coroutine),
    measured("waits", (row) => row.waits, count),
    {...measured("in all", (row) => row.seconds), text: (row) => (isRough(row) ? "~" : "") + seconds(row.seconds)},
    measured("longest", (row) => row.longest_seconds),
    measured("now", (row) => row.now, count),
  ], 4),
  requests: new SortedTable("Requests", [
    named("request", (row) => row.request),
    measured("count", (row) => row.count, count),
    measured("p50", (row) => row.p50_seconds),
    measured("p99", (row) => row.p99_seconds),
    measured("longest", (row) => row.longest_seconds),
    measured("mean", (row) => row.mean_seconds),
    measured("running", (row) => row.mean.running),
    measured("ready", (row) => row.mean.ready),
    measured("executor", (row) => row.mean.executor),
    measured("waiting", (row) => row.mean.waiting),
    measured("not known", (row) => row.mean.unknown),
  ], 3),
  slowest: new SortedTable("Slowest requests", [
    named("request", (row) => row.request),
    measured("took", (row) => row.seconds),
    measured("running", (row) => row.groups.running),
    measured("ready", (row) => row.groups.ready),
    measured("executor", (row) => row.groups.executor),
    measured("waiting", (row) => row.groups.waiting),
    named("most of all", (row) => row.most),
  ], 1),
  tasks: new SortedTable("Tasks by coroutine", [
    named("coroutine", (row) => row.coroutine),
    measured("tasks", (row) => row.tasks, count),
    measured("steps", (row) => row.steps, count),
    measured("running", (row) => row.running_seconds),
    measured("ready", (row) => row.ready_seconds),
    measured("suspended", (row) => row.suspended_seconds),
    measured("longest step", (row) => row.longest_step_seconds),
  ], 3),
  heaps: new SortedTable("Memory, garbage, timers", [
    named("process", (row) => row.where),
    measured("memory", (row) => row.resident_bytes, size),
    measured("most", (row) => row.most_resident_bytes, size),
    measured("blocks", (row) => row.allocated_blocks, count),
    measured("collections", (row) => row.collections, count),
    measured("time", (row) => row.collecting),
    measured("longest", (row) => row.longest),
    measured("grew", (row) => row.growth.length, count),
  ], 1),
};

const parts = {
  findings: element("div"),
  tiles: element("dl", {class: "tiles"}),
  timelines: element("div"),
  now: element("div"),
  stalls: element("div"),
  flames: element("div"),
  sampled: element("p", {class: "dim"}),
};
const layout = [
  section("findings", "What is wrong", parts.findings),
  section("overview", "Overview", parts.tiles),
  section("loops", "Loops", tables.loops.element, parts.now),
  section("timeline", "Timeline", parts.timelines),
  section("callbacks", "Callbacks by time", tables.callbacks.element),
  section("callback", "One callback", drill.element),
  section("profile", "Where the time went by line", tables.profile.element, parts.flames, parts.sampled),
  section("slow", "Slow callbacks", tables.slow.element, parts.stalls),
  section("blocked", "Who waited for whom", tables.blocked.element),
  section("requests", "Requests: where the mean's time went", tables.requests.element),
  section("slowest", "Slowest requests", tables.slowest.element),
  section("waits", "Where tasks waited", tables.waits.element),
  section("executors", "Executors", tables.executors.element),
  section("tasks", "Tasks by coroutine", tables.tasks.element),
  section("heaps", "Memory and garbage", tables.heaps.element),
];

function show(data) {
  state.data = data;
  document.title = `traceloop: ${data.command}`;
  document.getElementById("title").textContent = data.command || "traceloop";
  const read = new Date(data.generated * 1000).toLocaleString();
  tell(data.live ? `live, as of ${clock(data.generated)}` : `recorded; read ${read}`);
  const loops = data.processes.flatMap((process) => process.loops.map((loop) =>
    ({...loop, process, where: many() ? `${loop.loop} (${process.pid || process.process})` : loop.loop})));
  state.names = new Map(loops.flatMap((loop) => loop.by_callback.map((each) => [each.callback, each.name])));
  showFindings(data);
  showTiles(data, loops);
  tables.loops.update(loops);
  parts.now.replaceChildren(...loops.filter((loop) => loop.stall).map((loop) => element("div", {},
    element("p", {class: "late",
      text: `${loop.where} has been blocked for ${seconds(loop.stall.seconds)} by ${nameOf(loop.stall)}`}),
    stackOf(loop.stall.stack))));
  showTimelines(data, loops);
  const callbacks = loops.flatMap((loop) => {
    const total = loop.by_callback.reduce((sum, each) => sum + each.seconds, 0);
    return byName(loop.by_callback).map((each) =>
      ({...each, process: loop.process, where: loop.where, share: total ? each.seconds / total : 0,
        bounds: data.duration_bounds_seconds}));
  });
  tables.callbacks.update(callbacks);
  drill.update(callbacks);
  showProfile(data, loops);
  tables.slow.update(rowsOf(data.processes, (process) => process.loops.flatMap((loop) => loop.slow)));
  showStalls(data.processes.flatMap((process) => process.stalls));
  tables.blocked.update(rowsOf(data.processes, (process) => process.blocked));
  tables.requests.update(rowsOf(data.processes, (process) => process.requests.by_name));
  tables.slowest.update(rowsOf(data.processes, (process) => process.requests.slowest.map((each) =>
    ({...each, most: each.details.slice(0, 2).map((detail) =>
      `${detail.part.replaceAll("_", " ")} ${detail.detail} ${seconds(detail.seconds)}`).join(", ")}))));
  tables.waits.update(rowsOf(data.processes, (process) => process.waits.map((each) =>
    ({...each, place: placeOf(each)}))));
  tables.executors.update(data.processes.flatMap((process) => process.executors.map((each) =>
    ({...each, where: many() ? `${each.executor} (${process.pid || process.process})` : each.executor}))));
  tables.tasks.update(rowsOf(data.processes, (process) => process.loops.flatMap((loop) => loop.coroutines)));
  tables.heaps.update(data.processes.map((process) => ({
    ...process,
    where: `${process.process} (pid ${process.pid})`,
    collections: process.garbage.reduce((sum, each) => sum + each.count, 0),
    collecting: process.garbage.reduce((sum, each) => sum + each.seconds, 0),
    longest: process.garbage.reduce((most, each) => Math.max(most, each.longest_seconds), 0),
  })));
  for (const part of layout) {
    const table = tables[part.id];
    if (table) part.hidden = !table.rows.length;
  }
  showDrill();
}

// The one callback that was chosen, or none; and with it the list of parts.
function showDrill() {
  layout.find((part) => part.id === "callback").hidden = drill.chosen === null;
  refill(document.getElementById("nav"), ...layout.filter((part) => !part.hidden).map((part) =>
    element("a", {href: `#${part.id}`, "data-key": part.id, text: part.getAttribute("aria-label")})));
}

// What several processes have alike (workers of a server) is one entry, where the worst of it stands.
function together(findings) {
  const groups = new Map();
  for (const each of findings) {
    const key = `${each.kind} ${each.title}`;
    const those = groups.get(key);
    if (those === undefined) groups.set(key, [each]);
    else if (those.some((one) => one.process === each.process)) groups.set(`${key} ${groups.size}`, [each]);
    else those.push(each);
  }
  return [...groups.values()];
}

function processOf(finding) {
  const process = state.data.processes.find((each) => each.process === finding.process);
  return `process ${process?.pid || finding.process}`;
}

// What is said where nothing was found.
function allClear(data) {
  if (data.verdict.healthy) return `No trouble found: ${data.verdict.basis}`;
  return data.live && !data.overview.callbacks
    ? "Waiting for the first callback: no loop of the program has run one yet"
    : `Nothing is known of the program: ${data.verdict.basis}`;
}

function showFindings(data) {
  const found = JSON.stringify([data.verdict, data.overview.callbacks === 0]);
  if (found === state.findings) return;
  state.findings = found;
  const shown = together(data.verdict.findings).map(([each, ...others]) =>
    element("article", {class: `finding ${each.severity}`},
    element("span", {class: "badge", text: each.severity}),
    element("h3", {text: each.title + (many() ? ` (${processOf(each)})` : "")}),
    element("p", {text: each.harm}),
    others.length
      ? element("p", {text: `likewise ${others.map((one) => `in ${processOf(one)}: ${one.harm}`).join("; ")}`}) : null,
    each.evidence.length ? element("ul", {}, ...each.evidence.map((line) => element("li", {text: line}))) : null,
    each.stack.length > 1 ? element("p", {class: "stack", text: each.stack.join(", called by ")}) : null,
    element("p", {class: "remedy"}, "What to do: ", ...withCode(each.remedy)),
    element("p", {class: "more", text: `More: traceloop explain ${each.kind}`})));
  const clear = data.verdict.findings.every((each) => each.severity === "note");
  const healthy = clear
    ? element("p", {class: data.verdict.healthy ? "healthy" : "", text: `${allClear(data)}.`}) : null;
  const busy = data.verdict.busy.map((sentence) => element("p", {}, ...withCode(`${sentence}.`)));
  parts.findings.replaceChildren(...[healthy, ...busy, ...shown].filter((child) => child !== null));
}

// Text with what stands between backquotes as code.
function withCode(text) {
  return text.split("`").map((part, index) => index % 2 ? element("code", {text: part}) : part);
}

function showTiles(data, loops) {
  const late = loops.map((loop) => loop.schedule_delay[0]?.p99_seconds ?? 0);
  const {records_dropped: dropped, records_overwritten: overwritten} = data.overview;
  const tiles = [
    ["callbacks", data.overview.callbacks, count], ["utilization", data.overview.utilization, percent],
    ["delay p99", Math.max(0, ...late), seconds], ["slow callbacks", data.overview.slow_callbacks, count],
    ["processes", data.overview.processes, count], ["records dropped", dropped - overwritten, count],
  ];
  if (overwritten) tiles.push(["older records overwritten", overwritten, count]);
  parts.tiles.replaceChildren(...tiles.map(([name, value, format]) => element("div", {},
    element("dt", {text: name}), element("dd", {"data-name": name, "data-value": value, text: format(value)}))));
}

function showTimelines(data, loops) {
  const shown = loops.filter((loop) => loop.timeline.length).slice(0, 8);
  const keys = shown.map((loop) => loop.where);
  if (keys.join("\n") !== [...state.timelines.keys()].join("\n")) {
    state.timelines = new Map(keys.map((key) => [key, state.timelines.get(key) ?? new Timeline(key)]));
    parts.timelines.replaceChildren(...[...state.timelines.values()].map((each) => each.element));
  }
  // Before it can be measured how wide it is, it has to be shown.
  document.getElementById("timeline").hidden = !shown.length;
  const axis = axisOf(shown.map((loop) => loop.timeline), data.live, data.generated);
  for (const loop of shown) state.timelines.get(loop.where).update(loop.timeline, loop.process.stalls, axis);
}

function showProfile(data, loops) {
  const those = data.processes.filter((process) => process.profile !== null);
  tables.profile.update(rowsOf(those, (process) => process.profile.lines));
  const shown = those.slice(0, 8).map((process) =>
    [many() ? `process ${process.process} (pid ${process.pid})` : "the loop's time", process]);
  if (shown.map(([key]) => key).join("\n") !== [...state.flames.keys()].join("\n")) {
    state.flames = new Map(shown.map(([key]) => [key, state.flames.get(key) ?? new FlameGraph(key)]));
    parts.flames.replaceChildren(...[...state.flames.values()].map((each) => each.element));
  }
  // Before it can be measured how wide it is, it has to be shown.
  document.getElementById("profile").hidden = !those.length;
  for (const [key, process] of shown) state.flames.get(key).update(process.profile.tree, process.profile.requests);
  const samples = those.reduce((sum, process) => sum + process.profile.samples, 0);
  const idle = loops.reduce((sum, loop) => sum + loop.idle_seconds, 0);
  const cut = those.reduce((sum, process) => sum + process.profile.cut_samples + process.profile.lost_samples, 0);
  parts.sampled.textContent = `${count(samples)} samples${those.length ? ` at ${those[0].profile.rate} Hz` : ""}; `
    + `the loops were idle for ${seconds(idle)}, which is left out`
    + (cut ? `; the stacks of ${count(cut)} samples are not whole` : "");
}

function showStalls(stalls) {
  const latest = stalls.slice(-10).reverse();
  refill(parts.stalls, ...latest.map((stall) => {
    const key = `${stall.start} ${stall.culprit}`;
    const made = element("details", {open: state.open.has(key)},
      element("summary", {
        "data-key": key, text: `${clock(stall.start)}  ${seconds(stall.seconds)}  ${nameOf(stall)}`,
      }),
      stackOf(stall.stack));
    made.addEventListener("toggle", () => made.open ? state.open.add(key) : state.open.delete(key));
    return made;
  }));
}

function stackOf(lines) {
  const shown = lines.length ? lines : ["no stack was taken"];
  return element("ol", {class: "stack"}, ...shown.map((line) => element("li", {text: line})));
}

function tell(text) {
  document.getElementById("status").textContent = text;
}

async function follow() {
  let wait = PERIOD_MS;
  if (!state.paused && !document.hidden) {
    const given = new AbortController(), patience = setTimeout(() => given.abort(), PATIENCE_MS);
    try {
      const answer = await fetch("data.json", {cache: "no-store", signal: given.signal});
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const data = await answer.json();
      // It may have been paused while the answer was on its way.
      if (!state.paused) show(data);
    } catch (error) {
      wait = 3000;
      const shown = state.data ? ` Shown: ${clock(state.data.generated)}.` : "";
      tell(`No answer: the program has ended, or cannot be reached.${shown}`);
    } finally {
      clearTimeout(patience);
    }
  }
  setTimeout(follow, wait);
}

function changeTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  for (const each of state.timelines.values()) each.draw();
}

function pause() {
  state.paused = !state.paused;
  document.getElementById("pause").textContent = state.paused ? "Go on" : "Pause";
}

document.getElementById("theme").addEventListener("click", changeTheme);
document.getElementById("pause").addEventListener("click", pause);
document.addEventListener("keydown", (event) => {
  if (event.target instanceof HTMLInputElement || event.ctrlKey || event.altKey || event.metaKey) return;
  const actions = {"/": () => tables.callbacks.input.focus(), p: () => embedded === null && pause(), t: changeTheme};
  if (drill.chosen !== null) actions.Escape = () => { drill.choose(null); showDrill(); };
  const action = actions[event.key];
  if (action) { event.preventDefault(); action(); }
});
window.addEventListener("resize", () => {
  for (const each of [...state.timelines.values(), ...state.flames.values()]) each.draw();
});
document.getElementById("main").replaceChildren(...layout);
const embedded = JSON.parse(document.getElementById("data").textContent);
if (embedded === null) {
  document.getElementById("pause").hidden = false;
  follow();
} else {
  show(embedded);
}
