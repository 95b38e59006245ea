"""Tables as calibration data: parquet, Arrow, and folders as datasets writes them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from awqc.cli import run
from awqc.data.blobs import Blob
from awqc.data.image_files import read_image
from awqc.data.load import DataSource
from awqc.data.records import TableRecords, json_records
from awqc.data.sample_tables import Table, is_table
from awqc.data.text_files import read_documents, read_lines
from awqc.errors import AwqcError, CalibrationError, UsageError
from awqc.huggingface.capture import load_folder
from awqc.huggingface.folder import HFFolder
from awqc.program import Program
from tests.media import tone, write_images, write_wave
from tests.tiny_language_models import save_decoder, save_tokenizer

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_parquet(path: str, **columns: Any) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return Path(path)


def write_stream(path: str, **columns: Any) -> Path:
    """An Arrow file as datasets writes it: a stream."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return Path(path)


def write_file(path: str, **columns: Any) -> Path:
    table = pa.table(columns)
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return Path(path)


def image_bytes(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [{"bytes": path.read_bytes(), "path": path.name} for path in paths]


@pytest.mark.parametrize("write", [write_parquet, write_stream, write_file])
def test_texts_of_every_form(write: Any) -> None:
    texts = [f"w{index} w5" for index in range(4, 11)]
    path = write("t.parquet" if write is write_parquet else "t.arrow", text=texts, other=[0] * 7)
    assert [document.text for document in read_documents(path, None)] == texts
    assert read_lines(path, None) == texts
    assert Table.open(path).columns == ("text",)


def test_folders_of_several_files_and_of_splits(decoder: Program) -> None:
    for number in range(2):
        write_stream(f"saved/data-0000{number}-of-00002.arrow", text=[f"w{4 + number}"] * 3)
    Path("saved/state.json").write_text("{}")
    assert is_table(Path("saved"))
    assert read_lines(Path("saved"), None) == ["w4"] * 3 + ["w5"] * 3
    write_parquet("splits/train/0.parquet", text=["w6"])
    Path("splits/dataset_dict.json").write_text('{"splits": ["train"]}')
    assert read_lines(Path("splits"), None) == ["w6"]
    write_parquet("splits/test/0.parquet", text=["w7"])
    with pytest.raises(UsageError, match="has the splits test, train; give the folder of one"):
        DataSource.of("splits").load(decoder)
    write_images(Path("photos"), 2)
    assert not is_table(Path("photos"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("tables") / "model"
    save_decoder("llama", folder, num_hidden_layers=1)
    save_tokenizer(folder)
    return load_folder(folder)


def test_a_language_model_is_calibrated_on_texts_and_chats_of_a_table(decoder: Program) -> None:
    rows = ["w5 w6 w7 w8 " * 10, "w9 w10 " * 20]
    table = write_parquet("t.parquet", text=rows * 20)
    Path("t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in rows * 20))
    given = {name: DataSource.of(name).load(decoder, num_samples=4, seq_len=16)
             for name in ("t.parquet", "t.jsonl")}  # fmt: skip
    first, second = (each.batches[0]["input_ids"] for each in given.values())
    assert first.tolist() == second.tolist()
    chats = [[{"role": "user", "content": text}] for text in rows]
    write_parquet("c.parquet", messages=chats * 20)
    tokenizer = HFFolder.of(decoder).tokenizer()
    documents = list(read_documents(Path("c.parquet"), tokenizer))
    assert len(documents) == 40
    assert documents[0].chat
    assert documents[0].text.startswith("<s> w5 w6")
    assert table.is_file()


def test_long_tables_are_read_as_far_as_they_are_needed() -> None:
    count = 5000
    path = write_parquet("t.parquet", text=[f"w{index % 50} " * 30 for index in range(count)])
    seen = 0

    for seen, _ in enumerate(read_documents(path, None), 1):
        if seen == 300:
            break
    assert seen == 300
    records = TableRecords(Table.open(path), ("text",))
    assert len(records) == count
    assert records[4321].source.endswith("row 4321")
    assert [record.source[-2:] for record in records[10:12]] == ["10", "11"]


def test_images_and_audio_in_a_table_and_beside_it() -> None:
    paths = write_images(Path("photos"), 4, mode="RGBA")
    path = write_parquet("t.parquet", image=image_bytes(paths), text=["a"] * 4)
    records = TableRecords(Table.open(path), ("text", "image"))
    image, mode = read_image(records[2].files["image"])
    assert mode == "RGBA"
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(paths[2]).convert("RGB")))
    assert records[2].text == "a"
    write_parquet("named.parquet", image=[f"photos/{index}.png" for index in range(4)])
    (named,) = TableRecords(Table.open(Path("named.parquet")), ("image",))[1:2]
    assert named.files["image"] == Path("photos/1.png")
    write_wave(Path("a.wav"), tone(8000, 0.1), 8000)
    write_parquet("raw.parquet", audio=[Path("a.wav").read_bytes()])
    (raw,) = TableRecords(Table.open(Path("raw.parquet")), ("audio",))
    from awqc.data.audio_files import read_audio

    samples, rate = read_audio(raw.files["audio"], 16000)
    assert (len(samples), rate) == (1600, 8000)
    buffer = io.BytesIO()
    import soundfile

    soundfile.write(buffer, tone(8000, 0.1), 8000, format="FLAC")
    assert read_audio(Blob("x", buffer.getvalue()), 8000)[1] == 8000


def test_several_images_of_a_sample() -> None:
    paths = write_images(Path("photos"), 2)
    Path("t.jsonl").write_text('{"images": ["photos/0.png", "photos/1.png"], "text": "both"}')
    (record,) = json_records(Path("t.jsonl"), ("text", "image"))
    assert record.files["image"] == Path("photos/0.png")
    assert record.more == (Path("photos/1.png"),)
    write_parquet("t.parquet", images=[image_bytes(paths)], text=["both"])
    (row,) = TableRecords(Table.open(Path("t.parquet")), ("text", "image"))
    assert [read_image(each)[0].size for each in (row.files["image"], *row.more)] == [
        (60, 40),
        (60, 41),
    ]
    Path("none.jsonl").write_text('{"images": []}')
    with pytest.raises(CalibrationError, match='line 1: needs "image"'):
        json_records(Path("none.jsonl"), ("image",))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: write_parquet("t.parquet", label=[1]), CalibrationError, "has the columns label"),
        (lambda: write_parquet("t.parquet", text=pa.array([], pa.string())), CalibrationError,
         "has no rows"),
        (lambda: Path("t.parquet").write_bytes(b"PAR1 nothing"), CalibrationError, "as a table"),
        (lambda: Path("t.arrow").write_bytes(b"nothing"), CalibrationError, "as a table"),
        (lambda: write_parquet("t.parquet", text=[1, 2]), CalibrationError, r'row 0: needs "text"'),
        (lambda: write_parquet("t.parquet", image=["a"]), CalibrationError, r'row 0: needs "text"'),
    ],
)  # fmt: skip
def test_tables_that_are_no_data_are_refused(
    make: Any, kind: type[AwqcError], message: str, decoder: Program
) -> None:
    make()
    name = "t.arrow" if Path("t.arrow").exists() else "t.parquet"
    with pytest.raises(kind, match=message):
        DataSource.of(name).load(decoder, num_samples=2, seq_len=8)


def test_a_damaged_image_in_a_table_is_named() -> None:
    write_parquet("t.parquet", image=[{"bytes": b"no image", "path": "x.png"}])
    (record,) = TableRecords(Table.open(Path("t.parquet")), ("image",))
    with pytest.raises(CalibrationError, match=r"t\.parquet, row 0: image: is no image"):
        read_image(record.files["image"])


def test_a_table_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    save_decoder("llama", Path("model"))
    save_tokenizer(Path("model"))
    assert run(["compile", "model", "--calib", "absent.parquet"]) == 2
    assert "absent.parquet" in capsys.readouterr().err
