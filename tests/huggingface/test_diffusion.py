"""Folders of diffusion pipelines: what is in them, and what is refused before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from awqc.errors import CaptureError, UsageError
from awqc.huggingface.diffusion import DiffusionFolder, pipeline_calls
from tests.tiny_pipelines import save_unconditional


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("pipeline") / "made"
    return folder, save_unconditional(folder)


@pytest.fixture
def folder(made: tuple[Path, Any], tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made[0], tmp_path / "copy"))


def edit(folder: Path, **entries: Any) -> Path:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def test_a_pipeline_is_loaded_in_float32_and_eval_mode(made: tuple[Path, Any]) -> None:
    folder = DiffusionFolder.at(made[0])
    assert folder.name == "made"
    assert folder.components()["unet"] == ("diffusers", "UNet2DModel")
    pipeline = folder.pipeline()
    assert not pipeline.unet.training
    assert pipeline.unet.dtype == torch.float32


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"_class_name": "Gone"}, "_class_name is 'Gone', no pipeline of diffusers"),
        ({"_class_name": "UNet2DModel"}, "no pipeline of diffusers"),
        ({"_class_name": ["a"]}, "no pipeline of diffusers"),
        ({"unet": ["os", "system"]}, "is of 'os', which is neither of diffusers nor transformers"),
        ({"unet": ["my_unet", "UNet"]}, "code of the folder's own is not run"),
        ({"unet": [1, 2, 3]}, "is no pair of a library and a class"),
        ({"../unet": ["diffusers", "UNet2DModel"]}, "is no name of a folder in it"),
    ],
)
def test_what_names_other_code_is_refused(folder: Path, entries: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        DiffusionFolder.at(edit(folder, **entries))


def test_code_of_the_folder_does_not_run(folder: Path) -> None:
    ran = folder / "ran"
    for place in (folder / "pipeline.py", folder / "unet" / "unet.py"):
        place.write_text(f"open({str(ran)!r}, 'w')\n")
    DiffusionFolder.at(folder).pipeline()
    assert not ran.exists()


def test_pickled_weights_are_not_loaded(folder: Path) -> None:
    weights = next((folder / "unet").glob("*.safetensors"))
    torch.save({"a": torch.ones(1)}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(CaptureError, match="the pipeline could not be loaded"):
        DiffusionFolder.at(folder).pipeline()


def test_all_but_weights_and_code_is_copied(folder: Path, tmp_path: Path) -> None:
    (folder / "unet" / "unet.py").write_text("")
    DiffusionFolder.at(folder).copy_processing(tmp_path / "out")
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"} == found


def test_calls_differ_in_sizes_and_numbers() -> None:
    class Pipeline:
        vae_scale_factor = 2

        def __call__(
            self, prompt: Any, height: Any = 1, width: Any = 1, num_inference_steps: int = 50
        ) -> None: ...

    calls = pipeline_calls(Pipeline(), ["a", "b", "c"], 7, "x")
    assert [len(call["prompt"]) for call in calls] == [2, 3, 2]
    assert len({(call["height"], call["width"]) for call in calls}) == 3
    assert all(call["height"] % 16 == call["width"] % 16 == 0 for call in calls)
    assert len(pipeline_calls(Pipeline(), ["a"], 1, "x")) == 2


def test_a_pipeline_that_needs_more_is_refused() -> None:
    class Pipeline:
        def __call__(self, prompt: Any, image: Any, strength: float = 0.5) -> None: ...

    with pytest.raises(UsageError, match="needs image; of a folder awqc makes calls with prompts"):
        pipeline_calls(Pipeline(), ["a"], 4, "x")
