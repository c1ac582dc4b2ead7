"""The commands of the debug tool."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from calibrant import debug
from calibrant.cli import main
from calibrant.cli._lists import names_of
from calibrant.errors import ConfigValueError
from tests.debug.nets import NODES, chain, samples


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    onnx.save(chain(v1=0.1), tmp_path / "calibrated_model.onnx")
    folder = tmp_path / "calibration_data" / "x"
    folder.mkdir(parents=True)
    for i, x in enumerate(samples()["x"]):
        np.save(folder / f"{i}.npy", x[None])
    return str(tmp_path / "calibrated_model.onnx"), str(folder.parent)


def test_nodes_are_ranked(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert (
        main(
            [
                "debug",
                "get-sensitivity-of-nodes",
                *files,
                "-m",
                "[mse,sqnr]",
                "-s",
                str(out),
                "--json",
            ]
        )
        == 0
    )
    content = json.loads(capsys.readouterr().out)
    assert content["nodes"][0]["name"] == "second"
    assert {n["name"] for n in content["nodes"]} == set(NODES)
    assert list(content["nodes"][0]["metrics"]) == ["mse", "sqnr"]
    assert (out / "sensitivity_of_node.log").exists()


def test_nested_lists_reach_the_function(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["debug", "get-sensitivity-of-nodes", *files, "-i", "[['first',second],[third]]"])
        == 0
    )
    told = capsys.readouterr().out
    assert "first,second " in told
    assert "rounding" in told


def test_a_typing_mistake_is_told(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["debug", "get-sensitivity-of-nodes", *files, "-i", "secnd"]) == 5
    assert "Did you mean 'second'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ("list-nodes", ["--csv", "--json"], "one of them can be"),
        ("sensitivity-analysis", ["-p", "0.99", "-sn", "first"], "give one of the two"),
        ("runall", ["-pt", "0.99", "-sn", "first"], "give one of the two"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    files: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    command: str,
    more: list[str],
    words: str,
) -> None:
    assert main(["debug", command, *files, *more]) == 5
    assert words in capsys.readouterr().err


LISTS = [
    (["a"], ["a"]),
    (["[a,b]"], ["a", "b"]),
    (["['a','b']"], ["a", "b"]),
    (['["a", "b c"]'], ["a", "b c"]),
    (["[[/a/Conv.1,b:0],[c]]"], [["/a/Conv.1", "b:0"], ["c"]]),
    (["[['a,[x]'],'c']"], [["a,[x]"], "c"]),
    (["a", "[b,c]"], ["a", "b", "c"]),
    (["[]"], []),
]


@pytest.mark.parametrize(("given", "found"), LISTS)
def test_lists_are_read(given: list[str], found: list[object]) -> None:
    assert names_of(given, "-n") == found


def test_lists_come_from_files(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# the worst\n/a/Conv\n[b,c]\n\n")
    assert names_of([f"@{path}", "d"], "-n") == ["/a/Conv", "b", "c", "d"]


@pytest.mark.parametrize("text", ["[a,b", "[a] b", "['a,b]", "[[[a]]]", "@nowhere.txt"])
def test_faulty_lists_are_told(text: str) -> None:
    with pytest.raises(ConfigValueError, match="-n"):
        names_of([text], "-n")


@pytest.mark.slow
def test_every_command_does_its_work(files: tuple[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    runs = [
        ["list-nodes", *files, "--csv"],
        ["plot-acc-error", *files, "-q", "[weight,activation]", "-m", "mse", "-a", "-s", out],
        ["plot-acc-error", *files, "-nq", "[[first],[first,second]]", "-s", out],
        ["plot-distribution", *files, "-n", "[w1__calib,second]", "-s", out],
        ["get-channelwise-data-distribution", *files, "-n", "x__calib", "-a", "1", "-s", out],
        ["sensitivity-analysis", *files, "-m", "sqnr", "-p", "40", "-q", "int16", "-sd", out],
        ["tensor-analysis", *files, "-n", "second", "-np", "2", "-s", out],
        ["collapse-check", *files, "-v", "-s", out],
        [
            "runall",
            *files,
            "-nt",
            "node",
            "-nm",
            "[sqnr]",
            "-dn",
            "2",
            "-pt",
            "40",
            "-avm",
            "-s",
            f"{out}/all",
        ],
    ]
    for arguments in runs:
        assert main(["debug", *arguments]) == 0, arguments
    names = {p.name for p in Path(out).iterdir()}
    assert {"w1__calib.png", "second.png", "x__calib.png", "sensitivity_analysis.csv"} <= names
    assert (Path(out) / "all" / "index.html").exists()


@pytest.mark.parametrize("name", debug.__all__)
def test_every_function_is_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["debug", name.replace("_", "-"), "--help"]) == 0
    assert "run/" in capsys.readouterr().out


def test_two_models_are_compared(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = files
    assert main(["debug", "compare", model, model, "-i", data, "--mode", "consistency"]) == 0
    assert "0 of 32" in capsys.readouterr().out
    onnx.save(chain(), f"{data}/other.onnx")
    arguments = ["debug", "compare", model, f"{data}/other.onnx", "-i", f"{data}/x", "--json"]
    assert main([*arguments, "--mode", "consistency"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["outputs"][0]["mismatches"] > 20
    assert content["passed"] is False
