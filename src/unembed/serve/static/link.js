// A link that holds a run's settings in its fragment, which browsers do not send to servers. The text goes in only when
// the reader asks for it.

const NUMBERS = ["passes", "temperature", "guidance", "queries", "seed", "noise", "bits", "dimensions"];

/** The address of this page with settings, damage, the other side of the comparison and, if given, the text. */
export function linkTo(settings, damage, other, text = null) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...settings, ...damage })) {
    parts.set(name, String(value));
  }
  for (const [name, value] of Object.entries(other ?? {})) parts.set(`b-${name}`, String(value));
  if (text !== null) parts.set("text", text);
  return `${location.origin}${location.pathname}#${parts}`;
}

/** What a fragment says: {settings and damage as far as they are numbers, other, text}. */
export function readLink(fragment = location.hash) {
  const parts = new URLSearchParams(fragment.replace(/^#/, ""));
  const found = { other: {} };
  const take = (into, name, key) => {
    const value = parts.get(key);
    if (value !== null && value !== "" && Number.isFinite(Number(value))) into[name] = Number(value);
  };
  for (const name of NUMBERS) take(found, name, name);
  for (const name of ["passes", "queries"]) take(found.other, name, `b-${name}`);
  for (const name of ["model", "strategy", "text"]) if (parts.has(name)) found[name] = parts.get(name);
  if (parts.has("b-strategy")) found.other.strategy = parts.get("b-strategy");
  return found;
}

/** Whether the address holds no link. */
export const saysNothing = () => !location.hash.includes("=");

/** A token that the server put into the address it printed; it leaves the address bar at once. */
export function takeToken() {
  const parts = new URLSearchParams(location.hash.replace(/^#/, ""));
  const found = parts.get("token");
  if (found === null) return null;
  parts.delete("token");
  history.replaceState(null, "", parts.size ? `#${parts}` : location.pathname);
  return found;
}
