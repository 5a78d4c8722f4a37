"""The kernels of the load processes, by NVIDIA's assembler: it is what the driver compiles them with."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.needs import missing
from wattribute.verify.gpu_load import KERNELS, PTX


@pytest.fixture(scope="module")
def assembler() -> str:
    """ptxas of the package nvidia-cuda-nvcc-cu12, or of an installed CUDA."""
    wheel = Path(sysconfig.get_path("purelib"), "nvidia", "cuda_nvcc", "bin")
    found = shutil.which("ptxas", path=f"{wheel}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        missing("no ptxas to assemble loads.ptx with: pip install nvidia-cuda-nvcc-cu12")
    return str(found)


# A100, A40, L40S and RTX 40, H100, B200, RTX 50
@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_every_gpu_takes_the_kernels(assembler: str, architecture: str, tmp_path: Path) -> None:
    strict = ["--verbose", "--warning-as-error", "--warn-on-spills", "--warn-on-local-memory-usage"]
    made = subprocess.run(
        [assembler, *strict, "--gpu-name", architecture, "--output-file", tmp_path / "loads.cubin", PTX],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    said = made.stdout + made.stderr
    assert "warning" not in said.lower()
    registers = {
        name: int(count)
        for name, count in re.findall(r"entry function '(\w+)'.*?Used (\d+) registers", said, re.DOTALL)
    }
    assert registers.keys() == KERNELS.keys()
    # What the loops work on is in registers: 16 of tiles and 32 of sums, 16 of the vector and 16 of weights.
    # Where the assembler drops a loop, or a result that nobody keeps, they go too.
    assert registers["matmul"] >= 48
    assert registers["decode"] >= 32
    # Of copy's six blocks and matmul's two all run at a time: a multiprocessor has 65536 registers.
    assert 6 * 256 * -(-registers["copy"] // 8) * 8 <= 65536
    assert 2 * 256 * -(-registers["matmul"] // 8) * 8 <= 65536
