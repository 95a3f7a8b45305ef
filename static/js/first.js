// Runs before the first paint: shows elements that need scripts.
document.documentElement.classList.add("js");
// Pages in other languages load a catalogue that defines gettext.
globalThis.gettext ??= (text) => text;
