// Updates a run's page from a server-sent event stream. If no stream is available, the page polls.
"use strict";

let source = null;

function follow() {
  const run = document.querySelector("#run[data-events]");
  if (!run || source) return;
  source = new EventSource(run.dataset.events);
  source.addEventListener("live", (event) => show(JSON.parse(event.data)));
  source.addEventListener("end", () => leave());
  source.addEventListener("error", () => {
    if (source?.readyState === EventSource.CLOSED) leave();
  });
}

function leave() {
  source?.close();
  source = null;
}

function show({ html }) {
  const old = document.getElementById("run");
  if (!old || old.contains(document.activeElement) && document.activeElement.closest("[data-approvals]")) return;
  const focused = document.activeElement?.id;
  const atEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 80;
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  old.replaceWith(fresh.content);
  window.htmx?.process(document.getElementById("run"));
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  if (atEnd) window.scrollTo({ top: document.documentElement.scrollHeight });
}

document.addEventListener("DOMContentLoaded", follow);
document.addEventListener("htmx:afterSwap", follow);
window.addEventListener("pagehide", leave);
