"""Tasks of lm-eval on a tiny model, from local files: scores, resumption and bad input."""

import csv
import gzip
import json

import numpy as np
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from run_cases import save_llama

from balora_jax import data
from balora_jax.errors import BadInput
from balora_jax.evaluation.harness.local_data import local_options
from balora_jax.evaluation.harness.model import HarnessModel
from balora_jax.evaluation.harness.responses import Responses
from balora_jax.evaluation.harness.results import collect, sample_lines
from balora_jax.evaluation.harness.tasks import FEWSHOT_SEED, SEEDS, load_tasks, run_tasks
from balora_jax.evaluation.language_model import LanguageModel
from balora_jax.models import load_pretrained

SUMS = [{"question": f"{a}+{a}=", "answer": f"it is\n#### {2 * a}"} for a in range(12)]
PAIRS = [
    {"sent_more": f"{a} is more", "sent_less": f"{a} is less", "bias_type": "age"} for a in range(8)
]
PHYSICS = [
    {"goal": f"open {a}", "sol1": "pull", "sol2": "push it hard", "label": a % 2} for a in range(6)
]
TEXTS = [{"page": f"a text of number {a} " * (10 * a + 1)} for a in range(4)]
SCIENCE = [
    {
        "question": f"which {a}?",
        "support": "because",
        "distractor1": "one",
        "distractor2": "two",
        "distractor3": "three",
        "correct_answer": "four",
    }
    for a in range(5)
]
NAMES = ["gsm8k", "crows_pairs_english", "piqa", "wikitext", "sciq"]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Made-up rows with the fields of five sets."""
    folder = tmp_path_factory.mktemp("files")
    write_rows(folder / "gsm8k" / "train.jsonl", SUMS[:8])
    write_rows(folder / "gsm8k" / "test.jsonl", SUMS[8:])
    (folder / "crows_pairs").mkdir()
    with (folder / "crows_pairs" / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(PAIRS[0]))
        writer.writeheader()
        writer.writerows(PAIRS)
    write_rows(folder / "piqa" / "validation.jsonl", PHYSICS)
    for split in ("test", "validation", "train"):
        write_rows(folder / "wikitext" / f"{split}.jsonl", TEXTS)
    write_rows(folder / "sciq" / "test.jsonl", SCIENCE)
    return folder


@pytest.fixture(scope="module")
def tasks(files):
    return load_tasks(NAMES, files)


@pytest.fixture(scope="module")
def long_llama(tmp_path_factory):
    """A model with room for 256 new tokens, as tasks ask for."""
    return save_llama(tmp_path_factory.mktemp("long_llama"), positions=512)


@pytest.fixture(scope="module")
def language_model(long_llama):
    model, params = load_pretrained(long_llama)
    return LanguageModel("base", model, params, None, data.load_tokenizer(long_llama))


def _run(tasks, language_model, path, **options):
    answered = []
    with Responses(path, "model") as responses:
        model = HarnessModel(
            language_model, responses, begin=lambda total: None, show=answered.append
        )
        options = {"limit": None, "fewshot": 1, "chat": False, **options}
        return run_tasks(tasks, model, **options), answered


@pytest.fixture(scope="module")
def found(tasks, language_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    return _run(tasks, language_model, path)[0]


def _values(results):
    return {
        (task, name): value
        for task, values in results["results"].items()
        for name, value in values.items()
        if isinstance(value, float) and "stderr" not in name
    }


def test_five_tasks_score_as_with_lm_evals_own_model(tasks, found, long_llama):
    reference = HFLM(pretrained=str(long_llama), dtype="float32", device="cpu", batch_size=3)
    expected = simple_evaluate(
        model=reference,
        tasks=list(tasks.loaded["tasks"].values()),
        task_manager=tasks.manager,
        num_fewshot=1,
        fewshot_random_seed=FEWSHOT_SEED,
        **SEEDS,
    )
    left = _values(found)
    right = _values(expected)
    assert left.keys() == right.keys() and len(left) > 8
    for name, value in left.items():
        assert value == pytest.approx(right[name], rel=1e-4, abs=1e-4), name


def test_an_evaluation_goes_on_where_it_was_killed(tasks, language_model, found, tmp_path):
    path = tmp_path / "answers.jsonl"
    _, answered = _run(tasks, language_model, path)
    total = sum(answered)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))

    asked = []
    scores = language_model.scores

    class Counting(LanguageModel):
        def scores(self, pairs):
            asked.extend(pairs)
            return scores(pairs)

    counting = Counting(
        "base", language_model.model, language_model.params, None, language_model.tokenizer
    )
    again, answered = _run(tasks, counting, path)
    assert sum(answered) == total
    assert 0 < len(asked) < total
    assert _values(again) == pytest.approx(_values(found))


def test_differences_are_paired_over_the_examples(tasks, found, language_model, tmp_path):
    half = LanguageModel(
        "adapter", language_model.model, _shrunk(language_model), None, language_model.tokenizer
    )
    other, _ = _run(tasks, half, tmp_path / "answers.jsonl")
    results = collect({"adapter": other, "base": found}, tasks.sources)
    assert [result.task for result in results] == NAMES
    metrics = {(r.task, m.name): m for r in results for m in r.metrics}
    metric = metrics["crows_pairs_english", "likelihood_diff"]
    values = [
        [sample["likelihood_diff"] for sample in result["samples"]["crows_pairs_english"]]
        for result in (other, found)
    ]
    assert metric.difference.value == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert metric.difference.low <= metric.difference.value <= metric.difference.high
    assert metric.higher_is_better is False
    assert metrics["gsm8k", "exact_match,strict-match"].difference.value == 0.0
    # A perplexity is no mean over the examples.
    assert metrics["wikitext", "word_perplexity"].difference is None
    assert results[0].examples == 4 and "test.jsonl" in results[0].source
    json.dumps([result.to_json() for result in results])


def _shrunk(language_model):
    embedding = language_model.params["model"]["embed_tokens"]["embedding"]
    inner = language_model.params["model"] | {"embed_tokens": {"embedding": 0.5 * embedding}}
    return language_model.params | {"model": inner}


def test_samples_are_lines_of_json(found):
    lines = sample_lines(found["samples"]["gsm8k"])
    rows = [json.loads(line) for line in lines]
    assert {row["doc"]["question"] for row in rows} == {row["question"] for row in SUMS[8:]}
    assert all("exact_match" in row and row["resps"] for row in rows)


def test_a_limit_takes_the_first_examples(tasks, language_model, tmp_path):
    limited, _ = _run(tasks, language_model, tmp_path / "answers.jsonl", limit=2)
    assert {len(rows) for rows in limited["samples"].values()} <= {2, 4}


def test_groups_and_tags_read_local_files(tmp_path):
    for name in ("arc_easy", "arc_challenge"):
        row = {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}}
        write_rows(tmp_path / name / "test.jsonl", [row | {"answerKey": "A", "id": "1"}])
    tasks = load_tasks(["ai2_arc"], tmp_path)
    assert sorted(tasks.sources) == ["arc_challenge", "arc_easy"]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".jsonl.gz", ".csv", ".parquet"])
def test_local_files_of_every_kind(tmp_path, ending):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    path = folder / f"test{ending}"
    lines = "".join(json.dumps(row) + "\n" for row in SUMS)
    if ending.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif ending == ".csv":
        path.write_text("question,answer\n" + "".join(f'{a}+1=,"#### {a}"\n' for a in range(12)))
    elif ending == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(SUMS), path)
    else:
        path.write_text(lines)
    tasks = load_tasks(["gsm8k"], tmp_path, fewshot=0)
    assert len(tasks.loaded["tasks"]["gsm8k"].eval_docs) == 12


def test_more_examples_than_rows_are_refused(tmp_path):
    write_rows(tmp_path / "gsm8k" / "test.jsonl", SUMS)
    write_rows(tmp_path / "gsm8k" / "train.jsonl", SUMS[:3])
    with pytest.raises(BadInput, match="takes 5 examples for each prompt, and its data has 3; acc"):
        load_tasks(["gsm8k"], tmp_path)
    load_tasks(["gsm8k"], tmp_path, fewshot=3)


def test_two_files_for_one_split_are_refused(tmp_path):
    write_rows(tmp_path / "gsm8k" / "test.jsonl", SUMS)
    write_rows(tmp_path / "gsm8k" / "test.json", SUMS)
    with pytest.raises(
        BadInput, match=r"has test.json and test.jsonl; accepted: one file for each"
    ):
        load_tasks(["gsm8k"], tmp_path, fewshot=0)


def test_a_file_is_not_read_for_two_sets(tmp_path):
    """The folder crows_pairs is found for every language."""
    write_rows(tmp_path / "crows_pairs" / "test.jsonl", [{"sent_more": "a", "sent_less": "b"}])
    with pytest.raises(BadInput, match=r"would be read for english and for french \(task crows"):
        load_tasks(["crows_pairs_english", "crows_pairs_french"], tmp_path)


def test_a_folder_whose_name_is_a_pattern(tmp_path):
    folder = tmp_path / "a[b]*"
    write_rows(folder / "gsm8k" / "test.jsonl", SUMS)
    tasks = load_tasks(["gsm8k"], folder, fewshot=0)
    assert len(tasks.loaded["tasks"]["gsm8k"].eval_docs) == 12
    assert tasks.sources["gsm8k"] == str(folder / "gsm8k" / "test.jsonl")


def _config(**more):
    return {"task": "mine_en", "test_split": "test", "dataset_path": "org/set"} | more


@pytest.mark.parametrize(
    ("folder", "config"),
    [("mine_en", {}), ("set", {}), ("mine", {}), ("named", {"metadata": {"folder": "named"}})],
)
def test_folders_of_a_task(tmp_path, folder, config):
    write_rows(tmp_path / folder / "test.jsonl", SUMS)
    options = local_options(tmp_path, _config(**config))
    assert options["dataset_path"] == "json"
    assert local_options(tmp_path, _config(task="other", dataset_path="org/other")) is None


def test_a_folder_without_the_split_is_refused(tmp_path):
    for split in ("train", "dev"):
        write_rows(tmp_path / "set" / f"{split}.jsonl", SUMS)
    with pytest.raises(BadInput, match="has no file for the split test of task mine_en; accepted"):
        local_options(tmp_path, _config())


def test_examples_for_prompts_must_have_a_file(tmp_path):
    write_rows(tmp_path / "gsm8k" / "test.jsonl", SUMS)
    with pytest.raises(BadInput, match=r"no file for the split train, .* 5 examples .*--fewshot 0"):
        load_tasks(["gsm8k"], tmp_path)


PAIR = b'{"goal": "a", "sol1": "b", "sol2": "c", "label": %s}\n'
BAD = {
    "a slip": (["gsm8q"], {}, "there is no task 'gsm8q'; accepted: .*gsm8k"),
    "nothing like it": (["§§§§"], {}, "'§§§§'; accepted: a task of lm-eval or of ours$"),
    "programs": (["humaneval"], {}, "runs generated code in this process; accepted: alpaca_human"),
    "no network": (["piqa"], {}, "data of task piqa is not here .*accepted: a network, or"),
    "no fields": (
        ["gsm8k"], {"gsm8k/test.jsonl": b'{"q": "1", "a": "2"}\n'},
        "task gsm8k cannot use .*test.jsonl .*'question' is undefined",
    ),
    "a field of functions": (
        ["crows_pairs_english"], {"crows_pairs/test.jsonl": b'{"sent_more": "1"}\n'},
        "cannot use .*crows_pairs/test.jsonl .*'sent_less'",
    ),
    "no rows": (["gsm8k"], {"gsm8k/test.jsonl": b""}, "gsm8k"),
    "broken json": (["gsm8k"], {"gsm8k/test.jsonl": b"{"}, "task gsm8k cannot use .*test.jsonl"),
    "binary": (["gsm8k"], {"gsm8k/test.jsonl": b"\xff\x00\xfe"}, "gsm8k cannot use .*test.jsonl"),
    "an answer that is no choice": (
        ["piqa"], {"piqa/validation.jsonl": PAIR % b"1" + PAIR % b"2"},
        "row 2 of .*validation.jsonl has the answer 2, which is none of its 2 choices, for task",
    ),
    "a negative answer": (
        ["piqa"], {"piqa/validation.jsonl": PAIR % b"-1"}, "row 1 of .* has the answer -1, which",
    ),
    "answers in words": (
        ["piqa"], {"piqa/validation.jsonl": PAIR % b'"first"'}, "row 1 .* the answer 'first', w",
    ),
    "answers of floats": (
        ["piqa"], {"piqa/validation.jsonl": PAIR % b"0.5"}, "row 1 of .* has the answer 0.5, which",
    ),
    "choices that are lists": (
        ["piqa"],
        {"piqa/validation.jsonl": b'{"goal": "a", "sol1": ["b"], "sol2": ["c"], "label": 0}\n'},
        "row 1 of .* has the choices .*, which are no texts",
    ),
    "a task of code": (
        ["squadv2"], {"squadv2/validation.jsonl": b'{"question": "a"}\n'},
        "task squadv2 names no split that a file could take the place of; accepted",
    ),
    "kinds": (
        ["piqa"],
        {"piqa/validation.jsonl": b"{}\n", "piqa/train.csv": b"a\n1\n", "piqa/test.csv": b"a\n1\n"},
        "files of several kinds; accepted: one kind",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("names", "content", "match"), BAD.values(), ids=BAD)
def test_tasks_that_cannot_run_here(tmp_path, monkeypatch, names, content, match):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    with pytest.raises(BadInput, match=match) as refusal:
        load_tasks(names, tmp_path, fewshot=0)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1500


def test_a_generation_option_without_meaning_here_is_refused(language_model, tmp_path):
    with Responses(tmp_path / "answers.jsonl", "model") as responses:
        model = HarnessModel(language_model, responses, begin=lambda n: None, show=lambda n: None)
        with pytest.raises(BadInput, match="generation with num_beams 4; accepted: tasks that set"):
            model._sampling({"num_beams": 4})


def test_our_task_files_are_plain_yaml():
    """Functions are named, and nothing else is constructed."""
    from balora_jax.evaluation.harness.tasks import OURS, _config

    names = [path for path in OURS.glob("*.yaml")]
    assert names
    for path in names:
        yaml.safe_dump(_config(path))
