// Shows answers while they are written. The server renders and sanitises every piece; this script only inserts them.
"use strict";

const readers = new Map(); // element id of an answer → its EventSource

const chat = () => document.querySelector("[data-chat]");
const say = (text) => {
  const status = document.querySelector("[data-chat-status]");
  if (status) status.textContent = text;
};

function settleBusy() {
  const busy = document.querySelector("[data-stream]") !== null;
  chat()?.toggleAttribute("data-busy", busy);
  const stop = document.querySelector("[data-stop-answer]");
  if (stop) stop.hidden = !busy;
}

// Scroll along only if the reader is at the end of the text.
function atEnd() {
  return window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 120;
}

function keepingEnd(change) {
  const follow = atEnd();
  change();
  if (follow) window.scrollTo({ top: document.documentElement.scrollHeight });
}

function addCopyButtons(root) {
  for (const block of root.querySelectorAll(".highlight")) {
    if (block.querySelector("[data-copy]")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "btn copy";
    button.dataset.copy = "";
    button.textContent = "Copy";
    block.append(button);
  }
}

// The answer's finished blocks stay; each event replaces what follows them.
class LiveAnswer {
  constructor(turn) {
    this.turn = turn;
    this.prose = turn.querySelector("[data-prose]");
    this.settled = 0; // number of finished top-level nodes
  }

  text({ html, tail, replace }) {
    this.prose.querySelector("[data-waiting]")?.remove();
    if (replace || this.settled === 0) this.clearAfter(0);
    else this.clearAfter(this.settled);
    if (html) {
      this.prose.insertAdjacentHTML("beforeend", html);
      this.settled = this.prose.childNodes.length;
    }
    this.prose.insertAdjacentHTML("beforeend", tail.trimEnd());
  }

  clearAfter(count) {
    while (this.prose.childNodes.length > count) this.prose.lastChild.remove();
    this.settled = Math.min(this.settled, count);
  }

  reasoning({ text }) {
    this.turn.querySelector("[data-thought]").hidden = false;
    this.turn.querySelector("[data-thought-text]").append(text);
  }

  progress({ text }) {
    const place = this.turn.querySelector("[data-tools]");
    let line = place.querySelector("[data-progress]");
    if (!line) {
      line = document.createElement("p");
      line.className = "tool";
      line.dataset.progress = "";
    }
    line.textContent = text;
    place.append(line);
  }

  tool({ id, name, state }) {
    const place = this.turn.querySelector("[data-tools]");
    let line = [...place.children].find((child) => child.dataset.call === id);
    if (!line) {
      line = document.createElement("p");
      line.className = "tool";
      line.dataset.call = id;
      place.append(line);
    }
    line.textContent = { running: `Using ${name}…`, ok: `Used ${name}`, failed: `${name} failed` }[state] ?? name;
  }
}

function finish(turn, data) {
  stopReading(turn.id);
  turn.removeAttribute("data-stream");
  keepingEnd(() => {
    if (data.html) {
      turn.insertAdjacentHTML("afterend", data.html);
      const whole = document.getElementById(turn.id) === turn ? turn.nextElementSibling : document.getElementById(turn.id);
      turn.remove();
      window.htmx?.process(whole);
      addCopyButtons(whole);
    } else {
      explain(turn, data.user_message ?? gettext("The answer ended."));
    }
  });
  settleBusy();
  say(data.user_message ?? (data.state === "complete" ? gettext("The answer is complete.") : gettext("The answer was stopped.")));
  document.getElementById("message-text")?.focus({ preventScroll: true });
}

function explain(turn, words) {
  turn.classList.remove("is-streaming");
  turn.removeAttribute("aria-busy");
  turn.querySelector("[data-waiting]")?.remove();
  const note = document.createElement("p");
  note.className = "note is-attention";
  const again = document.createElement("a");
  again.href = window.location.pathname;
  again.textContent = gettext("Load the page again");
  const sentence = document.createElement("span");
  sentence.append(words, " ", again);
  note.append(sentence);
  turn.append(note);
}

function stopReading(id) {
  readers.get(id)?.close();
  readers.delete(id);
}

function read(turn) {
  if (readers.has(turn.id)) return;
  const answer = new LiveAnswer(turn);
  const source = new EventSource(turn.dataset.stream);
  readers.set(turn.id, source);
  for (const kind of ["text", "reasoning", "tool", "progress"]) {
    source.addEventListener(kind, (event) => keepingEnd(() => answer[kind](JSON.parse(event.data))));
  }
  source.addEventListener("done", (event) => finish(turn, JSON.parse(event.data)));
  source.addEventListener("error", (event) => {
    if (event instanceof MessageEvent) finish(turn, JSON.parse(event.data));
    else if (source.readyState === EventSource.CLOSED) {
      finish(turn, { user_message: gettext("The line to this site was lost. What had come is kept.") });
    }
  });
  say(gettext("The answer is being written."));
}

function readAll() {
  for (const turn of document.querySelectorAll("[data-stream]")) read(turn);
  addCopyButtons(document);
  settleBusy();
}

document.addEventListener("htmx:afterSwap", (event) => {
  readAll();
  const { requestConfig, target } = event.detail;
  if (target?.id === "turns" && !requestConfig?.elt.matches("[data-version]")) window.scrollTo({ top: document.documentElement.scrollHeight });
});

document.addEventListener("htmx:afterRequest", (event) => {
  const form = event.detail.elt;
  // htmx counts a refusal with a message as successful; the typed text must stay.
  if (!form.matches?.("[data-composer]") || event.detail.xhr.status !== 200) return;
  document.getElementById("message-text").value = "";
  form.querySelector("[data-attachment-list]")?.replaceChildren();
  forgetDraft();
  document.getElementById("chat-start")?.remove();
  document.getElementById("composer-errors").replaceChildren();
});

document.addEventListener("keydown", (event) => {
  if (event.target.id !== "message-text" || event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  const form = event.target.form;
  const something = event.target.value.trim() || form.querySelector("[data-attachment]");
  if (!chat().hasAttribute("data-busy") && !form.hasAttribute("data-uploading") && something) form.requestSubmit();
});

// Another tab may have sent messages: name the last turn shown here, so that the response includes the missing ones.
document.addEventListener("htmx:configRequest", (event) => {
  if (!event.detail.elt.matches?.("[data-composer]")) return;
  const turns = document.querySelectorAll("#turns > [data-turn]");
  event.detail.parameters.set("seen", turns.length ? turns[turns.length - 1].dataset.turn : "");
});

// Unsent text survives a reload, in this tab only.
const draftKey = `draft:${window.location.pathname}`;
function forgetDraft() {
  try {
    sessionStorage.removeItem(draftKey);
  } catch {
    // No storage, so there is no draft to remove.
  }
}
document.addEventListener("input", (event) => {
  if (event.target.id !== "message-text") return;
  try {
    if (event.target.value) sessionStorage.setItem(draftKey, event.target.value);
    else sessionStorage.removeItem(draftKey);
  } catch {
    // No storage, or it is full: the text is still on the page.
  }
});
function restoreDraft() {
  const box = document.getElementById("message-text");
  try {
    if (box && !box.value) box.value = sessionStorage.getItem(draftKey) ?? "";
  } catch {
    // As above.
  }
}

document.addEventListener("click", (event) => {
  if (!event.target.closest?.("[data-stop-answer]")) return;
  for (const form of document.querySelectorAll("[data-stop]")) form.requestSubmit();
});

// Leaving the page stops the answer: the server ends the call when its reader disconnects.
window.addEventListener("pagehide", () => {
  for (const id of [...readers.keys()]) stopReading(id);
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) readAll();
});

restoreDraft();
readAll();
const last = document.querySelector("#turns > :last-child");
if (last && !window.location.hash) window.scrollTo({ top: document.documentElement.scrollHeight });
