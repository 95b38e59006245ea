"""What all tests share: small programs, one thread count, and golden texts."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from awqc.machine import products
from awqc.machine.strict import STRICT
from awqc.program import Program
from awqc.verify import fresh
from tests.processes import Processes
from tests.tiny import MODELS, captured

GOLDEN = Path(__file__).parent / "golden"
Golden = Callable[[str, str], None]
QUICK_PRODUCTS = products.has_quick_products


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden anew, to be reviewed"
    )


def pytest_configure() -> None:
    # Graphs are made of many small objects, none of which the collector would free.
    gc.set_threshold(50_000, 20, 50)
    # Models this small only lose by more threads, and sums keep one order.
    torch.set_num_threads(1)
    # Products are whole in this process, whatever the processor, so that oracles hold.
    products.has_quick_products = lambda: False
    # The process that opens what was published waits for the next test that compiles.
    fresh.IDLE = 3600.0
    # No second-best way is taken unseen; the marker ``fallbacks`` lets a test show one.
    os.environ[STRICT] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    # What is imported by now stays: collections, of which loading a model asks one, pass it by.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    """One seed for each test, which leaves derivatives and the dtype as it found them."""
    torch.manual_seed(0)
    yield
    derivatives = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert derivatives, "this test turned derivatives off for those after it"
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture(autouse=True)
def _fallbacks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("fallbacks"):
        monkeypatch.delenv(STRICT)


@pytest.fixture
def quick_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products may be in bfloat16, where the processor has units for it, as everywhere else."""
    monkeypatch.setattr(products, "has_quick_products", QUICK_PRODUCTS)


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts processes of awqc."""
    made = Processes(tmp_path_factory.mktemp("processes"))
    yield made
    made.end()


@pytest.fixture(params=list(MODELS))
def program(request: pytest.FixtureRequest) -> Program:
    """Each of the small models, captured."""
    return captured(request.param)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares a text with the one in ``tests/golden``."""
    update = bool(request.config.getoption("--update-golden"))

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if update:
            path.write_text(text)
        assert path.exists(), f"{path.name} is missing: run pytest --update-golden and review it"
        assert text == path.read_text()

    return check
