"""An engine of which nothing is real but its process: FAKE_VLLM says how it behaves."""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.utils import FlexibleArgumentParser

MODE = os.environ.get("FAKE_VLLM", "serve")
CORE = "(EngineCore pid=7) {} 08-22 10:00:00 [core.py:133] {}"
STARTING = (
    ("INFO", "Initializing a V1 LLM engine (v0.23.0) with config: model='m', dtype=torch.bfloat16, max_seq_len=2048"),
    ("INFO", "Starting to load model m..."),
    ("INFO", "Available KV cache memory: 3.96 GiB"),
    ("INFO", "NPU KV cache size: 1,234,567 tokens, Maximum concurrency for 2,048 tokens per request: 602.82x"),
)  # fmt: skip
DEATHS = {
    "config": ("ValueError: No common block size for 16 (ASCEND: [128]).",
               "RuntimeError: Worker failed with error 'No common block size for 16', please check the stack trace"),
    "memory": ("RuntimeError: NPU out of memory. Tried to allocate 22.00 MiB (NPU 0; 60.97 GiB total capacity)",),
    "port": ("OSError: [Errno 98] error while attempting to bind on address: address already in use",),
}  # fmt: skip
SLEEPER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"


class Answers(BaseHTTPRequestHandler):
    """Health, models, counters and completions of as many tokens as asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        model = {"data": [{"id": ARGS.model}]}
        texts = {
            "/health": "",
            "/v1/models": json.dumps(model),
            "/metrics": 'vllm:cache_config_info{block_size="128",cache_dtype="auto",num_gpu_blocks="9"} 1.0\n',
        }
        self.send(200 if self.path in texts else 404, texts.get(self.path, "none"))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        if not body.get("stream"):
            self.send(200, json.dumps({"choices": [{"index": 0, "text": "a"}], "usage": usage}))
        else:
            events = [
                json.dumps({"choices": [{"index": 0, "text": "a"}], "usage": usage | {"completion_tokens": n + 1}})
                for n in range(body["max_tokens"])
            ]
            self.send(200, "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]), "text/event-stream")
        if MODE == "dies":
            say(CORE.format("ERROR", "torch.OutOfMemoryError: NPU out of memory."))
            os._exit(3)

    def send(self, status, text, kind="application/json"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def say(line):
    """A line for the log, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main():
    """Start, and behave as told."""
    if MODE in ("deaf", "orphans"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN if MODE == "deaf" else signal.SIG_DFL)
    if MODE == "orphans":
        child = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, start_new_session=True)
        child.stdout.readline()
        say(f"child {child.pid}")
    for level, text in STARTING:
        say(CORE.format(level, text))
    if MODE in DEATHS:
        for text in DEATHS[MODE]:
            say(CORE.format("ERROR", text))
        sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
    if MODE == "never":
        time.sleep(60)
    server = ThreadingHTTPServer((ARGS.host, ARGS.port), Answers)
    say(CORE.format("INFO", "Application startup complete."))
    server.serve_forever()


if __name__ == "__main__":
    ARGS = make_arg_parser(FlexibleArgumentParser()).parse_args()
    main()
