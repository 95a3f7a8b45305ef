// Tests of keys show where they stand as they run, in every open tab. Without this, or while the line is cut, the page
// asks every second (hx-trigger), and without scripts it loads itself again.
"use strict";

let line = null;
const latest = new Map(); // address of a test → what the last event said of it

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

// A key was added in another tab.
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

// A browser keeps few lines to one site: tabs that nobody sees keep none, and ask when they are looked at again.
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
  // Answers may overtake each other: what shows less than was told asks all the same.
  if (lives() && latest.get(asking.dataset.test) === asking.dataset.seen) event.preventDefault();
});
// What gave way to a newer answer while it asked: what it is told now is of the past, and finds no place.
document.addEventListener("htmx:beforeSend", ({ detail: { elt: asking } }) => {
  if (!asking.matches?.("[data-poll]")) return;
  asking.addEventListener("htmx:beforeOnLoad", (event) => asking.isConnected || event.preventDefault(), { once: true });
});
listen();
