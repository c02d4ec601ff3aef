"""The public surface: what `import samtune` gives and how light it is, loaded models, results that show themselves."""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from dataclasses import is_dataclass
from importlib import resources
from pathlib import Path

import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image

import samtune
from samtune import api, config
from samtune.utils.results import Result
from tests.small import make_dataset

ROOT = Path(samtune.__file__).parent


def run_python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_every_public_name_is_there():
    assert len(set(samtune.__all__)) == len(samtune.__all__)
    for name in samtune.__all__:
        assert getattr(samtune, name) is not None
    assert dir(samtune) == sorted(samtune.__all__)
    functions = {name for name in api.__all__ if not name.isupper()}
    configs = {name for name in config.__all__ if name != "Config"}
    assert functions | configs <= set(samtune.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = samtune.nonsense


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == set(samtune.__all__) - {"__version__"}
    assert resources.files("samtune").joinpath("py.typed").is_file()


def test_no_room_takes_the_name_of_a_public_function():
    """Importing a submodule sets its name in the package, over whatever stood there (decision 80)."""
    rooms = {module.name for module in pkgutil.iter_modules([str(ROOT)])}
    assert not rooms & set(samtune.__all__)


def test_neither_import_nor_doctor_loads_torch(tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 20, 2, 20, 20]], "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    code = """
import sys, samtune
assert not {"torch", "numpy", "pydantic", "polars"} & set(sys.modules), "import samtune is not light"
samtune.TrainConfig, samtune.DataError, samtune.train, samtune.StepDone, samtune.Dataset
assert "torch" not in sys.modules, "a name loads torch"
from samtune.cli import main
try:
    main(["doctor", sys.argv[1], "--quiet"])
except SystemExit as ended:
    assert ended.code == 0
import samtune.studio.app
heavy = {"torch", "transformers", "accelerate", "peft", "matplotlib"} & set(sys.modules)
assert not heavy, f"doctor, or the studio without a model, loads {heavy}"
print("light")
"""
    assert run_python(code, str(tmp_path)).splitlines()[-1] == "light"


PUBLIC = [getattr(samtune, name) for name in samtune.__all__]
RESULTS = [kind for kind in PUBLIC if isinstance(kind, type) and issubclass(kind, Result)]


@pytest.mark.parametrize("kind", RESULTS)
def test_results_are_frozen_values(kind):
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen


def shows_itself(result: Result) -> bool:
    json.dumps(result.to_json(), allow_nan=False)
    html = result._repr_html_()
    return bool(result.lines()) and html.startswith("<") and "<script" not in html


def test_what_is_shown_is_escaped():
    assert "<b>" not in samtune.TrainResult(Path("<b>runs"), 3, 1, None)._repr_html_()


def test_a_notebook_stores_what_it_shows_and_no_more():
    result = samtune.TrainResult(Path("runs/1"), 3, 1, None)
    kept, _ = DisplayFormatter().format(result)
    assert kept == {"text/html": result._repr_html_(), "text/plain": "\n".join(result.lines())}


def test_loaded_models_are_taken_where_names_are(tmp_path, tiny_folder):
    data = make_dataset(tmp_path / "data", train=2, valid=2, test=3).root
    loaded = samtune.load_model(tiny_folder, device="cpu")
    predictor = samtune.Predictor(loaded)
    settings = samtune.EvalConfig(max_objects=4, device="cpu")
    by_name = samtune.evaluate(data, tiny_folder, settings, quiet=True)
    assert samtune.evaluate(data, loaded, settings, quiet=True).to_json() == by_name.to_json()
    compared = samtune.compare(data, tiny_folder, predictor, tmp_path / "compared", settings, quiet=True)
    prompts = samtune.PredictConfig(box=("5,5,40,40",))
    predicted = samtune.predict(data / "images", loaded, tmp_path / "masks", prompts, quiet=True)
    exported = samtune.export(predictor, tmp_path / "hf", "hf")
    assert all(shows_itself(result) for result in (by_name, compared, predicted, exported, samtune.models()))


def test_listeners_hear_every_event(tmp_path, tiny_folder):
    data = make_dataset(tmp_path / "data", train=2, valid=2, test=1).root
    settings = samtune.TrainConfig(model=str(tiny_folder), steps=3, eval_every=2, out=tmp_path / "run", device="cpu")
    heard: list[samtune.Event] = []
    result = samtune.train(data, settings, listeners=[heard.append], quiet=True)
    kinds = [type(event).__name__ for event in heard]
    assert kinds[0] == "RunStarted" and kinds[-1] == "RunFinished"
    assert [event.step for event in heard if isinstance(event, samtune.StepDone)] == [1, 2, 3]
    assert [event.step for event in heard if isinstance(event, samtune.Validated)] == [0, 2, 3]
    assert shows_itself(result) and result.folder == tmp_path / "run"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("CacheConfig", {"cache_limit": "lots"}),
        ("PredictConfig", {"box": ("1,2,3",)}),
        ("PredictConfig", {"box": ("30,5,10,40",)}),
        ("PredictConfig", {"point": ("3;4",)}),
        ("PredictConfig", {"point": ("nan,4",)}),
        ("PrepareConfig", {"split": "1,1,1"}),
    ],
)
def test_settings_are_checked_when_they_are_built(kind, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        getattr(samtune, kind)(**settings)
