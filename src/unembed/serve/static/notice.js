// What went wrong, in two sentences, with a way on: retry, or the server's token.

import { setToken } from "./api.js";
import { el, freshId } from "./dom.js";
import { t } from "./strings.js";

/** Show an error in `place`; `retry` runs again what failed. Stopped runs say nothing. */
export function notice(place, error, retry) {
  if (error.name === "AbortError") return;
  const [message, hint] = words(error);
  const parts = [el("p", { class: "notice-message" }, message), el("p", {}, hint)];
  const clear = () => place.replaceChildren();
  if (error.kind === "token") {
    parts.push(tokenForm(clear, retry));
  } else if (retry && error.kind !== "refused") {
    const button = el("button", { type: "button", class: "primary small" }, t("error.retry"));
    button.addEventListener("click", () => {
      clear();
      retry();
    });
    parts.push(button);
  }
  place.replaceChildren(el("div", { class: "notice", role: "alert" }, ...parts));
  if (!error.kind && !error.key) console.error(error);
}

function words(error) {
  if (error.key) return [t(error.key, error.values), ""];
  if (error.kind === "refused") return [error.said || t("error.server"), error.hint ?? ""];
  if (error.kind === "busy" && error.after > 0) return [t("error.busy"), t("error.busy.after", { n: error.after })];
  const kind = ["offline", "busy", "token"].includes(error.kind) ? error.kind : "server";
  return [t(`error.${kind}`), t(`error.${kind}.hint`)];
}

function tokenForm(clear, retry) {
  const id = freshId("token");
  const input = el("input", { id, type: "password", autocomplete: "off", required: true });
  const send = el("button", { class: "primary small" }, t("error.token.send"));
  const form = el("form", { class: "pair" }, el("label", { for: id }, t("error.token.label")), input, send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(input.value);
    clear();
    retry?.();
  });
  return form;
}
