// A click on a header sorts by that column: numbers from the highest, a second click reverses it.
// Empty cells stay at the end.
function compare(a, b) {
  const x = Number(a), y = Number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
}
function sortBy(header) {
  const table = header.closest("table"), column = header.cellIndex;
  const key = (row) => row.cells[column].dataset.key;
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.some((row) => key(row) !== "" && !Number.isNaN(Number(key(row))));
  const before = header.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : numeric;
  rows.sort((a, b) => {
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
    return (descending ? -1 : 1) * compare(key(a), key(b));
  });
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}

// The figures of one task are shown at a time, and of it the methods that are ticked.
function choose() {
  const form = document.querySelector("form.choice");
  if (form === null) return;
  const task = form.querySelector("select").value;
  for (const section of document.querySelectorAll("section.task")) {
    section.hidden = section.id !== task;
  }
  for (const box of form.querySelectorAll("input")) {
    for (const part of document.querySelectorAll(`[id$="-${box.value}"]`)) {
      part.style.display = box.checked ? "" : "none";
    }
  }
}
document.querySelector("form.choice")?.addEventListener("change", choose);
choose();

// A cell leads to its runs.
function unfold() {
  const target = document.getElementById(location.hash.slice(1));
  if (target?.tagName !== "DETAILS") return;
  target.open = true;
  target.scrollIntoView();
}
window.addEventListener("hashchange", unfold);
unfold();
