"""A few minutes of `python -m tests.fuzz` with a fixed seed, and all that it has ever found."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz import files, graphs, planted
from tests.fuzz.finds import FILES, GRAPHS

FIRST, CASES = 10**9, 100
EXAMPLES = 30
PLANTED = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fallbacks,
    # As on the command line; zipfile warns of the damage itself.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.make_corpus(tmp_path_factory.mktemp("corpus"))


def test_damaged_files_end_in_a_message(corpus: Path, tmp_path: Path) -> None:
    cases = map(files.numbered, range(FIRST, FIRST + CASES))
    codes = Counter(files.check(case, corpus, tmp_path / "case") for case in cases)
    assert codes[1] > CASES // 10
    assert codes[2] > CASES // 10


@pytest.mark.parametrize("case", FILES, ids=str)
def test_files_that_were_found(case: files.Case, corpus: Path, tmp_path: Path) -> None:
    files.check(case, corpus, tmp_path / "case")


def test_planted_code_does_not_run(corpus: Path, tmp_path: Path) -> None:
    cases = planted.plantings(corpus)
    for way in planted.WAYS:
        of_way = [case for case in cases if case.way == way]
        for case in of_way[:: max(1, len(of_way) // PLANTED)][:PLANTED]:
            planted.check(case, corpus, tmp_path / "case")


compared: list[graphs.Outcome] = []


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(graphs.graphs())
def compare(graph: graphs.Graph) -> None:
    compared.append(graphs.check(graph))


def test_random_graphs_are_the_same_everywhere() -> None:
    compare()
    assert sum(outcome.sizes > 1 for outcome in compared) > EXAMPLES // 2


@pytest.mark.parametrize("graph", GRAPHS, ids=str)
def test_graphs_that_were_found(graph: graphs.Graph) -> None:
    graphs.check(graph)
