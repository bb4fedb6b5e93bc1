// Rows that a table shows at first, and at most.
const FEW_ROWS = 12;
const MOST_ROWS = 200;

// Sortable tables. A column: {title, value(row), text(row), name: left-aligned}. Rows are replaced, headers stay, so
// that the focus and the order that was chosen outlive a refresh.

class SortedTable {
  constructor(caption, columns, first, filter = false) {
    this.columns = columns;
    this.order = first;
    this.descending = true;
    this.rows = [];
    this.wanted = "";
    this.heads = columns.map((column, index) => element("th", {scope: "col", class: column.name ? "name" : null},
      element("button", {type: "button", text: column.title, click: () => this.sort(index)})));
    this.body = element("tbody");
    this.all = false;
    this.expand = element("button", {type: "button", click: () => { this.all = !this.all; this.draw(); }});
    this.more = element("p", {class: "dim"});
    const head = element("thead", {}, element("tr", {}, ...this.heads));
    const table = element("table", {"aria-label": caption}, head, this.body);
    const scrolled = element("div", {class: "scroll"}, table);
    this.element = element("div", {}, filter ? this.makeFilter(caption) : null, scrolled, this.expand, this.more);
    this.mark();
  }

  makeFilter(caption) {
    this.input = element("input", {type: "search", "aria-label": `Filter: ${caption}`, placeholder: "Filter"});
    this.input.addEventListener("input", () => { this.wanted = this.input.value.toLowerCase(); this.draw(); });
    return element("label", {}, this.input);
  }

  sort(index) {
    this.descending = this.order === index ? !this.descending : !this.columns[index].name;
    this.order = index;
    this.mark();
    this.draw();
  }

  mark() {
    this.heads.forEach((head, index) => head.setAttribute("aria-sort",
      index !== this.order ? "none" : this.descending ? "descending" : "ascending"));
  }

  update(rows) {
    this.rows = rows;
    this.draw();
  }

  cell(column, row) {
    const of = column === this.columns[0] ? row.of ?? "" : "";
    const about = {class: column.name ? "name" : null, "data-value": column.value(row)};
    if (!column.name) return element("td", {...about, text: column.text(row)});
    if (!column.press) return element("td", about, ...breakable(column.text(row) + of));
    const key = `${column.value(row)} ${row.where ?? ""}`;
    const press = {type: "button", class: "link", "data-key": key, click: () => column.press(row)};
    return element("td", about, element("button", press, ...breakable(column.text(row))));
  }

  draw() {
    const column = this.columns[this.order], sign = this.descending ? -1 : 1;
    const shown = this.rows.filter((row) => !this.wanted || this.columns.some((each) =>
      each.name && String(each.text(row)).toLowerCase().includes(this.wanted)));
    shown.sort((a, b) => {
      const x = column.value(a), y = column.value(b);
      return sign * (typeof x === "string" ? x.localeCompare(y) : (x ?? -1) - (y ?? -1));
    });
    // Two rows more are no longer than the button that would show them.
    const cut = shown.length > FEW_ROWS + 2, most = cut && !this.all ? FEW_ROWS : MOST_ROWS;
    refill(this.body, ...shown.slice(0, most).map((row) =>
      element("tr", {}, ...this.columns.map((each) => this.cell(each, row)))));
    this.expand.hidden = !cut;
    this.expand.textContent = this.all ? `Show the first ${FEW_ROWS}` : `Show all ${count(shown.length)}`;
    this.more.textContent = this.all && shown.length > MOST_ROWS ? `and ${count(shown.length - MOST_ROWS)} more` : "";
  }
}

// press(row): what happens when the name is pressed; null: nothing.
function named(title, value, press = null) {
  return {title, value, text: value, name: true, press};
}

function measured(title, value, format = seconds) {
  return {title, value, text: (row) => format(value(row))};
}
