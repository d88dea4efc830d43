"""The shipped programs are what the compiler makes today; the command compiles and explains."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.runtime.program import load_program
from trainer.cli import trainer
from trainer.compile.build import build_program
from trainer.programs import SHIPPED, shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_program_is_what_the_compiler_makes_today(name: str) -> None:
    """Byte for byte: graphs, ONNX, .tflite, initial parameters, manifest. Otherwise: make programs."""
    packed = build_program(SHIPPED[name], name=name)
    assert {file.name for file in shipped(name).iterdir()} == set(packed.files)
    different = [file for file, data in packed.files.items() if (shipped(name) / file).read_bytes() != data]
    assert different == []


def test_there_is_no_other_shipped_program() -> None:
    with pytest.raises(ValueError, match="cnn-8x8, cnn-28x28, har-cnn"):
        shipped("resnet")


def test_the_command_compiles_ones_own_module(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(6, 3))\n"
    )
    out = tmp_path / "program"
    arguments = ["compile", f"{source}:Net", "-o", str(out), "--name", "mine", "--optimizer", "adam"]
    result = CliRunner().invoke(trainer, [*arguments, "--input-shape", "2,3", "--labels", "a,b,c", "--batch", "4"])
    assert result.exit_code == 0, result.output
    program = load_program(out)
    assert program.manifest.labels == ("a", "b", "c")
    assert (program.manifest.batch, program.manifest.optimiser) == (4, "adam")
    assert (program.manifest.parameter_count, program.manifest.state_count) == (21, 3 * 21 + 2)
    assert f"digest {program.digest.hex()}" in result.output
    assert "21 parameters" in result.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["resnet"], "no model is called 'resnet': one of mlp"),
        (["torch.nn:ReLU"], "needs --input-shape"),
        (["no_such_module:Net", "--input-shape", "3", "--labels", "2"], "cannot be built"),
        (["torch:Tensor", "--input-shape", "3", "--labels", "2"], "not a torch module"),
        (["torch.nn:Softplus", "--input-shape", "3", "--labels", "3"], "has no parameters"),
        (["mlp", "--input-shape", "1,x"], "such as 1,28,28"),
        (["mlp", "--labels", "1"], "at least two labels"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], reason: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(trainer, ["compile", *arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code != 0
    assert reason in result.output
    assert not (tmp_path / "out").exists()
