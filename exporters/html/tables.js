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
    this.more = element("p", {class: "dim"});
    const head = element("thead", {}, element("tr", {}, ...this.heads));
    const table = element("table", {"aria-label": caption}, head, this.body);
    const scrolled = element("div", {class: "scroll"}, table);
    this.element = element("div", {}, filter ? this.makeFilter(caption) : null, scrolled, this.more);
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
    const about = {class: column.name ? "name" : null, "data-value": column.value(row)};
    if (!column.press) return element("td", {...about, text: column.text(row)});
    const key = `${column.value(row)} ${row.where ?? ""}`;
    return element("td", about, element("button",
      {type: "button", class: "link", "data-key": key, text: column.text(row), click: () => column.press(row)}));
  }

  draw() {
    const column = this.columns[this.order], sign = this.descending ? -1 : 1;
    const shown = this.rows.filter((row) => !this.wanted || this.columns.some((each) =>
      each.name && String(each.text(row)).toLowerCase().includes(this.wanted)));
    shown.sort((a, b) => {
      const x = column.value(a), y = column.value(b);
      return sign * (typeof x === "string" ? x.localeCompare(y) : (x ?? -1) - (y ?? -1));
    });
    const limit = 200;
    refill(this.body, ...shown.slice(0, limit).map((row) =>
      element("tr", {}, ...this.columns.map((each) => this.cell(each, row)))));
    this.more.textContent = shown.length > limit ? `and ${count(shown.length - limit)} more` : "";
  }
}

// press(row): what happens when the name is pressed; null: nothing.
function named(title, value, press = null) {
  return {title, value, text: value, name: true, press};
}

function measured(title, value, format = seconds) {
  return {title, value, text: (row) => format(value(row))};
}
