"use strict";
// Tables sort and copy; everything is there without this.
(() => {
  const status = document.createElement("p");
  status.className = "hidden";
  status.setAttribute("role", "status");
  document.querySelector("main").append(status);

  const words = (cell) => cell.textContent.trim().replace(/\s+/g, " ");
  const worth = (cell) => ("key" in cell.dataset ? Number(cell.dataset.key) : words(cell).replace(/^–$/, ""));

  // Numbers before words, nothing last, equals where they were.
  const compare = (one, other, way) => {
    if (one === "" || other === "") return (one === "") - (other === "");
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
    return way * (typeof one === "number" ? one - other : one.localeCompare(other, "en", { numeric: true }));
  };

  const sort = (table, column, head) => {
    const numbers = head.classList.contains("n");
    const before = head.getAttribute("aria-sort");
    const next = before ? (before === "ascending" ? "descending" : "ascending") : numbers ? "descending" : "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", next);
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [worth(row.cells[column]), row]);
    rows.sort((a, b) => compare(a[0], b[0], next === "ascending" ? 1 : -1));
    body.append(...rows.map((row) => row[1]));
  };

  const copy = async (table) => {
    const text = [...table.rows].map((row) => [...row.cells].map(words).join("\t")).join("\n") + "\n";
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };

  for (const table of document.querySelectorAll("table")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, column, head));
      head.append(button);
    });
    const name = table.caption.textContent;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${name}`);
    button.addEventListener("click", async () => {
      await copy(table);
      status.textContent = `Copied: ${name}`;
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    table.closest(".scroll").after(button);
  }
})();
