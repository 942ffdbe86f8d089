// Sorting and filtering of the leaderboard's tables. Without this script they are complete tables.
(() => {
  "use strict";

  // text compares as text, numbers by data-value; missing numbers come last in either order
  const key = (cell) => {
    if (cell.dataset.value === undefined) return cell.textContent.trim();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };

  const sort = (table, place, descending) => {
    const rows = Array.from(table.tBodies[0].rows, (row) => [key(row.cells[place]), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" ? a - b : a.localeCompare(b);
      return descending ? -order : order;
    });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    Array.from(table.tHead.rows[0].cells).forEach((head, at) => {
      if (at === place) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };

  const sortable = (table) => {
    Array.from(table.tHead.rows[0].cells).forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const first = head.classList.contains("number"); // numbers: the highest first
        sort(table, place, now === null ? first : now === "ascending");
      });
    });
  };

  const filterable = (box, table) => {
    const rows = Array.from(table.tBodies[0].rows);
    const heads = Array.from(table.tHead.rows[0].cells, (head) => head.textContent);
    const cameras = heads.indexOf("Cameras");
    const form = document.createElement("form");
    form.innerHTML =
      '<label>Method <input type="search" autocomplete="off"></label>' +
      '<label>Cameras <select><option value="">all</option><option>yes</option>' +
      "<option>no</option></select></label><output></output>";
    const [name, uses, count] = form.querySelectorAll("input, select, output");
    const filter = () => {
      const words = name.value.toLowerCase().split(/\s+/);
      rows.forEach((row) => {
        const text = row.cells[0].textContent.toLowerCase();
        const camera = row.cells[cameras].textContent.trim();
        row.hidden = !words.every((word) => text.includes(word)) || (uses.value && camera !== uses.value);
      });
      const shown = rows.filter((row) => !row.hidden).length;
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    box.prepend(form);
    filter();
  };

  document.querySelectorAll(".leaderboard").forEach((box) => {
    const table = box.querySelector("table");
    filterable(box, table);
    sortable(table);
  });
})();
