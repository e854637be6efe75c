// The panel for one's own vector: paste, choose a file, or drop one anywhere on the page.

import { $ } from "./dom.js";
import { notice } from "./notice.js";
import { t } from "./strings.js";
import { parseText, readFile, VectorError } from "./vector-file.js";

/**
 * Set the panel up.
 *
 * @param model returns the model in use
 * @param use called with {vector, label} when the reader wants it recovered
 */
export function setUp(model, use) {
  let rows = null;
  let label = t("vector.pasted");
  const panel = $("own");

  const open = (wanted) => {
    panel.hidden = !wanted;
    $("open-vector").setAttribute("aria-expanded", String(wanted));
    if (wanted) $("numbers").focus();
  };
  $("open-vector").addEventListener("click", () => open(panel.hidden));

  const take = (found, name) => {
    [rows, label] = [found, name];
    $("own-trouble").replaceChildren();
    $("rows").hidden = found.length < 2;
    $("row").max = found.length;
    $("row").value = 1;
    $("row-count").textContent = t("vector.row.of", { n: found.length });
    $("source").textContent = name;
  };

  const submit = () => {
    try {
      const typed = $("numbers").value;
      if (typed.trim() && !rows) take(parseText(typed), t("vector.pasted"));
      if (!rows) throw new VectorError("vector.error.empty");
      const at = Math.min(Math.max(1, Math.trunc(Number($("row").value)) || 1), rows.length);
      $("row").value = at;
      const vector = rows[at - 1];
      const { dimension, encoder } = model();
      if (vector.length !== dimension) {
        const values = { found: vector.length, wanted: dimension, encoder: encoder?.name ?? "" };
        throw new VectorError("vector.error.dimension", values);
      }
      $("own-trouble").replaceChildren();
      use({ vector, label });
    } catch (error) {
      notice($("own-trouble"), error);
    }
  };

  const load = async (file) => {
    try {
      take(await readFile(file), file.name);
      $("numbers").value = "";
      submit();
    } catch (error) {
      rows = null;
      notice($("own-trouble"), error);
    }
  };

  panel.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("numbers").addEventListener("input", () => {
    rows = null;
    $("rows").hidden = true;
    $("source").textContent = "";
    $("file").value = "";
  });
  $("file").addEventListener("change", () => $("file").files[0] && load($("file").files[0]));

  const carries = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    $("drop").hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    open(true);
    load(event.dataTransfer.files[0]);
  });
}
