"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    const key = (row) => {
      const cell = row.cells[column], number = parseFloat(cell.dataset.value ?? cell.textContent);
      return cell.classList.contains("number") ? number : cell.textContent;
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (typeof x === "string") return ascending ? x.localeCompare(y) : y.localeCompare(x);
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // a missing number stays at the end
      return ascending ? x - y : y - x;
    };
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }));
}

const box = document.getElementById("lightbox");
let shown = null;
const show = (button) => {
  shown = button;
  box.querySelector("img").src = button.querySelector("img").src;
  box.querySelector("p").textContent = button.dataset.caption;
  if (!box.open) box.showModal();
};
for (const button of document.querySelectorAll(".strip button")) button.addEventListener("click", () => show(button));
box.addEventListener("click", () => box.close());
box.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = [...shown.closest(".strip").querySelectorAll("button")];
  show(all[(all.indexOf(shown) + step + all.length) % all.length]);
});
