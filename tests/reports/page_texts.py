"""Our own texts of a page: text nodes and labels that no element marks as a name or value from outside."""

import re
from html.parser import HTMLParser

OUTSIDE = {"bdi", "code", "pre", "samp", "time", "style", "script"}
VOID = {"meta", "link", "wbr", "br", "img"}
# Terms of the field, units, keys and names of tools, which are the same in every language.
TERMS = re.compile(
    r"\b(?:TTFT|TPOT|NTPOT|ITL|ICL|E2E|SLO|KV|NPU|CPU|HTTP|CANN|AI Core|vLLM|AISBench|SIMULATED|Host|Roofline|Student|"
    r"Kendall|Holm|float\d+|NaN|tokens?/s|tokens?|vllm bench serve|npu-harness|npu-smi|usage|batch|"
    r"[a-z0-9]+(?:_[a-z0-9]+)+)\b"
)
OTHERS = re.compile(  # commands, settings and what a kernel said, which stand in texts as they are
    r"harness run [^\u3000-\uffef]*|stream: true|<img.*?</script>|so it is"
)
ENGLISH = re.compile(r"[A-Za-z]{2,}[,;:]? [a-z]{2,}")


class OwnTexts(HTMLParser):
    """Texts and labels of ours, in the order of the page."""

    def __init__(self, page):
        super().__init__()
        self.open = []
        self.texts = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if not self._is_outside() and found.get("aria-label"):
            self.texts.append(found["aria-label"])
        if tag not in VOID:
            self.open.append((tag, tag in OUTSIDE or found.get("translate") == "no"))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if data.strip() and not self._is_outside():
            self.texts.append(" ".join(data.split()))

    def _is_outside(self):
        return any(outside for _, outside in self.open)


NUMBER = re.compile(r"(?<![\w.,])\d(?:[\d,.]*\d)?(?![A-Za-z0-9])", re.ASCII)  # none of p99 or E2E


def english_in(page):
    """Our texts that still have two English words in a row that are no terms of the field."""
    return [text for text in OwnTexts(page).texts if ENGLISH.search(TERMS.sub("", OTHERS.sub("", text)))]


def numbers_in(page):
    """All numbers of our texts, sorted: the order of a sentence differs from language to language."""
    return sorted(number for text in OwnTexts(page).texts for number in NUMBER.findall(text))
