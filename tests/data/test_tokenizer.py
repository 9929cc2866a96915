"""Loading tokenizers: padding, and one message for every broken folder."""

import pytest
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
