"use strict";
document.documentElement.classList.add("scripted");

// Words of a filter; something is shown if it has all of them.
const wordsOf = (input) => (input ? input.value.toLowerCase().split(/\s+/).filter(Boolean) : []);
const matches = (text, words) => words.every((word) => text.includes(word));
const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

// --- the filter of images
const filter = document.getElementById("filter");
const rows = [...document.querySelectorAll("#images tbody tr")];
const states = new Map(rows.map((row) => [row.querySelector("th").textContent.toLowerCase(), row.dataset.cell]));

function filterImages() {
  const words = wordsOf(filter);
  for (const element of document.querySelectorAll("[data-cell]")) {
    const name = element.dataset.cell; // of an image that is gone, only its history is there
    element.hidden = !matches(states.get(name) || name, words);
  }
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("filtered").textContent = words.length ? `${shown} of ${count(rows.length, "image")}` : "";
}

// --- the table of packages, made row by row from data: of many images most rows are never looked at
const data = JSON.parse(document.getElementById("package-data")?.textContent || '{"images": [], "rows": []}');
const PAGE = 200;
let limit = PAGE;

function cell(kind, text, classes = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = classes;
  return made;
}

function showPackages() {
  const table = document.getElementById("package-table");
  if (!table) return;
  const words = wordsOf(document.getElementById("package-filter"));
  const imageWords = wordsOf(filter);
  const columns = data.images.map((_, index) => index)
    .filter((index) => matches(states.get(data.images[index].toLowerCase()), imageWords));
  const everything = document.getElementById("package-all")?.checked ?? true;
  const differs = (which) => columns.some((index) => which[index] !== which[columns[0]]);
  const has = (which) => columns.some((index) => which[index] >= 0);
  const found = data.rows.filter(([name, versions, which]) =>
    has(which) && (everything || columns.length < 2 || differs(which)) &&
    matches([name, ...versions].join(" ").toLowerCase(), words));

  const head = document.createElement("tr");
  head.append(cell("th", "Package"), ...columns.map((index) =>
    cell("th", data.images[index], columns.length > 8 ? "upright" : "level")));
  for (const title of head.children) title.scope = "col";
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...found.slice(0, limit).map(([name, versions, which]) => {
    const row = document.createElement("tr");
    row.append(cell("th", name));
    row.firstChild.scope = "row";
    for (const index of columns) {
      const version = which[index];
      row.append(version < 0 ? cell("td", "–", "absent") : cell("td", versions[version], version ? "other" : ""));
    }
    return row;
  }));
  document.getElementById("package-count").textContent =
    `${count(found.length, "package")}` + (found.length > limit ? `, the first ${limit} are shown` : "");
  document.getElementById("package-more").hidden = found.length <= limit;
}

filter?.addEventListener("input", () => { filterImages(); showPackages(); });
document.getElementById("package-filter")?.addEventListener("input", () => { limit = PAGE; showPackages(); });
document.getElementById("package-all")?.addEventListener("change", () => { limit = PAGE; showPackages(); });
document.getElementById("package-more")?.addEventListener("click", () => { limit += PAGE; showPackages(); });

// --- tables that can be sorted
const valueOf = (row, index) => {
  const { dataset, textContent } = row.cells[index];
  return dataset.value ?? textContent.trim();
};

function compare(one, other) {
  if (one === "" || other === "") return (one === "") - (other === "");
  return Number.isNaN(Number(one)) ? one.localeCompare(other, "en", { numeric: true }) : one - other;
}

function sort(table, title) {
  const index = title.cellIndex;
  const descending = title.getAttribute("aria-sort") === "ascending";
  for (const other of title.parentNode.cells) other.removeAttribute("aria-sort");
  title.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((one, other) =>
    compare(valueOf(one, index), valueOf(other, index)) * (descending ? -1 : 1)));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const title of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    button.addEventListener("click", () => sort(table, title));
    title.append(button);
  }
}

// --- whoever follows a link to an image's sizes wants to see them; who filters or opens gets what was asked for
function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target?.tagName === "DETAILS") target.open = true;
}
window.addEventListener("hashchange", openTarget);
openTarget();
showPackages();
