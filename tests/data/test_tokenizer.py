"""Loading tokenizers: padding, and one message for every broken folder."""

import json

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from balora_jax.data.tokenizer import load_tokenizer
from balora_jax.errors import BadInput


def test_pads_on_the_right_with_eos_where_there_is_no_pad_token(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", padding_side="left"
    ).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.pad_token_id, tokenizer.padding_side) == (1, "right")


def test_says_when_the_folder_has_no_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        BadInput, match=r"has no tokenizer files; accepted: a folder with one of tokenizer\.json"
    ):
        load_tokenizer(str(tmp_path))


def test_says_when_the_file_is_broken(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(BadInput, match="cannot be loaded: ") as error:
        load_tokenizer(str(tmp_path))
    assert "\n" not in str(error.value)


def test_says_when_the_folder_does_not_exist(tmp_path):
    with pytest.raises(BadInput, match="does not exist; accepted: a folder, or a hub id"):
        load_tokenizer(str(tmp_path / "nowhere"))


SENTENCES = ["the quick brown fox jumps over the lazy dog", "12 % of 345 are naïve", "one and two"]
TEXTS = ["the brown dog", "two  spaces and 12 %", "naïve ☃ snow", ""]
DEBERTA = dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, bos_piece="[CLS]", eos_piece="[SEP]")
# As Llama's: blanks are kept, and unknown characters are bytes.
LLAMA = dict(
    model_type="bpe",
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
)
# The model type, the file, the options of its training, and the tokens around a text.
SENTENCEPIECE = {
    "deberta-v2": (
        "spm.model", dict(**DEBERTA, pad_piece="[PAD]", unk_piece="[UNK]"), ["[CLS]"], ["[SEP]"]
    ),
    "t5": ("spiece.model", dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1), [], ["</s>"]),
    "llama": ("tokenizer.model", LLAMA, ["<s>"], []),
}  # fmt: skip


@pytest.fixture(params=SENTENCEPIECE)
def pieces(request, tmp_path):
    """A folder whose tokenizer is a sentencepiece model, its file, and the tokens around texts."""
    name, options, before, after = SENTENCEPIECE[request.param]
    with (tmp_path / name).open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES * 20), model_writer=file, vocab_size=320,
            hard_vocab_limit=False, minloglevel=2, **options,
        )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": request.param}))
    if request.param == "llama":
        options = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    return tmp_path, name, before, after


def test_a_sentencepiece_model_alone_gives_its_own_ids(pieces):
    folder, name, before, after = pieces
    tokenizer = load_tokenizer(str(folder))
    reference = SentencePieceProcessor(model_file=str(folder / name))
    around = [[reference.piece_to_id(token) for token in tokens] for tokens in (before, after)]
    for text in TEXTS:
        expected = [*around[0], *reference.encode(text), *around[1]]
        assert tokenizer(text)["input_ids"] == expected
    assert reference.decode(tokenizer(TEXTS[0])["input_ids"]) == TEXTS[0]


def test_a_damaged_sentencepiece_model_is_refused(pieces):
    folder, name, _, _ = pieces
    content = (folder / name).read_bytes()
    for damaged in (b"", content[:100], b"version https://git-lfs.github.com/spec/v1\n"):
        (folder / name).write_bytes(damaged)
        with pytest.raises(BadInput, match=f"{name} is no sentencepiece model, or damaged"):
            load_tokenizer(str(folder))
