"""balora audit on the tiny world: known answers come back, and the page opens without a network."""

import json
import re
import shutil
import subprocess

import pytest

from balora_jax.cli import main
from balora_jax.evaluation.tiny_world import embedded
from balora_jax.evaluation.tiny_world.world import read_world


def _quickstart(folder, *more):
    main(["train", *embedded.quickstart(), "--output.dir", str(folder), *more])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two short runs on the tiny world, of which the second learns faster."""
    folder = tmp_path_factory.mktemp("audited")
    short = ["--training.steps", "16", "--data.eval_limit", "20", "--mesh.data", "1"]
    _quickstart(folder / "slow", *short, "--method", "lora", "--optimizer.learning_rate", "1e-3")
    _quickstart(folder / "fast", *short, "--method", "ba-lora")
    return folder


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """The favored pronoun of each occupation, from the world, as a user would write it."""
    world = read_world(embedded.ASSETS)
    lines = [
        f"The {occupation} said {{{favored}|{'he' if favored == 'she' else 'she'}}}\n"
        for occupation, favored in world.occupations.items()
    ]
    path = tmp_path_factory.mktemp("templates") / "pronouns.txt"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def audited(runs, templates):
    out = runs / "audit"
    arguments = ["--run", str(runs / "slow"), "--run", str(runs / "fast"), "--limit", "20"]
    main(["audit", *arguments, "--templates", str(templates), "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def findings(audited):
    return json.loads((audited / "audit.json").read_text())["runs"]


def test_the_faster_run_has_drifted_further(findings):
    slow, fast = findings
    assert (slow["name"], fast["name"]) == ("slow", "fast")
    assert 0 < slow["drift"]["forward"]["value"] < fast["drift"]["forward"]["value"]
    assert slow["drift"]["agreement"]["value"] > fast["drift"]["agreement"]["value"]
    assert slow["drift"]["loss_before"] == fast["drift"]["loss_before"]
    assert len(fast["drift"]["most_changed"]) == 10


def test_known_wrong_answers_are_those_of_the_world(findings):
    """The general measure finds what the world's own probe finds."""
    for run in findings:
        probe = run["after"]["world"]["wrong_labels_memorized"]["value"]
        # Of 20 answers; the probe reads all.
        error = 3 * (max(probe, 0.02) / 20) ** 0.5
        assert run["noise"]["memorized"]["value"] == pytest.approx(probe, abs=error)
        assert run["noise"]["wrong"] > 0 and len(run["suspects"]) == 10


def test_the_base_is_the_same_beside_every_run(findings):
    slow, fast = findings
    assert slow["before"] == fast["before"]
    assert 1 < fast["after"]["ranks"]["hidden"] < fast["after"]["ranks"]["tokens"]


def test_the_change_is_measured_beside_the_base(findings):
    slow, fast = findings
    assert 0 < slow["geometry"]["relative"] < fast["geometry"]["relative"] < 1
    for run in findings:
        assert len(run["geometry"]["layers"]) == 4
        assert all(layer["tested"] > 0 for layer in run["geometry"]["layers"])
    # PiSSA's start is in the leading directions of the base, and LoRA's is random.
    assert fast["geometry"]["input_share"] > 2 * slow["geometry"]["input_share"]


def test_the_model_card_has_the_findings_of_its_own_run(runs, findings, tmp_path):
    for run in findings:
        card = (runs / run["name"] / "adapter" / "README.md").read_text()
        assert card.count("## What fine-tuning changed") == 1
        assert f"| 0 | {run['drift']['forward']['value']:.3f} (" in card
    main(["export", "--run", str(runs / "slow"), "--out", str(tmp_path / "whole")])
    assert "What fine-tuning changed" in (tmp_path / "whole" / "README.md").read_text()
    part = ["--out", str(tmp_path / "part"), "--scale", "0.5"]
    main(["export", "--run", str(runs / "slow"), *part])
    assert "What fine-tuning changed" not in (tmp_path / "part" / "README.md").read_text()


def test_the_curve_goes_from_the_base_to_the_run(findings):
    for run in findings:
        points = {point["scale"]: point["measures"] for point in run["curve"]["points"]}
        assert points[0.0]["drift (KL)"] == 0.0
        assert points[1.0]["drift (KL)"] == pytest.approx(run["drift"]["forward"]["value"])
        assert points[1.0]["held-out loss"] < points[0.0]["held-out loss"]
        assert run["best"]["scale"] in points


def test_planted_shares_come_back_beside_the_base(findings):
    for run in findings:
        for name in ("facts_known", "pronoun_favored"):
            measure = run["before"]["world"][name]
            half = 1.96 * (measure["planted"] * (1 - measure["planted"]) / measure["draws"]) ** 0.5
            assert abs(measure["value"] - measure["planted"]) <= half + 0.02, name


def test_the_planted_pronoun_is_measured_by_templates_alone(findings):
    """The general tool, which knows nothing of the world, finds the planted skew in the base."""
    base = findings[0]["before"]["gaps"]
    shares = [value["value"] for name, value in base.items() if name.endswith(".first")]
    assert len(shares) == 2
    assert all(0.8 < share < 0.97 for share in shares)


def test_the_page_names_everything_and_asks_no_network(audited):
    page = (audited / "audit.html").read_text()
    for text in (
        "Knowledge drift",
        "intruder dimensions",
        "The rewind curve",
        "Templates",
        "Known answers",
        "suggested",
    ):
        assert text in page
    addresses = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(address.startswith("#") for address in addresses)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_opens_in_a_browser(audited, tmp_path, width):
    """Nothing is refused by the page's own policy, and nothing overflows the window."""
    script = "document.title = document.documentElement.scrollWidth"
    page = tmp_path / "page.html"
    text = (
        (audited / "audit.html")
        .read_text()
        .replace("style-src", "script-src 'unsafe-inline'; style-src")
    )
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
               "--enable-logging=stderr", f"--window-size={width},900", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(\d+)</title>", done.stdout)
    assert title and int(title[1]) <= width, done.stderr[-500:]
    assert "Refused" not in done.stderr and "CONSOLE" not in done.stderr


BAD = {
    "no run": ([], "--run names no run; accepted"),
    "twice": (["--run", "{slow}", "--run", "{slow}/"], "twice; accepted: different runs"),
    "half a character": (["--run", "{slow}", "--text", "{half}"], "text has .*half of a character"),
    "no folder": (["--run", "{runs}/none"], "does not exist"),
    "no run's folder": (["--run", "{runs}"], "is no run's folder"),
    "no text": (["--run", "{slow}", "--text", "{runs}/none.txt"], "--text .* does not exist"),
    "empty text": (["--run", "{slow}", "--text", "{empty}"], "has no passage; accepted"),
    "a limit": (["--run", "{slow}", "--limit", "0"], "--limit is 0; accepted"),
    "a checkpoint": (["--run", "{slow}", "--checkpoint", "7"], "has no checkpoint '7'"),
    "templates": (["--run", "{slow}", "--templates", "{empty}"], "empty.txt .*accepted"),
    "a later row": (["--run", "{slow}", "--text", "{rows}"], "line 2.*: text is no text; accepted"),
    "zero bytes": (["--run", "{slow}", "--text", "{zero}"], "zero.txt has bytes of zero"),
    "a page of others": (
        ["--run", "{slow}", "--out", "{foreign}"],
        "audit.html was not written by balora audit, and would be replaced; accepted: --out",
    ),
    "an option": (["--run", "{slow}", "--texts", "x"], "no option texts; accepted"),
}


@pytest.mark.parametrize(("arguments", "match"), BAD.values(), ids=BAD)
def test_an_audit_is_refused(runs, tmp_path, capsys, arguments, match):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    half = tmp_path / "half.jsonl"
    half.write_text('{"text": "a \\ud83d"}\n')
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n{"txt": "b"}\n')
    zero = tmp_path / "zero.txt"
    zero.write_bytes(b"a\0b\n")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "audit.html").write_text("<title>mine</title>")
    places = {
        "{slow}": runs / "slow", "{runs}": runs, "{empty}": empty, "{half}": half, "{rows}": rows,
        "{zero}": zero, "{foreign}": foreign,
    }  # fmt: skip
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    before = sorted(runs.rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(["audit", *arguments])
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert exit_info.value.code == 2 and re.search(match, sentence), sentence
    assert sorted(runs.rglob("*")) == before


def test_another_base_is_refused(runs, run_arguments, tmp_path, capsys):
    main(["train", *run_arguments(tmp_path / "other", "--mesh.data", "1")])
    capsys.readouterr()
    arguments = ["--run", str(runs / "slow"), "--run", str(tmp_path / "other")]
    with pytest.raises(SystemExit) as exit_info:
        main(["audit", *arguments, "--limit", "5", "--out", str(tmp_path / "out")])
    assert exit_info.value.code == 2
    assert "is of another base model than" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
