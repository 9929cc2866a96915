"""Language models with modules trained whole and adapters on embeddings, to and from PEFT."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from run_cases import sum_arguments
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from balora_jax import data, models
from balora_jax.cli import main
from balora_jax.config.parse import read_config
from balora_jax.errors import BadInput
from balora_jax.generation import generate, pad_prompts
from balora_jax.runs.adapter_head import with_adapter
from balora_jax.runs.finetune import finetune
from balora_jax.runs.reopening import reopen
from balora_jax.runs.setup import build_setup
from balora_jax.training.run_folder import RunFolder
from balora_jax.training.sharding import make_mesh

IDS = np.array([[5, 9, 200, 31, 7, 7, 88, 120], [4, 90, 17, 31, 250, 3, 41, 99]])
# The modules that are trained whole and the adapters' targets, by PEFT's names, of which Llama.
CASES = {
    "a tied head": ("tied", ["lm_head"], ["q_proj", "v_proj"]),
    "a tied embedding": ("tied", ["embed_tokens"], ["q_proj", "v_proj"]),
    "head, embedding and norm": ("untied", ["lm_head", "embed_tokens", "model.norm"], ["q_proj"]),
    "an adapted embedding": ("untied", None, ["embed_tokens", "v_proj"]),
    "an adapted tied embedding and a head": ("tied", ["lm_head"], ["embed_tokens", "v_proj"]),
    "an adapted tied head": ("tied", None, ["lm_head", "v_proj"]),
}


@pytest.fixture(scope="module")
def tied_llama(tiny_llama, tmp_path_factory):
    """The tiny Llama with a tied head."""
    folder = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("tied") / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def llamas(tiny_llama, tied_llama):
    return {"tied": tied_llama, "untied": tiny_llama}


def _torch_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _torch_logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits.numpy()


def _torch_tokens(model, ids, count=12):
    with torch.no_grad():
        tokens = model.generate(
            torch.tensor([ids]),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return tokens[0, len(ids) :].tolist()


def _tokens(model, params, lora, ids, count=12):
    input_ids, mask = pad_prompts([ids], 128)
    made = generate(
        model, params, lora, input_ids, mask, max_new_tokens=count, eos_ids=(),
        temperature=0.0, top_p=1.0, top_k=None, repetition_penalty=1.0, key=jax.random.key(0),
    )  # fmt: skip
    return np.asarray(made.tokens)[0, :count].tolist()


def _check_same(ours, theirs):
    """Compare (model, params, lora) with a model in PyTorch: logits, and the likeliest tokens."""
    model, params, lora = ours
    logits = model.apply({"params": params, "lora": lora or {}}, IDS)
    np.testing.assert_allclose(logits, _torch_logits(theirs), atol=1e-4)
    for ids in IDS.tolist():
        assert _tokens(model, params, lora, ids) == _torch_tokens(theirs, ids)


def _train_with_peft(folder, saved, targets, out, **more):
    """Train a PEFT adapter for a few updates, and save it."""
    torch.manual_seed(0)
    options = {"r": 4, "lora_alpha": 8, "target_modules": targets, "modules_to_save": saved} | more
    model = get_peft_model(_torch_model(folder), LoraConfig(task_type="CAUSAL_LM", **options))
    trained = [leaf for leaf in model.parameters() if leaf.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-2)
    ids = torch.tensor(IDS)
    first = None
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first - 0.1
    model.save_pretrained(out)
    return model.eval()


@pytest.mark.parametrize("tie, saved, targets", CASES.values(), ids=CASES)
def test_what_peft_trained_generates_the_same_here(llamas, tmp_path, tie, saved, targets):
    theirs = _train_with_peft(llamas[tie], saved, targets, tmp_path / "peft")
    loaded, lora = with_adapter(models.load_checkpoint(llamas[tie]), tmp_path / "peft")
    _check_same((loaded.model, loaded.params, lora), theirs)
    base = _torch_logits(_torch_model(llamas[tie]))
    assert np.abs(_torch_logits(theirs) - base).max() > 0.1


OF_LAYERS = {
    "rank_pattern": {"layers.1.self_attn.v_proj": 6}, "alpha_pattern": {"q_proj": 2},
    "layers_to_transform": [1], "use_rslora": True,
}  # fmt: skip


@pytest.mark.parametrize("tie", ["tied", "untied"])
def test_ranks_and_layers_of_peft_generate_the_same_here(llamas, tmp_path, tie):
    out = tmp_path / "peft"
    targets = ["q_proj", "v_proj"]
    theirs = _train_with_peft(llamas[tie], ["lm_head"], targets, out, **OF_LAYERS)
    loaded, lora = with_adapter(models.load_checkpoint(llamas[tie]), out)
    _check_same((loaded.model, loaded.params, lora), theirs)


@pytest.mark.parametrize("saved, targets", [(["embed_tokens"], []), (None, ["embed_tokens"])])
def test_a_tie_that_peft_kept_generates_the_same_here(llamas, tmp_path, saved, targets):
    out = tmp_path / "peft"
    targets = ["q_proj", *targets]
    theirs = _train_with_peft(llamas["tied"], saved, targets, out, ensure_weight_tying=True)
    loaded, lora = with_adapter(models.load_checkpoint(llamas["tied"]), out)
    _check_same((loaded.model, loaded.params, lora), theirs)


def _run(llama, sums, output, saved, targets, *more):
    given = [] if saved is None else ["--adapter.modules_to_save", json.dumps(saved)]
    settings = [
        "--adapter.targets", json.dumps(targets), "--training.eval_every", "3",
        "--output.merge", "true", *given, *more,
    ]  # fmt: skip
    return sum_arguments(llama, sums, output, *settings)


@pytest.mark.parametrize("tie, saved, targets", CASES.values(), ids=CASES)
def test_what_was_trained_here_generates_the_same_in_peft(
    llamas, sums, tmp_path, tie, saved, targets
):
    folder = tmp_path / "run"
    result = finetune(read_config(_run(llamas[tie], sums, folder, saved, targets)))
    assert result.summary.eval_loss_last < result.summary.eval_loss_first
    ours = (result.model, result.params, result.adapter)
    theirs = PeftModel.from_pretrained(_torch_model(llamas[tie]), folder / "adapter").eval()
    _check_same(ours, theirs)
    for module in saved or []:
        name = f"base_model.model.{'model.' if module == 'embed_tokens' else ''}{module}.weight"
        assert name in load_file(folder / "adapter" / "adapter_model.safetensors")
    # Merged, in transformers and here; a tie that training ended is not made again.
    merged = _torch_model(folder / "merged")
    _check_same(ours, merged)
    model, params = models.load_pretrained(folder / "merged")
    _check_same((model, params, None), merged)
    assert np.abs(_torch_logits(merged) - _torch_logits(_torch_model(llamas[tie]))).max() > 1e-2


@pytest.mark.parametrize("form", ["delta", "residual"])
def test_pissa_on_a_tied_embedding_starts_at_the_base(tied_llama, sums, tmp_path, form):
    """In the residual form, too, where the embedding of the base is another one."""
    more = ["--adapter.form", form, "--adapter.init", "pissa", "--training.steps", "2"]
    arguments = _run(tied_llama, sums, tmp_path / "run", None, ["embed_tokens", "v_proj"], *more)
    summary = finetune(read_config(arguments)).summary
    plain = _run(tied_llama, sums, tmp_path / "plain", None, ["v_proj"], *more)
    expected = finetune(read_config(plain)).summary
    np.testing.assert_allclose(summary.eval_loss_first, expected.eval_loss_first, rtol=1e-5)
    assert summary.eval_loss_last < summary.eval_loss_first


def test_a_run_continues_from_modules_that_peft_trained(tied_llama, sums, tmp_path):
    """It starts at the adapter's function, and its teacher is the pre-trained model."""
    saved = ["lm_head", "embed_tokens"]
    peft = tmp_path / "peft"
    _train_with_peft(tied_llama, saved, ["q_proj"], peft)
    more = ["--adapter.init", str(peft), "--training.steps", "2"]
    finetune(read_config(_run(tied_llama, sums, tmp_path / "run", saved, ["q_proj"], *more)))
    folder = RunFolder(str(tmp_path / "run"))
    student, state, _ = reopen(folder, folder.read_config(), "latest")
    _, pretrained = models.load_pretrained(tied_llama)
    table = pretrained["model"]["embed_tokens"]["embedding"]
    base = student.base_params(state)
    np.testing.assert_array_equal(base["model"]["embed_tokens"]["embedding"], table)
    np.testing.assert_array_equal(base["lm_head"]["kernel"], table.T)
    trained = student.params(state).base
    started = load_file(peft / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    moved = np.abs(trained["lm_head"]["kernel"] - started.T).max()
    # Two updates of AdamW at 1e-2 or less.
    assert 1e-4 < moved < 2.1e-2


@pytest.mark.parametrize(
    "name, more",
    {
        "modules": ["--adapter.modules_to_save", '["lm_head", "embed_tokens"]'],
        "an average": ["--optimizer.ema_decay", "0.9"],
        "muon": ["--optimizer.name", "muon", "--adapter.modules_to_save", '["lm_head"]'],
        "schedule_free": ["--optimizer.name", "schedule_free", "--optimizer.schedule", "constant"],
        "rates": ["--optimizer.learning_rates", '{"lm_head": 0.001}', "--optimizer.ema_decay",
                  "0.99", "--adapter.modules_to_save", '["lm_head"]'],
    }.items(),
)  # fmt: skip
def test_a_resumed_run_is_bit_identical(tied_llama, sums, tmp_path, name, more):
    """Stopped after the fourth of six updates, by what a callback says."""
    more = [*more, "--method", "ba-lora"]
    whole = finetune(
        read_config(_run(tied_llama, sums, tmp_path / "whole", None, ["q_proj"], *more))
    )
    options = _run(tied_llama, sums, tmp_path / "parts", None, ["q_proj"], *more)
    stopped = finetune(read_config(options), callbacks=[lambda record: record.step >= 4])
    assert stopped is None
    resumed = finetune(read_config([*options, "--output.resume", "true"]))
    for part in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        expected = load_file(tmp_path / "whole" / part)
        found = load_file(tmp_path / "parts" / part)
        assert expected.keys() == found.keys()
        for tensor in expected:
            np.testing.assert_array_equal(found[tensor], expected[tensor])
    assert resumed.summary.eval_loss_last == whole.summary.eval_loss_last


@pytest.mark.parametrize("name", ["schedule_free", "ema"])
def test_what_is_evaluated_is_what_is_exported(tiny_llama, sums, tmp_path, name, capsys):
    """Held-out loss, adapter/, merged/ and generation have the average, not the last weights."""
    options = {
        "schedule_free": ["--optimizer.name", "schedule_free", "--optimizer.schedule", "constant"],
        "ema": ["--optimizer.ema_decay", "0.99", "--optimizer.schedule", "constant"],
    }[name]
    folder = tmp_path / "run"
    arguments = _run(tiny_llama, sums, folder, None, ["q_proj", "v_proj"], *options)
    result = finetune(read_config(arguments))
    run = RunFolder(str(folder))
    student, state, _ = reopen(run, run.read_config(), "latest")
    last = state.trainable.adapters["model"]["layers"]["self_attn"]["q_proj"]["b"]
    average = state.evaluated.adapters["model"]["layers"]["self_attn"]["q_proj"]["b"]
    assert np.abs(last - average).max() > 1e-4

    jax.tree.map(np.testing.assert_array_equal, result.adapter, student.lora(state))
    theirs = PeftModel.from_pretrained(_torch_model(tiny_llama), folder / "adapter").eval()
    _check_same((result.model, result.params, result.adapter), theirs)
    _check_same((result.model, result.params, result.adapter), _torch_model(folder / "merged"))
    # The trained weights have another function.
    other = student.setup.model.apply(
        {"params": student.params(state).base, "lora": _last_lora(student, state)}, IDS
    )
    assert np.abs(np.asarray(other) - _torch_logits(theirs)).max() > 1e-4
    capsys.readouterr()
    main(["generate", "--run", str(folder), "--prompt", "1+2=", "--temperature", "0"])
    main_text = capsys.readouterr().out
    main(["generate", "--model", str(folder / "merged"), "--prompt", "1+2=", "--temperature", "0",
          "--template", "{instruction}"])  # fmt: skip
    assert capsys.readouterr().out == main_text


def _last_lora(student, state):
    inner = state.opt_state.inner_state
    without = state.replace(opt_state=state.opt_state._replace(inner_state=inner[:-2]))
    return student.lora(without)


def test_the_base_beside_a_trained_head_is_the_pretrained_model(tied_llama, sums, tmp_path, capsys):
    """`generate --compare` of a run is that of the untouched model."""
    folder = tmp_path / "run"
    finetune(read_config(_run(tied_llama, sums, folder, ["lm_head"], ["q_proj"])))
    main(["generate", "--run", str(folder), "--prompt", "1+2=", "--temperature", "0", "--compare"])
    compared = capsys.readouterr().out
    main(["generate", "--model", str(tied_llama), "--prompt", "1+2=", "--temperature", "0",
          "--template", "{instruction}"])  # fmt: skip
    untouched = capsys.readouterr().out
    assert f"[base]\n{untouched}" in compared
    assert compared.count(untouched) == 1


def test_eight_devices_give_the_losses_of_one(tied_llama, sums, tmp_path):
    """With a head and an adapted embedding divided over the devices, and averages with them."""
    more = ["--method", "ba-lora", "--optimizer.ema_decay", "0.9"]
    mesh = ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    losses = []
    for name, sizes in {"one": [], "eight": mesh}.items():
        saved, targets = ["lm_head"], ["embed_tokens", "q_proj"]
        arguments = _run(tied_llama, sums, tmp_path / name, saved, targets, *more, *sizes)
        result = finetune(read_config(arguments))
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss") for line in lines])
        losses[-1].append(result.summary.eval_loss_last)
    one, eight = ([loss for loss in part if loss is not None] for part in losses)
    np.testing.assert_allclose(eight, one, rtol=1e-5)


def test_the_average_is_divided_as_the_trained_parameters(tied_llama, sums, tmp_path):
    more = ["--optimizer.ema_decay", "0.9", "--mesh.fsdp", "4"]
    arguments = _run(tied_llama, sums, tmp_path / "run", ["lm_head"], ["q_proj"], *more)
    finetune(read_config(arguments))
    run = RunFolder(str(tmp_path / "run"))
    _, state, _ = reopen(run, run.read_config(), "latest")
    averaged = jax.tree.map(lambda leaf: leaf.sharding, state.evaluated)
    trained = jax.tree.map(lambda leaf: leaf.sharding, state.trainable)
    assert jax.tree.leaves(averaged) == jax.tree.leaves(trained)
    assert any(leaf.spec != jax.P() for leaf in jax.tree.leaves(trained))


@pytest.mark.parametrize("pattern", [".*embed.*", "model", "lm_head"])
def test_a_tie_ends_however_its_side_is_named(tied_llama, sums, tmp_path, pattern):
    """A tied head that is trained through its embedding would get no gradient as a head."""
    config = read_config(
        sum_arguments(tied_llama, sums, tmp_path, "--adapter.modules_to_save", f'["{pattern}"]')
    )
    model = models.load_model(tied_llama)
    setup = build_setup(config, model, make_mesh(config.mesh), steps=1)
    assert model.config.tied and not setup.model.config.tied
    assert setup.head_frozen == (pattern != "lm_head")
    plain = read_config(sum_arguments(tied_llama, sums, tmp_path))
    assert build_setup(plain, model, make_mesh(plain.mesh), steps=1).model.config.tied


REFUSED = {
    "no module": (
        ["--adapter.modules_to_save", '["head"]'],
        r"modules_to_save: 'head' matches no such layer; accepted: of lm_head, model\.embed_tokens",
    ),
    "a repeated module": (
        ["--adapter.modules_to_save", '["input_layernorm"]'], "matches no such layer; accepted: of"
    ),
    "none": (["--adapter.modules_to_save", "[]"], r"modules_to_save is \[\]; accepted: null, or"),
    "method full": (
        ["--adapter.modules_to_save", '["lm_head"]', "--method", "full"], "null under method full"
    ),
    "both": (
        ["--adapter.modules_to_save", '["lm_head"]', "--adapter.targets", '["lm_head"]'],
        "'lm_head' matches no linear layer",
    ),
    "a rate of nothing": (
        ["--optimizer.learning_rates", '{"lm_head": 0.1}'],
        r"optimizer\.learning_rates: 'lm_head' matches no such layer; accepted: of model\.layers",
    ),
    "a rate of text": (
        ["--optimizer.learning_rates", '{"q_proj": "fast"}'],
        r"optimizer\.learning_rates.* is .*; accepted: .*number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("more, match", REFUSED.values(), ids=REFUSED)
def test_bad_modules_are_refused_before_anything_is_written(
    tied_llama, sums, tmp_path, more, match
):
    arguments = sum_arguments(tied_llama, sums, tmp_path / "run", *more)
    with pytest.raises(BadInput, match=match):
        finetune(read_config(arguments))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["export", "merge"])
def test_a_part_of_a_whole_module_is_refused(tiny_llama, sums, tmp_path, command, capsys):
    arguments = _run(tiny_llama, sums, tmp_path / "run", ["lm_head"], ["q_proj"])
    finetune(read_config(arguments))
    with pytest.raises(SystemExit) as end:
        main([command, "--run", str(tmp_path / "run"), "--scale", "0.5",
              "--out", str(tmp_path / "out")])  # fmt: skip
    assert end.value.code == 2
    assert "trained lm_head whole, of which --scale keeps no part" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _changed_base(folder: pathlib.Path) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    save_file(tensors | {name: tensors[name] + 0.1}, path)


def test_an_embedding_of_another_base_is_refused(tiny_llama, tmp_path):
    """PEFT saves the base's embedding beside its factors, and would load it again."""
    _train_with_peft(tiny_llama, None, ["embed_tokens"], tmp_path / "peft")
    _changed_base(tmp_path / "peft")
    with pytest.raises(BadInput, match=r"embed_tokens.*differs from the weights of this model"):
        with_adapter(models.load_checkpoint(tiny_llama), tmp_path / "peft")


def test_a_run_names_the_modules_of_the_adapter_that_it_continues(tiny_llama, sums, tmp_path):
    _train_with_peft(tiny_llama, ["lm_head"], ["q_proj"], tmp_path / "peft")
    arguments = sum_arguments(
        tiny_llama, sums, tmp_path / "run", "--adapter.init", str(tmp_path / "peft")
    )
    match = "holds 'lm_head.weight', trained whole, .*accepted: adapter.modules_to_save with the"
    with pytest.raises(BadInput, match=match):
        finetune(read_config(arguments))


def test_gpt2_to_and_from_peft(tmp_path):
    """Its embeddings have other names, and its head is tied."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=259, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    for saved, targets in ((["lm_head"], ["c_attn", "wte"]), (["wte", "ln_f"], ["c_attn", "wpe"])):
        out = tmp_path / "-".join(saved)
        theirs = _train_with_peft(tmp_path / "gpt2", saved, targets, out)
        loaded, lora = with_adapter(models.load_checkpoint(tmp_path / "gpt2"), out)
        _check_same((loaded.model, loaded.params, lora), theirs)


def test_a_command_reads_what_peft_trained(tied_llama, tmp_path, capsys):
    theirs = _train_with_peft(tied_llama, ["lm_head"], ["embed_tokens", "q_proj"], tmp_path / "p")
    main(["generate", "--model", str(tied_llama), "--adapter", str(tmp_path / "p"), "--prompt",
          "1+2=", "--temperature", "0", "--max_new_tokens", "8"])  # fmt: skip
    text = capsys.readouterr().out
    tokenizer = data.load_tokenizer(str(tied_llama))
    ids = tokenizer("1+2=")["input_ids"]
    expected = tokenizer.decode(_torch_tokens(theirs, ids, 8), skip_special_tokens=True)
    assert text.strip() == expected.strip()
