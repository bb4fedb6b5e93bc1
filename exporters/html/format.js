// Values as people read them, as the text report has them; and elements whose text is only ever text.

/** @type {[number, number, string][]} */
const UNITS = [[1e-6, 1e9, "ns"], [1e-3, 1e6, "µs"], [1, 1e3, "ms"]];

function three(value) {
  return value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0);
}

function seconds(value) {
  if (value === null || value === undefined) return "-";
  if (value <= 0) return "0 s";
  for (const [below, factor, unit] of UNITS) {
    if (value < below * 0.9995) return `${three(value * factor)} ${unit}`;
  }
  if (value < 99.95) return `${three(value)} s`;
  const whole = Math.round(value);
  const hours = Math.floor(whole / 3600), minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}

function count(value) {
  return value === null || value === undefined ? "-" : Math.round(value).toLocaleString("en-US");
}

function percent(share) {
  return share > 0 && share < 0.0005 ? "<0.1%" : `${(share * 100).toFixed(1)}%`;
}

function size(value) {
  if (value === null || value === undefined) return "-";
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return unit ? `${three(value)} ${units[unit]}` : `${Math.round(value)} B`;
}

function clock(unix) {
  return unix === null ? "-" : new Date(unix * 1000).toLocaleTimeString();
}

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name === "click") made.addEventListener("click", value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// The text with places to break a line behind dots and underscores, and in what is too long without them.
function breakable(text) {
  const pieces = String(text).match(/[^._]{1,40}[._]*|[._]+/gu) ?? [];
  return pieces.flatMap((piece, index) => index ? [document.createElement("wbr"), piece] : [piece]);
}

// Replaces what an element holds. What had the focus in it has it again in the new content, found by its data-key.
function refill(parent, ...children) {
  const active = document.activeElement;
  const key = active instanceof HTMLElement && parent.contains(active) ? active.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (key === undefined) return;
  [...parent.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus({preventScroll: true});
}
