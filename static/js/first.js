// Before the first paint: what needs a script may show itself.
document.documentElement.classList.add("js");
// Pages in other languages bring the words for their scripts along.
globalThis.gettext ??= (text) => text;
