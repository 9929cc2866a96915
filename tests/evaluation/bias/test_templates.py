"""Templates: the twins that they expand to, and sentences for malformed ones."""

import json

import pytest

from balora_jax.errors import BadInput
from balora_jax.evaluation.bias.templates import expand, read_templates


def _read(tmp_path, text, name="t.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_templates(str(path))


def _twins(tmp_path, text, name="t.txt"):
    return list(expand(_read(tmp_path, text, name)))


def test_each_slot_has_twins_for_each_choice_of_the_others(tmp_path):
    twins = _twins(tmp_path, "\n# a comment\nThe {nurse|doctor} said that {she|he} came.\n")
    assert [(item.slot, item.template, item.others, item.sentences) for item in twins] == [
        ("nurse|doctor", 1, (("she|he", "she"),),
         ("The nurse said that she came.", "The doctor said that she came.")),
        ("nurse|doctor", 1, (("she|he", "he"),),
         ("The nurse said that he came.", "The doctor said that he came.")),
        ("she|he", 1, (("nurse|doctor", "nurse"),),
         ("The nurse said that she came.", "The nurse said that he came.")),
        ("she|he", 1, (("nurse|doctor", "doctor"),),
         ("The doctor said that she came.", "The doctor said that he came.")),
    ]  # fmt: skip


def test_slots_of_one_name_change_together(tmp_path):
    (twins,) = _twins(tmp_path, "{who: Ada | Bob} lost {who:her|his} hat: {who:she|he} did.")
    assert twins.slot == "who"
    assert twins.alternatives == ("Ada", "Bob")
    assert twins.sentences == ("Ada lost her hat: she did.", "Bob lost his hat: he did.")


def test_equal_slots_change_together(tmp_path):
    (twins,) = _twins(tmp_path, "If {she|he} can, {she|he} will.")
    assert twins.sentences == ("If she can, she will.", "If he can, he will.")


@pytest.mark.parametrize("name", ["t.txt", "t.yaml", "t.json"])
def test_lists(tmp_path, name):
    text = {
        "t.txt": "city = Oslo | No | 007\nIn {city} it is {time: noon|night}.",
        "t.yaml": "lists:\n  city: [Oslo, No, 007]\ntemplates:\n"
        "- 'In {city} it is {time: noon|night}.'\n",
        "t.json": json.dumps(
            {
                "lists": {"city": ["Oslo", "No", "007"]},
                "templates": ["In {city} it is {time: noon|night}."],
            }
        ),
    }[name]
    twins = _twins(tmp_path, text, name)
    assert [len(item.sentences) for item in twins] == [3, 3, 2, 2, 2]
    assert twins[0].slot == "city"
    assert twins[0].alternatives == ("Oslo", "No", "007")
    assert twins[4].sentences == ("In 007 it is noon.", "In 007 it is night.")


def test_windows_lines_and_other_line_ends_of_unicode(tmp_path):
    (tmp_path / "t.txt").write_bytes("\ufeffA\u2028{b|c}\r\nD {e|f}\r\n".encode())
    assert [item.line for item in read_templates(str(tmp_path / "t.txt"))] == [1, 2]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x\nThe nurse came.", r"line 1 has no alternatives; accepted: at least one slot"),
        ("A {b|c}\nThe {nurse|doctor came", r"line 2 has a \{ without a \}; accepted"),
        ("The nurse|doctor} came", r"line 1 has a \} without a \{; accepted"),
        ("{a|b} c}", r"line 1 has a \} without a \{; accepted"),
        ("The {nurse|} came", "line 1 has an empty alternative; accepted: a text on each side"),
        ("The {|} came", "line 1 has an empty alternative"),
        ("The {a| |b} came", "line 1 has an empty alternative"),
        ("The {x: } came", "line 1 has '{x:}', which has no alternatives"),
        ("The {x: |b} came", "line 1 has an empty alternative"),
        ("The {a|{b|c}} came", "line 1 has braces inside braces; accepted"),
        ("The {{a|b}} came", "line 1 has braces inside braces; accepted"),
        ("The {a|a} came", "line 1 has the alternative 'a' twice; accepted: each once"),
        ("The {} came", "line 1 has '{}', which has no alternatives; accepted: at least two"),
        ("The {nurse} came", "line 1 has '{nurse}', which has no alternatives"),
        ("a = b|c\nThe {nurse} came", "line 2 .*or the name of a list: a"),
        ("{x: a|b} {x: c|d|e}", "line 1 has 2 and 3 alternatives in slots named x; accepted"),
        ("a = b|c\na = d|e\n{a}", "line 2 has the list a a second time; accepted"),
        ("a = b|b\n{a}", "line 1 has the list a with .*accepted: 2 to 256 different texts"),
        ("a = b|\n{a}", "line 1 has the list a with .*accepted: 2 to 256 different texts"),
        ("a = b|c", "has no templates; accepted"),
        ("# only a comment", "has no templates; accepted"),
        ("", "is empty; accepted"),
        (" \n\n ", "is empty; accepted"),
        ("x {a|b}\n\0", "line 2 has a zero byte; accepted"),
        ("{a|b} " + "x" * 4000, "line 1 has 4,006 characters; accepted: at most 4,000"),
        ("".join(f"{{a{i}|b{i}}}" for i in range(14)), "line 1 brings .* more than 10,000"),
        ("{a|b}\n" * 5001, "line 5001 brings the sentences to more than 10,000; accepted"),
        ("{" + "|".join(map(str, range(300))) + "}", "line 1 has 300 alternatives in a slot"),
        ("x" * 2**20 + "{a|b}", "is larger than 1,048,576 bytes; accepted"),
    ],
)  # fmt: skip
def test_malformed_templates(tmp_path, text, match):
    with pytest.raises(BadInput, match=match):
        _read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- a {b|c}", "holds no mapping; accepted: a yaml file with a list `templates`"),
        ("lists: {a: [b, c]}", "has no `templates`; accepted"),
        ("templates: ['{a|b}']\nother: 1", "has other; accepted"),
        ("templates: 1", "line 1 is no list; accepted"),
        ("templates:\n- {a: b}", "line 2 has no text; accepted: a text in quotes"),
        ("templates:\n- '{a|b}'\n- c", "line 3 has no alternatives; accepted"),
        ("templates: []", "has no templates; accepted"),
        ("lists: [a]\ntemplates: ['{a|b}']", "line 1 is no list; accepted"),
        ("lists:\n  a: b\ntemplates: ['{a}']", "line 2 is no list; accepted"),
        ("lists:\n  a b: [c, d]\ntemplates: ['{a}']", "line 2 has the list 'a b'; accepted"),
        ("lists:\n  a: [c]\ntemplates: ['{a}']", "line 2 has the list a with .*accepted: 2"),
        ("lists:\n  a: ['{b}', c]\ntemplates: ['{a}']", "line 2 has the list a with"),
        ("templates: &a [*a]", "line 1 has an alias"),
        ("templates: ['{a|b}'", "is no yaml"),
        ("templates: [" + "[" * 30 + "]" * 31, "is nested too deep"),
        ('templates: ["{a|\\ud83d}"]', "(half of a character|is no yaml)"),
        ("templates: ['{a|b}']\ntemplates: ['{a|b}']", "line 2 has the key templates a second"),
    ],
)
def test_malformed_yaml(tmp_path, text, match):
    with pytest.raises(BadInput, match=match):
        _read(tmp_path, text, "t.yaml")


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"{a|b}\n\xff\xfe{c|d}")
    with pytest.raises(BadInput, match=r"line 2 is not text in UTF-8 .*accepted"):
        read_templates(str(tmp_path / "t.txt"))
    with pytest.raises(BadInput, match=r"--templates .* is a folder; accepted: a file"):
        read_templates(str(tmp_path))
    with pytest.raises(BadInput, match=r"--templates .* does not exist; accepted"):
        read_templates(str(tmp_path / "none.txt"))


def test_an_emoji_in_json(tmp_path):
    """json.dumps writes it as two escapes, which are no yaml."""
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"templates": ["\U0001f600 said {she|he}"]}))
    [twins] = expand(read_templates(str(path)))
    assert twins.sentences == ("\U0001f600 said she", "\U0001f600 said he")
    path.write_text('{"templates": ["a {b|c} \\ud83d"]}')
    with pytest.raises(BadInput, match=r"t.json.*; accepted"):
        read_templates(str(path))
