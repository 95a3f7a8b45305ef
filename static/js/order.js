// Orders keys with their arrows or by dragging. The list shows the new order at once; changes made during a request are
// sent after it. Without scripts the arrows are ordinary forms.
"use strict";

let dragged = null;
let isOwed = false; // a response came while a row was dragged, and was not shown
let telling = null; // the list whose order is being sent
let isStale = false; // it has changed since
let sent = []; // its rows in the order sent
let isRefused = false;
const settled = new WeakMap(); // list → its rows in the order saved by the site

const rowOf = (target) => (target instanceof Element ? target.closest("[data-order] > [data-key]") : null);
const rowsOf = (list) => [...list.querySelectorAll(":scope > [data-key]")];
const keys = (list) => rowsOf(list).map((row) => row.dataset.key);

// A row with an open form cannot be dragged, because users select text in it.
function settle() {
  for (const list of document.querySelectorAll("[data-order]")) {
    if (list !== telling) settled.set(list, rowsOf(list));
    for (const row of rowsOf(list)) {
      row.draggable = !row.querySelector("form.credential-form");
      for (const link of row.querySelectorAll("a")) link.draggable = false;
    }
  }
}

function markEnds(list) {
  const rows = rowsOf(list);
  for (const button of list.querySelectorAll("button[name=move]")) {
    const end = button.value === "up" ? rows[0] : rows[rows.length - 1];
    if (end.contains(button)) button.setAttribute("aria-disabled", "true");
    else button.removeAttribute("aria-disabled");
  }
}

function tell(list) {
  markEnds(list);
  if (telling) {
    isStale = true;
    return;
  }
  telling = list;
  sent = rowsOf(list);
  isRefused = false;
  const failed = document.getElementById("failed")?.value ?? "";
  const asked = { source: list, swap: "none", values: { credential: keys(list), failed } };
  window.htmx.ajax("POST", list.dataset.order, asked).catch(() => {}).finally(told);
}

// If the response was shown, another list has replaced this one.
function told() {
  const list = telling;
  const goesOn = isStale;
  telling = null;
  isStale = false;
  if (!list.isConnected) return;
  if (isRefused) return goBack(list);
  settled.set(list, sent);
  if (goesOn) tell(list);
}

function goBack(list) {
  const held = document.activeElement;
  list.prepend(...settled.get(list));
  if (list.contains(held)) held.focus({ preventScroll: true });
  markEnds(list);
}

function say(row) {
  const place = document.querySelector("[data-moved]");
  if (!place) return;
  const rows = rowsOf(row.parentElement);
  const words = { key: row.dataset.title, place: rows.indexOf(row) + 1, all: rows.length };
  place.textContent = place.dataset.moved.replace(/\{(\w+)\}/g, (_, word) => words[word]);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-order] button[name=move]");
  if (!button) return;
  event.preventDefault();
  const row = rowOf(button);
  const isUp = button.value === "up";
  const other = isUp ? row.previousElementSibling : row.nextElementSibling;
  if (!other?.dataset.key) return;
  other[isUp ? "before" : "after"](row);
  button.focus({ preventScroll: true }); // a moved element loses focus
  row.scrollIntoView({ block: "nearest" });
  say(row);
  tell(row.parentElement);
});

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
  const { row, before } = dragged;
  dragged = null;
  row.classList.remove("is-dragged");
  if (!row.isConnected) return;
  const isMoved = keys(row.parentElement).join() !== before;
  if (isMoved) say(row);
  if (isMoved || isOwed) tell(row.parentElement);
  isOwed = false;
});

// Do not show the response for an outdated order, since another request follows, nor one that would replace a row while
// it is dragged.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (!telling || event.detail.requestConfig?.elt !== telling) return;
  const isHeld = dragged?.row.parentElement === telling;
  if (isHeld) isOwed = true;
  if (isHeld || isStale) event.detail.shouldSwap = false;
});

document.addEventListener("htmx:afterRequest", (event) => {
  if (telling && event.detail.requestConfig?.elt === telling) isRefused = !event.detail.successful;
});

document.addEventListener("htmx:afterSettle", settle);
settle();
