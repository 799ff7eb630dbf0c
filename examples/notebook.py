# %% [markdown]
# A result in a notebook: open this file in Jupyter (by jupytext) or in an editor that runs `# %%` cells.

# %%
import tempfile
from pathlib import Path

import harness

FOLDER = Path(tempfile.mkdtemp())
HERE = Path(__file__).parent if "__file__" in globals() else Path("examples")

# %% A notebook's event loop runs already, so the asynchronous form is awaited.
scenario = harness.load_scenario(HERE / "small.yaml", set={"load.0.poisson.rate": 16})
result = await harness.run_async(scenario, out=FOLDER / "result")  # noqa: F704, PLE1142 - cells may await
result  # noqa: B018 - the last value of a cell is shown

# %%
stage = result.summary.stages[0]
print(stage.label, stage.ttft, [str(warning.text) for warning in result.warnings], sep="\n")

# %% Each request is a row of a DataFrame.
requests = result.requests()
requests = requests[requests["status"] == "completed"]
ttft_ms = (requests["first_ns"] - requests["sent_ns"]) / 1e6
print(ttft_ms.describe())

# %% The page in Chinese.
with harness.language("zh"):
    print(harness.report(result))
