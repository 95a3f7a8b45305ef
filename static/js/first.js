// Before the first paint: what needs a script may show itself.
document.documentElement.classList.add("js");
