// Small helpers to build and find elements. Styles are set by classes and custom properties only, as the CSP demands.

export const $ = (id) => document.getElementById(id);

/** Make an element. Attributes with a name of on… are listeners; null, undefined and false are left out. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

let count = 0;

/** An id that nothing else on the page has. */
export const freshId = (stem) => `${stem}-${(count += 1)}`;

const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Whether the reader wants no motion. */
export const reducedMotion = () => still.matches;

/** Call `action` when `wait` milliseconds have passed without another call. */
export function debounced(action, wait) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), wait);
  };
}
