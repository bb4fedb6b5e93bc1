// A flame graph, the callbacks or the requests at the top: a box for each node, as wide as its time. A box is chosen by
// a click or by the arrow keys; Enter widens it to the whole width, Escape goes back up. Names are set as text only.

const ROW = 22;
const THINNEST = 1.5;
const KINDS = {callback: "callback of the loop", request: "request", library: "library, its frames folded"};

class FlameGraph {
  constructor(label) {
    this.root = null;
    this.trees = {};
    this.by = null;      // which of them was chosen; null: by request where there are any
    this.path = [];      // from the root to what is widened
    this.chosen = null;  // path to the chosen box
    this.wanted = "";
    this.boxes = new Map();
    this.graph = element("div", {class: "flame", role: "tree", "aria-label": `Flame graph of ${label}`});
    this.note = element("p", {class: "dim", "aria-live": "polite"});
    this.input = element("input",
      {type: "search", placeholder: "Find", "aria-label": `Find in the flame graph of ${label}`});
    this.input.addEventListener("input", () => { this.wanted = this.input.value.toLowerCase(); this.draw(); });
    this.back = element("button", {type: "button", text: "Whole graph", click: () => this.widen([])});
    this.choices = ["request", "callback"].map((by) =>
      element("button", {type: "button", text: `By ${by}`, click: () => { this.by = by; this.show(); }}));
    const tools = element("p", {class: "flame-tools"},
      ...this.choices, " ", element("label", {}, this.input), this.back);
    this.element = element("div", {}, element("h3", {text: label}), tools, this.graph, this.note);
    this.graph.addEventListener("keydown", (event) => this.press(event));
  }

  // requests: the tree by request, or null.
  update(tree, requests) {
    const text = JSON.stringify([tree, requests]);
    if (text === this.text) return;
    this.text = text;
    this.trees = {callback: tree, request: requests};
    this.show();
  }

  show() {
    const by = this.trees.request ? this.by ?? "request" : "callback";
    this.choices.forEach((button) => {
      button.hidden = !this.trees.request;
      button.setAttribute("aria-pressed", String(button.textContent === `By ${by}`));
    });
    this.root = this.trees[by];
    while (this.path.length && !this.find(this.path)) this.path.pop();
    this.draw();
  }

  // The nodes along a path of names, the root first; null where there is none any more.
  walk(path) {
    const out = [this.root];
    for (const key of path) {
      const next = out[out.length - 1].children.find((child) => keyOf(child) === key);
      if (!next) return null;
      out.push(next);
    }
    return out;
  }

  find(path) {
    return this.walk(path)?.pop() ?? null;
  }

  draw() {
    const width = this.graph.clientWidth;
    if (!this.root || !width) return;
    const focused = this.graph.contains(document.activeElement);
    const way = this.walk(this.path);
    const top = way[way.length - 1];
    this.boxes.clear();
    const made = [];
    const place = (node, path, left, room, row) => {
      made.push(this.box(node, path, left, room, row));
      let at = left;
      for (const child of node.children) {
        const size = node.seconds ? room * child.seconds / node.seconds : 0;
        if (size >= THINNEST) place(child, [...path, keyOf(child)], at, size, row + 1);
        at += size;
      }
    };
    // What leads to a widened box stands above it, over the whole width.
    way.slice(1, -1).forEach((node, index) =>
      made.push(this.box(node, this.path.slice(0, index + 1), 0, width, index)));
    const first = Math.max(0, way.length - 2);
    if (this.path.length) place(top, this.path, 0, width, first);
    else this.placeAll(top, width, place);
    const rows = Math.max(1, ...made.map((box) => Number(box.dataset.row) + 1));
    this.graph.style.height = `${rows * ROW}px`;
    this.graph.replaceChildren(...made);
    const key = JSON.stringify(this.chosen);
    const current = this.boxes.get(key) ?? made[0];
    if (current) current.tabIndex = 0;
    if (focused && current) current.focus({preventScroll: true});
    this.back.hidden = !this.path.length;
    this.describe();
  }

  placeAll(root, width, place) {
    let at = 0;
    for (const child of root.children) {
      const size = root.seconds ? width * child.seconds / root.seconds : 0;
      if (size >= THINNEST) place(child, [keyOf(child)], at, size, 0);
      at += size;
    }
  }

  box(node, path, left, room, row) {
    const found = this.wanted && `${node.name} ${node.place}`.toLowerCase().includes(this.wanted);
    const text = node.place ? `${node.name}  ${node.place}` : node.name;
    const made = element("div", {
      class: `box ${node.kind}${found ? " found" : this.wanted ? " pale" : ""}`,
      role: "treeitem", "aria-level": path.length, tabindex: -1, "data-row": row, "data-value": node.seconds,
      "aria-label": `${text}: ${this.measure(node)}`,
      "aria-selected": JSON.stringify(path) === JSON.stringify(this.chosen),
      text: room > 30 ? text : "",
    });
    made.style.left = `${left}px`;
    made.style.width = `${Math.max(1, room - 1)}px`;
    made.style.top = `${row * ROW}px`;
    made.addEventListener("click", () => { this.choose(path); this.widen(path); });
    made.addEventListener("mouseenter", () => this.describe(node));
    made.addEventListener("mouseleave", () => this.describe());
    made.addEventListener("focus", () => this.choose(path));
    this.boxes.set(JSON.stringify(path), made);
    return made;
  }

  measure(node) {
    return `${seconds(node.seconds)}, ${percent(this.root.seconds ? node.seconds / this.root.seconds : 0)}`;
  }

  choose(path) {
    const before = this.boxes.get(JSON.stringify(this.chosen));
    if (before) { before.setAttribute("aria-selected", "false"); before.tabIndex = -1; }
    this.chosen = path;
    const box = this.boxes.get(JSON.stringify(path));
    if (box) { box.setAttribute("aria-selected", "true"); box.tabIndex = 0; }
    this.describe();
  }

  widen(path) {
    this.path = path;
    this.draw();
    this.boxes.get(JSON.stringify(this.chosen))?.focus({preventScroll: true});
  }

  press(event) {
    const path = this.chosen ?? this.path;
    const above = this.find(path.slice(0, -1)), node = this.find(path);
    if (!above || !node) return;
    const beside = above.children.indexOf(node);
    const next = {
      ArrowUp: () => path.length > 1 ? path.slice(0, -1) : null,
      ArrowDown: () => node.children.length ? [...path, keyOf(node.children[0])] : null,
      ArrowLeft: () => beside > 0 ? [...path.slice(0, -1), keyOf(above.children[beside - 1])] : null,
      ArrowRight: () => above.children[beside + 1] ? [...path.slice(0, -1), keyOf(above.children[beside + 1])] : null,
    }[event.key];
    if (next) {
      event.preventDefault();
      const to = next();
      if (to) this.boxes.get(JSON.stringify(to))?.focus({preventScroll: true});
    } else if (event.key === "Enter") {
      event.preventDefault();
      this.widen(path);
    } else if (event.key === "Escape") {
      event.preventDefault();
      this.widen(this.path.slice(0, -1));
    }
  }

  describe(node = this.chosen && this.root ? this.find(this.chosen) : null) {
    if (!node) {
      this.note.textContent = "Width: time. Arrow keys move, Enter widens, Escape goes back.";
      return;
    }
    const own = node.seconds - node.children.reduce((sum, child) => sum + child.seconds, 0);
    const kind = KINDS[node.kind] ? ` (${KINDS[node.kind]})` : "";
    const place = node.place ? `, ${node.place}` : "";
    this.note.textContent =
      `${node.name}${place}${kind}: ${this.measure(node)}; itself ${seconds(Math.max(0, own))}`;
  }
}

function keyOf(node) {
  return `${node.kind} ${node.name} ${node.place}`;
}
