// Keep the messages that a pasted error was made from, or that hold all words that were typed.
(function () {
  const field = document.getElementById("apv-error-search");
  const count = field.form.querySelector("output");
  const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const plain = (text) => text.toLowerCase().replace(/[`'"]/g, "").replace(/\s+/g, " ").trim();

  const entries = [...document.querySelectorAll(".apv-errors > dt")].map((term) => {
    const remedy = term.nextElementSibling;
    const pieces = [...term.childNodes, new Text(":"), ...remedy.firstElementChild.childNodes];
    const pattern = pieces.map((node) => node.nodeName === "EM" ? ".*" : escape(plain(node.textContent)));
    const words = plain(`${term.textContent}: ${remedy.textContent}`);
    return { term, remedy, words, pattern: new RegExp(pattern.join(" ?")) };
  });

  field.addEventListener("input", () => {
    const asked = plain(field.value);
    const made = entries.filter((entry) => asked.length > 20 && entry.pattern.test(asked));
    const holds = (entry) => asked.split(" ").every((word) => entry.words.includes(word));
    const shown = new Set(made.length ? made : entries.filter(holds));
    entries.forEach((entry) => { entry.term.hidden = entry.remedy.hidden = !shown.has(entry); });
    document.querySelectorAll(".apv-errors").forEach((list) => {
      list.closest("section").hidden = !list.querySelector("dt:not([hidden])");
    });
    count.textContent = asked ? `${shown.size} of ${entries.length} messages` : "";
  });
})();
