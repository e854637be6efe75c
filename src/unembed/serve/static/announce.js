// One polite live region. It speaks results, not steps: what comes within half a second replaces what came before.

import { $ } from "./dom.js";

let timer = 0;

/** Have a screen reader say something when it is free. */
export function announce(text) {
  clearTimeout(timer);
  timer = setTimeout(() => {
    $("live").textContent = text;
  }, 500);
}
