// One callback by itself: how long its runs were, its latest slow runs, who waited for it, which lines took its time,
// and where its tasks waited. All of it is in the JSON already; this only picks it out.

class CallbackView {
  // open: a set that remembers which stacks are shown. closed: called when the view is closed.
  constructor(open, closed) {
    this.open = open;
    this.chosen = null;
    this.shown = "";
    this.body = element("div");
    this.title = element("h3");
    this.element = element("div", {}, this.title,
      element("button", {type: "button", text: "Close", click: () => { this.choose(null); closed(); }}), this.body);
  }

  // row: of the table of callbacks, with its process and the names of the callbacks that it stands for.
  choose(row) {
    this.chosen = row;
    this.shown = "";
    this.body.replaceChildren();
    if (row !== null) this.draw(row);
  }

  // The same callback in newer data, where it is there.
  update(rows) {
    if (this.chosen === null) return;
    this.draw(rows.find((row) => row.name === this.chosen.name && row.where === this.chosen.where) ?? this.chosen);
  }

  draw(row) {
    this.chosen = row;
    const ours = (each) => row.names.includes(each.callback) && each.times !== 0;
    const process = row.process;
    const found = {
      stalls: process.stalls.filter(ours),
      blocked: process.blocked.filter(ours),
      lines: (process.profile?.lines ?? []).filter(ours),
      waits: process.waits.filter((each) => row.names.includes(each.coroutine)),
    };
    const shown = JSON.stringify([row.runs, row.seconds, row.longest_seconds, found]);
    if (shown === this.shown) return;
    this.shown = shown;
    this.title.textContent = row.where ? `${row.name}, ${row.where}` : row.name;
    refill(
      this.body,
      element("p", {text: `${count(row.runs)} runs took ${seconds(row.seconds)}, ${percent(row.share)} of the loop's `
        + `time in callbacks; ${seconds(row.seconds / Math.max(1, row.runs))} on average, `
        + `${seconds(row.longest_seconds)} at most`}),
      ...this.lengths(row),
      ...this.slow(found.stalls),
      ...this.list("Lines that took its time", found.lines, (each) =>
        `${seconds(each.seconds)}  ${lineOf(each)}${each.function}`),
      ...this.list("Who waited for its slow runs", byVictim(found.blocked), (each) =>
        `${each.victim_name}: ${count(each.times)} times, ${seconds(each.seconds)}`),
      ...this.list("Where its tasks waited", found.waits, (each) =>
        `${seconds(each.seconds)}  ${each.inside} at ${each.file.split("/").pop()}:${each.line}`));
  }

  // A bar for each length, from the shortest that there was to the longest. Runs are few where they are long: bars grow
  // with the number's logarithm, and the number stands beside them.
  lengths(row) {
    const counts = row.runs_by_duration;
    const first = counts.findIndex((number) => number > 0);
    if (first < 0) return [];
    const last = counts.map(Boolean).lastIndexOf(true);
    const most = Math.log1p(Math.max(...counts));
    const bars = counts.slice(first, last + 1).map((number, index) => {
      const at = first + index;
      const range = at < row.bounds.length
        ? `to ${seconds(row.bounds[at])}` : `above ${seconds(row.bounds[row.bounds.length - 1])}`;
      const bar = element("span", {class: "bar"});
      bar.style.width = `${Math.log1p(number) / most * 12}rem`;
      return element("li", {"data-value": number}, element("span", {class: "from", text: range}), bar,
        element("span", {text: count(number)}));
    });
    return [element("h4", {text: "All its runs by length"}), element("ul", {class: "bars"}, ...bars)];
  }

  slow(stalls) {
    if (!stalls.length) return [element("p", {class: "dim", text: "No slow run of it is known."})];
    const stacks = stalls.slice(-5).reverse().map((stall) => {
      const key = `drill ${stall.start} ${stall.culprit}`;
      const cause = stall.cause ? ` (${stall.cause.replaceAll("_", " ")})` : "";
      const made = element("details", {open: this.open.has(key)},
        element("summary", {
          "data-key": key, text: `${clock(stall.start)}  ${seconds(stall.seconds)}  ${nameOf(stall)}${cause}`,
        }),
        stackOf(stall.stack));
      made.addEventListener("toggle", () => made.open ? this.open.add(key) : this.open.delete(key));
      return made;
    });
    return [element("h4", {text: "Its latest slow runs, with their stacks"}), ...stacks];
  }

  list(title, rows, text) {
    if (!rows.length) return [];
    return [element("h4", {text: title}),
      element("ul", {class: "stack"}, ...rows.slice(0, 10).map((each) => element("li", {text: text(each)})))];
  }
}

// The waits behind one callback have a row for each culprit: one for each who waited, the longest first.
function byVictim(blocked) {
  const rows = new Map();
  for (const {victim_name, times, seconds} of blocked) {
    const row = rows.get(victim_name) ?? {victim_name, times: 0, seconds: 0};
    rows.set(victim_name, {...row, times: row.times + times, seconds: row.seconds + seconds});
  }
  return [...rows.values()].sort((a, b) => b.seconds - a.seconds);
}

function lineOf(each) {
  return each.file ? `${each.file.split("/").pop()}:${each.line} in ` : "";
}
