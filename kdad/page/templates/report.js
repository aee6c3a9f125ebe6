"use strict";

const board = document.querySelector("#board");
const rows = [...board.tBodies[0].rows];
const filters = document.querySelector("#filters");
// On a phone the first figures come before six filters.
if (matchMedia("(min-width: 701px)").matches) document.querySelector("#fold").open = true;

// Sorting: of equal rows the order stays; rows without a value come last, whichever the direction.

function sort(heading) {
  const numeric = "numeric" in heading.dataset;
  // Numbers begin with the highest, but for what only names a run.
  const first = numeric && !["number", "seed"].includes(heading.dataset.key) ? "descending" : "ascending";
  const now = heading.getAttribute("aria-sort");
  const direction = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
  for (const other of board.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const value = (row) => row.cells[heading.cellIndex].dataset.value;
  rows.sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    if (!left || !right) return !left - !right;
    return sign * (numeric ? left - right : left.localeCompare(right, "en", { numeric: true }));
  });
  board.tBodies[0].append(...rows);
}

for (const heading of board.tHead.rows[0].cells) {
  heading.querySelector("button").addEventListener("click", () => sort(heading));
}

// Filters: of the rows, and of all below that is made of runs.

function filter() {
  const wanted = Object.fromEntries(new FormData(filters));
  const words = wanted.text.toLowerCase().split(/\s+/);
  delete wanted.text;
  const shown = new Set();
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden =
      !words.every((word) => text.includes(word)) ||
      Object.entries(wanted).some(([key, value]) => value && row.dataset[key] !== value);
    if (!row.hidden) shown.add(row.dataset.run);
  }
  for (const part of document.querySelectorAll("[data-runs]")) {
    part.hidden = !part.dataset.runs.split(" ").some((run) => shown.has(run));
  }
  document.querySelector("#count").textContent = `${shown.size} of ${rows.length} runs`;
  document.querySelector("#none").hidden = shown.size > 0;
}

filters.addEventListener("input", filter);
filters.addEventListener("reset", () => setTimeout(filter));
filters.addEventListener("submit", (event) => event.preventDefault());
filter(); // A browser that comes back to the page restores the choices.

// A link to a run shows all of it.

function unfold() {
  const run = location.hash && document.getElementById(location.hash.slice(1));
  const details = run && run.querySelector("details.shown");
  if (details) details.open = true;
}

addEventListener("hashchange", unfold);
unfold();

// Pictures: large in a dialog, with the arrow keys through those that are shown.

const large = document.querySelector("#large");
let current;

function show(picture) {
  current = picture;
  const [from, to] = [picture.querySelector("img"), large.querySelector("img")];
  to.src = from.src;
  to.alt = from.alt;
  to.classList.toggle("plot", picture.classList.contains("plot"));
  const run = (picture.closest("article, .card").querySelector("h3")?.textContent ?? "").trim().replace(/\s+/g, " ");
  const parts = [...(picture.querySelector(".caption")?.childNodes ?? [])].map((part) => part.textContent.trim());
  const caption = picture.dataset.caption ? [picture.dataset.caption] : parts;
  large.querySelector("figcaption").textContent = [run, ...caption].filter(Boolean).join(", ");
  if (!large.open) large.showModal();
}

function step(by) {
  const pictures = [...document.querySelectorAll("button.picture")].filter((p) => !p.closest("[hidden], details:not([open])"));
  show(pictures[(pictures.indexOf(current) + by + pictures.length) % pictures.length]);
}

for (const picture of document.querySelectorAll("button.picture")) {
  picture.addEventListener("click", () => show(picture));
}
large.addEventListener("click", (event) => {
  const name = event.target.name;
  if (name === "previous") step(-1);
  else if (name === "next") step(1);
  else if (name === "close" || event.target === large) large.close();
});
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
large.addEventListener("close", () => current.focus());
