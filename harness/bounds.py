"""How much of anything that a server sends is read, at most?

Every bound of foreign bytes stands here. A breach is a named failure of one request, or one line
for the user, never a machine without memory.
"""

# An answer in full, and what a compressed one may become: 190,000 tokens at 350 bytes an event. What decodes it
# holds about four copies for a moment.
MAX_ANSWER_BYTES = 64 << 20
MAX_EVENTS = 1_000_000  # of one answer
MAX_CHUNKS = 2_000_000  # of one answer's HTTP framing: three for each event, and more than any server needs
MAX_TOKENS = 10_000_000  # of one answer or prompt, as in scenario files; a server that counts more miscounts
MESSAGE_CHARS = 300  # of a server's own words
