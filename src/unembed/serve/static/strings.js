// Looks texts up and puts them into the page. Every text that a reader sees comes from here or from the server.

import { LANGUAGE, STRINGS } from "./strings.en.js";

const plural = new Intl.PluralRules(LANGUAGE);

/** The text of a key, with {name} filled in. */
export function t(key, values = {}) {
  const text = STRINGS[key] ?? STRINGS[`${key}.${plural.select(values.n)}`];
  if (text === undefined) throw new Error(`no text for ${key}`);
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** Whether a key has a text. */
export const has = (key) => key in STRINGS;

/** A number with a fixed count of digits after the point, with a true minus sign. */
export function number(value, digits = 2) {
  return value.toFixed(digits).replace(/^-/, "\u2212");
}

/** Fill every element that names its text: data-t for content, data-t-NAME for an attribute. */
export function fill(root = document) {
  document.documentElement.lang = LANGUAGE;
  document.title = t("page.title");
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const name of ["aria-label", "placeholder"]) {
    for (const node of root.querySelectorAll(`[data-t-${name}]`)) {
      node.setAttribute(name, t(node.getAttribute(`data-t-${name}`)));
    }
  }
}
