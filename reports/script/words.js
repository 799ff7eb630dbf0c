// The page's words for the script, in the reader's language, and its data: JSON that stands in the page.

function readJson(id) {
  const block = document.getElementById(id);
  return block ? JSON.parse(block.textContent) : {};
}

const words = readJson("words");

// A sentence with its {places} filled.
function fill(sentence, values) {
  return sentence.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}
