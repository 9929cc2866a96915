"""Random and damaged files of templates, sentences and pairs: read, or one sentence."""

import contextlib
import json
import pathlib
import tempfile

from fuzz_cases import fuzz, json_values
from hypothesis import given
from hypothesis import strategies as st

from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.seat import read_sentence_sets
from balora_jax.evaluation.bias.stereoset import read_stereoset
from balora_jax.evaluation.bias.templates import expand, read_templates
from balora_jax.evaluation.bias.winobias import read_winobias

TEMPLATES = b"city = Oslo | Rome\n{who: nurse|pilot} in {city} said {she|he} {who: a|b}.\n"
YAML = b"lists: {city: [Oslo, Rome]}\ntemplates:\n- 'In {city} {she|he} came.'\n- '{a|b}'\n"
SETS = (
    b'{"tests": {"t": {"targets": {"x": ["a", "b"], "y": ["c", "d"]}, '
    b'"attributes": {"a": ["e"], "b": ["f"]}}}}'
)
ROWS = b"target,bias_type,context,anti_stereotype,stereotype,unrelated\na,race,A BLANK.,b,c,d\n"
PAIRS = b"1 [The cook] saw [him].\n2 [The cook] lost [his] hat.\n"
# Pieces of templates and of yaml that mean something.
PIECES = st.sampled_from(
    ["{", "}", "|", ":", "=", "\n", "#", "a", "{a|b}", "{x: a|b}", "{x}", "x = a|b", "\r", "\u2028",
     "templates:", "lists:", "- ", "'", '"', "[", "]", "&a ", "*a", " ", "\0", "\ufeff", "\\ud83d"]
)  # fmt: skip
SIDES = [
    f"{side}_stereotyped_{kind}.txt.test" for side in ("pro", "anti") for kind in ("type1", "type2")
]


def _check(content: bytes, name: str) -> None:
    """Read a file by each reader that may be given it; what is read must be whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / name
        path.write_bytes(content)
        with contextlib.suppress(BadInput):
            for twins in expand(read_templates(str(path))):
                assert len(twins.sentences) == len(twins.alternatives) >= 2
                assert not any(character in "{}" for character in "".join(twins.sentences))
        with contextlib.suppress(BadInput):
            for sets in read_sentence_sets(str(path)):
                assert len(sets.targets) == len(sets.attributes) == 2
        with contextlib.suppress(BadInput):
            assert read_stereoset(path)


def _check_pairs(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        for name in SIDES:
            (folder / name).write_bytes(content if name == SIDES[0] else PAIRS)
        with contextlib.suppress(BadInput):
            assert read_winobias(folder)


@fuzz
@given(st.binary(max_size=300), st.sampled_from(["t.txt", "t.yaml", "t.csv", "t.jsonl"]))
def test_random_bytes(content, name):
    _check(content, name)
    _check_pairs(content)


@fuzz
@given(st.lists(PIECES, max_size=16), st.sampled_from(["t.txt", "t.yaml"]))
def test_pieces(pieces, name):
    _check("".join(pieces).encode(), name)


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(["templates", "lists", "tests", "target", "bias_type", "sentences"]),
        json_values | st.dictionaries(st.sampled_from(["targets", "attributes"]), json_values),
    ),
    st.sampled_from(["t.json", "t.yaml", "t.jsonl"]),
)
def test_random_json(value, name):
    _check(json.dumps(value).encode(), name)


@fuzz
@given(
    st.sampled_from([(TEMPLATES, "t.txt"), (YAML, "t.yaml"), (SETS, "t.json"), (ROWS, "t.csv")]),
    st.integers(0, 130),
    st.binary(max_size=8) | PIECES.map(str.encode),
    st.integers(0, 8),
)
def test_replaced_bytes(whole, start, inserted, removed):
    content, name = whole
    _check(content[:start] + inserted + content[start + removed :], name)
    _check_pairs(PAIRS[:start] + inserted + PAIRS[start + removed :])
