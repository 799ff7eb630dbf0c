"""Messages as data: a code with parameters, turned into a sentence of a language at the last moment.

A message holds numbers with their units in the parameters' names (`wait_s`, `kv_bytes`) and never formatted text. The
sentences stand in the catalogues beside this file, one .po file a language and room: the first part of a code
names the file (`scenario.key_unknown` stands in en/scenario.po and zh/scenario.po).

A sentence has its parameters in braces, each with how it is written: `{wait_s:duration}`, `{count:count}`,
`{names:or}`; see `harness.messages.rendering`. Where the wording depends on a number, the entry has plural forms
(msgid_plural) and the parameter `count` chooses. A message may be a parameter of another, and so may a list of values.
"""

from harness.messages.message import Message, Parameter, message, message_from, plain, sentences
from harness.messages.rendering import LANGUAGES, current_language, language, language_of, localized, render, stored

__all__ = [
    "LANGUAGES",
    "Message",
    "Parameter",
    "current_language",
    "language",
    "language_of",
    "localized",
    "message",
    "message_from",
    "plain",
    "render",
    "sentences",
    "stored",
]
