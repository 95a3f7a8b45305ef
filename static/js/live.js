// Shows the progress of key tests in every open tab. Without this script, or while the stream is disconnected, the page
// polls every second (hx-trigger); without any scripts it reloads itself.
"use strict";

let line = null;
const latest = new Map(); // address of a test → its state in the last event

const lives = () => line?.readyState === EventSource.OPEN;
const isTyping = () => document.querySelector("form.credential-form") !== null;

function show({ card, url, seen, stored }) {
  latest.set(url, seen);
  const place = document.getElementById(`test-${card}`);
  if (!place || (stored && document.getElementById(`card-${card}`)?.matches(".is-empty"))) {
    if (stored && !isTyping()) renew();
    return;
  }
  const shown = place.querySelector("[data-test]");
  if (shown?.dataset.test === url && shown.dataset.seen === seen) return;
  window.htmx.ajax("GET", place.dataset.show ?? url, { target: place, swap: "innerHTML" });
}

// Called when a key was added in another tab.
function renew() {
  if (document.getElementById("providers")) {
    window.htmx.ajax("GET", window.location.pathname, { target: "#providers", select: "#providers", swap: "outerHTML" });
  }
}

function listen() {
  const place = document.querySelector("[data-live]");
  if (line || !place || document.hidden) return;
  line = new EventSource(place.dataset.live);
  line.addEventListener("test", (event) => show(JSON.parse(event.data)));
  line.addEventListener("end", hangUp);
}

// Browsers limit connections per site: hidden tabs close theirs, and reconnect when they become visible.
function hangUp() {
  line?.close();
  line = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? hangUp() : listen()));
window.addEventListener("pagehide", hangUp);
window.addEventListener("pageshow", listen);
document.addEventListener("htmx:beforeRequest", (event) => {
  const asking = event.detail.elt;
  if (!asking.matches?.("[data-poll]")) return;
  // Responses may arrive out of order: an element that shows an older state than the last event still polls.
  if (lives() && latest.get(asking.dataset.test) === asking.dataset.seen) event.preventDefault();
});
// Drop the response of an element that a newer response has replaced meanwhile.
document.addEventListener("htmx:beforeSend", ({ detail: { elt: asking } }) => {
  if (!asking.matches?.("[data-poll]")) return;
  asking.addEventListener("htmx:beforeOnLoad", (event) => asking.isConnected || event.preventDefault(), { once: true });
});
listen();
