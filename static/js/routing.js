// Keys are put in order by dragging, too; the buttons beside them do the same without this.
"use strict";

let dragged = null;

function settle(list) {
  for (const row of list.querySelectorAll("[data-key]")) row.draggable = true;
}

function keys(list) {
  return [...list.querySelectorAll("[data-key]")].map((row) => row.dataset.key);
}

document.addEventListener("dragstart", (event) => {
  const row = event.target instanceof Element ? event.target.closest("#order [data-key]") : null;
  if (!row) return;
  dragged = { row, before: keys(row.parentElement).join() };
  row.classList.add("is-dragged");
  event.dataTransfer.effectAllowed = "move";
});

document.addEventListener("dragover", (event) => {
  const over = event.target instanceof Element ? event.target.closest("#order [data-key]") : null;
  if (!dragged || !over) return;
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

document.addEventListener("htmx:afterSettle", () => {
  const list = document.getElementById("order");
  if (list) settle(list);
});
document.addEventListener("DOMContentLoaded", () => {
  const list = document.getElementById("order");
  if (list) settle(list);
});
