// Keys are put in order by dragging, too; the buttons beside them do the same without this.
"use strict";

let dragged = null;

const rowOf = (target) => (target instanceof Element ? target.closest("[data-order] > [data-key]") : null);

// A row with a form in it stays where it is: one selects text there.
function settle() {
  for (const row of document.querySelectorAll("[data-order] > [data-key]")) {
    row.draggable = !row.querySelector("form.credential-form");
    for (const link of row.querySelectorAll("a")) link.draggable = false;
  }
}

function keys(list) {
  return [...list.querySelectorAll(":scope > [data-key]")].map((row) => row.dataset.key);
}

document.addEventListener("dragstart", (event) => {
  const row = rowOf(event.target);
  if (!row) return;
  dragged = { row, before: keys(row.parentElement).join() };
  row.classList.add("is-dragged");
  event.dataTransfer.effectAllowed = "move";
});

document.addEventListener("dragover", (event) => {
  const over = rowOf(event.target);
  if (!dragged || over?.parentElement !== dragged.row.parentElement) return;
  event.preventDefault();
  if (over === dragged.row) return;
  const middle = over.getBoundingClientRect().top + over.offsetHeight / 2;
  over[event.clientY < middle ? "before" : "after"](dragged.row);
});

document.addEventListener("drop", (event) => {
  if (dragged) event.preventDefault();
});

document.addEventListener("dragend", () => {
  if (!dragged) return;
  const list = dragged.row.parentElement;
  dragged.row.classList.remove("is-dragged");
  const moved = keys(list).join() !== dragged.before;
  dragged = null;
  if (!moved) return;
  const failed = document.getElementById("failed")?.value ?? "";
  window.htmx.ajax("POST", list.dataset.order, { source: list, swap: "none", values: { credential: keys(list), failed } });
});

document.addEventListener("htmx:afterSettle", settle);
settle();
