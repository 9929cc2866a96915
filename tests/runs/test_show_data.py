"""balora data: counts, lengths and examples, without a model or a folder."""

import json

import pytest
from classification_cases import letter_rows, save_model, write_rows

from balora_jax.cli import main


def test_answers_are_marked(run_arguments, sums, tmp_path, capsys):
    main(["data", *run_arguments(tmp_path / "run")])
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in (sums / "train.jsonl").read_text().splitlines()]
    assert f"train: {len(rows)} of {len(rows)} rows used" in out
    for row in rows[:10]:
        assert f"{row['question']}«{row['answer']}</s>»" in out
    assert "example 10," in out and "example 11," not in out
    assert not (tmp_path / "run").exists()


def test_every_example_is_in_the_histogram(run_arguments, sums, tmp_path, capsys):
    main(["data", *run_arguments(tmp_path / "run")])
    lines = capsys.readouterr().out.split("tokens of an example\n")[1].split("\n\n")[0]
    counts = [int(line.split()[3]) for line in lines.splitlines()]
    assert sum(counts) == len((sums / "train.jsonl").read_text().splitlines())


def test_labels_are_shown(tmp_path, capsys):
    write_rows(tmp_path / "train.jsonl", letter_rows(20, 0))
    save_model("bert", tmp_path / "bert")
    arguments = [
        "--model.source", str(tmp_path / "bert"), "--model.task", "sequence-classification",
        "--data.train", str(tmp_path / "train.jsonl"), "--data.labels", "2",
        "--training.steps", "1", "--output.dir", str(tmp_path / "run"),
    ]  # fmt: skip
    main(["data", *arguments])
    out = capsys.readouterr().out
    first = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    assert f"[CLS] {first['text']} [SEP] ⟶ {first['label']}" in out
    assert "«" not in out


def test_bad_data_is_one_sentence(run_arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", *run_arguments(tmp_path / "run", "--data.train", "none.jsonl")])
    assert stopped.value.code == 2
    assert "none.jsonl" in capsys.readouterr().err
