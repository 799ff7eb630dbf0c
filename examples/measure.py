"""Run a scenario and read its numbers: `python examples/measure.py [URL]`, by default on the built-in simulator."""

import sys
import tempfile
from pathlib import Path

import harness

SCENARIO = Path(__file__).parent / "small.yaml"


def main(url: str | None = None, out: str | None = None) -> harness.Result:
    """Measure a server, or the simulator where there is no URL, and print what came out."""
    scenario = harness.load_scenario(SCENARIO, set={"load.0.poisson.duration": "3s"})
    result = harness.run(scenario, url=url, out=out or f"{tempfile.mkdtemp()}/result", on_progress=print)
    print(result)
    for stage in result.summary.stages:
        if stage.ttft is not None and stage.ttft.p99 is not None:
            print(f"{stage.label}: {stage.output_token_rate:.0f} tokens/s, p99 TTFT {1000 * stage.ttft.p99:.0f} ms")
    for warning in result.warnings:
        print(f"{warning.severity}: {warning.text}")
    requests = result.requests()
    slowest = requests.assign(ttft_ms=(requests["first_ns"] - requests["sent_ns"]) / 1e6).nlargest(3, "ttft_ms")
    print(slowest[["index", "stage", "ttft_ms", "output_tokens"]].to_string(index=False))
    return result


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]).status())
