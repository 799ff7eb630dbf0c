"""`harness serve-sim` and `serve-proxy`: the embedded engine alone, and a proxy before several engines."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from harness.cli.terminal import OutputLog
from harness.errors import EXIT_DONE, InputError, suggestion
from harness.messages import message

_ROLES = ("prefill", "decode", "replica")
_POLICIES = ("least-loaded", "round-robin")
_OF_SEVERAL_WORDS = ("served_model_name", "lora_modules", "cudagraph_capture_sizes", "api_key", "logits_processors")
_PROXY_FLAGS = ("--host", "--port", *(f"--{role}" for role in _ROLES), "--policy", "--until-stdin-closes")


def serve_command(words: Sequence[str], show: OutputLog, log: OutputLog) -> int:
    """`harness serve-sim`: serve until SIGINT, SIGTERM or, with --until-stdin-closes, the end of stdin.

    Raises:
        InputError: where a flag is unknown or its value impossible.
    """
    if "--help" in words or "-h" in words:
        show(message("cli.serve_sim_help"))
        return EXIT_DONE
    flags = flags_in(words)
    host = str(flags.pop("host", "127.0.0.1"))
    port = _port(flags.pop("port", 8000))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(flags, (host, port), (show, log)))
    return EXIT_DONE


def flags_in(words: Sequence[str]) -> dict[str, Any]:
    """`--some-flag value` pairs by snake_case name; a flag without a value is true, `--no-x` is x false.

    A first word that is no flag is the model, as it is for `vllm serve`, and a flag that takes several words there has
    a list where it is given more than one.

    Raises:
        InputError: where another word is no flag, or the model is named twice.
    """
    rest = list(words)
    flags: dict[str, Any] = {"model": rest.pop(0)} if rest and not rest[0].startswith("--") else {}
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise InputError(message("cli.not_a_flag", word=word))
        name, given, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name == "model" and name in flags:
            raise InputError(message("cli.model_twice", model=flags[name]))
        if given:
            flags[name] = value
        elif rest and not rest[0].startswith("--"):
            flags[name] = rest.pop(0)
            more = list(takewhile(lambda word: not word.startswith("--"), rest)) if name in _OF_SEVERAL_WORDS else []
            flags[name], rest = [flags[name], *more] if more else flags[name], rest[len(more) :]
        elif name.startswith("no_"):
            flags[name[3:]] = False
        else:
            flags[name] = True
    return flags


def proxy_command(words: Sequence[str], show: OutputLog, log: OutputLog) -> int:
    """`harness serve-proxy`: serve until SIGINT, SIGTERM or, with --until-stdin-closes, the end of stdin.

    Raises:
        InputError: where a flag is unknown, or a role has no engine.
    """
    if "--help" in words or "-h" in words:
        show(message("cli.serve_proxy_help"))
        return EXIT_DONE
    flags = flags_in(words)
    host, port = str(flags.pop("host", "127.0.0.1")), _port(flags.pop("port", 9000))
    until_stdin_closes = flags.pop("until_stdin_closes", False) is True
    policy = str(flags.pop("policy", "least-loaded"))
    servers = {role: [url for url in str(flags.pop(role, "")).split(",") if url] for role in _ROLES}
    for name in flags:
        hint = suggestion(f"--{name}", _PROXY_FLAGS)
        raise InputError(message("cli.not_a_proxy_flag", word=f"--{name}", hint=hint))
    if policy not in _POLICIES:
        raise InputError(message("cli.not_a_policy", word=policy, hint=suggestion(policy, _POLICIES)))

    async def serve() -> None:
        from harness.engines.proxy import serve_proxy  # noqa: PLC0415 - aiohttp loads only to serve

        with _stopped_by_signals(until_stdin_closes):
            await serve_proxy(servers, policy, (host, port), show)

    with contextlib.suppress(ImportError):  # absent on some platforms; asyncio's own loop serves there
        import uvloop  # noqa: PLC0415 - for the proxy only

        uvloop.install()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    log(message("cli.serve_proxy_stopped"))
    return EXIT_DONE


def _port(port: Any) -> int:
    """A port that was given as a word.

    Raises:
        InputError: where it is none.
    """
    if not (isinstance(port, str | int) and str(port).isdigit() and int(port) <= 65_535):
        raise InputError(message("cli.not_a_port", port=str(port)))
    return int(port)


@contextlib.contextmanager
def _stopped_by_signals(until_stdin_closes: bool) -> Iterator[None]:  # noqa: FBT001 - whether, as the flag says
    """Cancel the current task at SIGINT, SIGTERM or the end of stdin, and let it end so."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    if until_stdin_closes:
        loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 4096) else task.cancel())
    with contextlib.suppress(asyncio.CancelledError):
        yield


async def _serve(flags: dict[str, Any], place: tuple[str, int], outputs: tuple[OutputLog, OutputLog]) -> None:
    from harness.simulator.engine_config import settings_from_flags  # noqa: PLC0415 - likewise
    from harness.simulator.server import serve  # noqa: PLC0415 - aiohttp loads only to serve

    show, log = outputs
    until_stdin_closes = flags.pop("until_stdin_closes", False) is True
    settings = settings_from_flags(flags)
    with _stopped_by_signals(until_stdin_closes):
        await serve(settings, host=place[0], port=place[1], on_ready=show, log=log)
    log(message("cli.serve_sim_stopped"))
