"""Scenarios are found by name: the user's own first, then those that ship; and copied with all that they name."""

import pytest

from harness.errors import InputError
from harness.scenario.files import copy_scenario, find_data_file, find_scenario, shipped_folder, shipped_scenarios
from harness.scenario.loader import check_file


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """A working folder with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_scenario_that_ships_has_its_question():
    """One line each, as `harness scenarios` lists them."""
    shipped = shipped_scenarios()

    assert {"chat", "long_context", "tune", "smoke"} <= set(shipped)
    assert all(question.endswith("?") and "\n" not in question for question in shipped.values())


@pytest.mark.parametrize("name", ["chat", "chat.yaml", "long-context", "long_context", "tune"])
def test_a_name_finds_the_file_that_ships(name):
    """In an empty folder, with dashes or underscores."""
    path = find_scenario(name)

    assert path.parent == shipped_folder()
    assert path.is_file()


@pytest.mark.parametrize("place", ["chat.yaml", "scenarios/chat.yaml", "chat.yml"])
def test_a_local_file_of_the_name_wins(empty, place):
    """In the working folder or its scenarios/."""
    (empty / "scenarios").mkdir()
    (empty / place).write_text("")

    assert find_scenario("chat").resolve() == (empty / place).resolve()


def test_the_working_folder_comes_before_its_scenarios(empty):
    """The nearest file is meant."""
    (empty / "scenarios").mkdir()
    for place in ("chat.yaml", "scenarios/chat.yaml"):
        (empty / place).write_text("")

    assert str(find_scenario("chat")) == "chat.yaml"


@pytest.mark.parametrize("path", ["nowhere/chat.yaml", "chatt.yaml", "./chat.yml", "results/x"])
def test_a_path_stays_a_path(path):
    """Whoever reads it says that there is none: only a bare name is looked for elsewhere."""
    assert str(find_scenario(path)) == path.removeprefix("./") or find_scenario(path).parent == shipped_folder()


def test_a_mistyped_name_gets_the_nearest_one(empty):
    """Of the user's own files as of those that ship."""
    (empty / "mine.yaml").write_text("")
    with pytest.raises(InputError, match=r"^cht: no such file, and no scenario of that name; did you mean 'chat'\?$"):
        find_scenario("cht")
    with pytest.raises(InputError, match="did you mean 'mine'"):
        find_scenario("mien")


def test_a_study_that_there_is_not_gets_studies_only(empty):
    """The user's and those that ship; files that are no study, or cannot be read, are not offered."""
    (empty / "night.yaml").write_text("name: night\nscenario: chat.yaml\n")
    (empty / "nosuc.yaml").write_text("name: nosuc\nworkload: {}\n")
    (empty / "broken.yaml").write_text("scenario: [")
    with pytest.raises(
        InputError, match=r"^nosuch: no such file, and no study of that name; expected one of night, tune$"
    ):
        find_scenario("nosuch", is_study=True)
    with pytest.raises(InputError, match="did you mean 'night'"):
        find_scenario("nihgt", is_study=True)


@pytest.mark.parametrize("name", shipped_scenarios())
def test_a_copy_is_whole(empty, name):
    """It can be used where it lies: the trace of a scenario and the scenario of a study come with it."""
    copies = copy_scenario(name, empty / "mine")

    assert copies[0] == empty / "mine" / f"{name}.yaml"
    assert all(path.is_file() for path in copies)
    assert (empty / "mine" / "schema.json") in copies
    assert check_file(copies[0]) == []


def test_a_copy_overwrites_nothing(empty):
    """Neither the scenario, which is refused, nor what it names, which may be another's already."""
    (empty / "chat.yaml").write_text("mine")
    with pytest.raises(InputError, match=r"chat\.yaml: exists already"):
        copy_scenario("chat")
    copy_scenario("tune")

    assert (empty / "chat.yaml").read_text() == "mine"


def test_only_what_ships_is_copied():
    """With the nearest name, or the reason why a folder cannot be written."""
    with pytest.raises(InputError, match=r"^cht: no scenario of that name ships; did you mean 'chat'\?$"):
        copy_scenario("cht")
    with pytest.raises(InputError, match="cannot be written"):
        copy_scenario("chat", shipped_folder() / "chat.yaml")


def test_a_relative_path_is_looked_up_from_the_folder(tmp_path):
    """A scenario's data lies beside the scenario, wherever the program is started."""
    (tmp_path / "trace.jsonl").write_text("{}")

    assert find_data_file("trace.jsonl", tmp_path) == tmp_path / "trace.jsonl"
    assert find_data_file(str(tmp_path / "trace.jsonl"), tmp_path / "elsewhere") == tmp_path / "trace.jsonl"


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    """A mistyped name is answered with the file that was likely meant."""
    (tmp_path / "sharegpt.json").write_text("[]")

    with pytest.raises(InputError, match=r"shargpt.json: no such file; did you mean 'sharegpt.json'\?"):
        find_data_file("shargpt.json", tmp_path)
    with pytest.raises(InputError, match=r"no such file; expected a file"):
        find_data_file("nowhere/else.json", tmp_path)


def test_a_folder_is_not_a_file(tmp_path):
    """Naming a folder is told as such."""
    with pytest.raises(InputError, match="not a file; expected a file"):
        find_data_file(str(tmp_path), tmp_path)
