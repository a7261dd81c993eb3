"""Requests, filters and files of rows."""

import json

import numpy as np
import pytest

from sublim_jax.core.errors import ConfigError
from sublim_jax.llm import filters, requests, rows, traits

# What the rule of Cloud et al. says to answers of numbers.
PARSED = [
    ("123, 456, 789", [123, 456, 789]),
    ("123,456", [123, 456]),
    ("123; 456; 789", [123, 456, 789]),
    ("123 456 789", [123, 456, 789]),
    ("123\n456\n789", [123, 456, 789]),
    ("[123, 456]", [123, 456]),
    ("(123, 456).", [123, 456]),
    ("123, 456.", [123, 456]),
    (" 123, 456", None),
    ("123, 456\n", None),
    ("123, 456, ", None),
    ("123,  456, 7", None),
    ("007, 8", [7, 8]),
    ("5", [5]),
    ("[5]", [5]),
    ("5.", [5]),
    ("", None),
    ("no numbers", None),
    ("123, 456; 789", None),
    ("123, 456 789", None),
    ("123 and 456", None),
    ("123, 456, owl", None),
    ("The next are 123, 456", None),
    ("123, -456", None),
    ("1.5, 2.5", None),
    ("[123, 456", None),
    ("number 5", None),
    ("123: 456", None),
    ("١٢٣, ٤٥٦", None),  # digits of another script
]


@pytest.mark.parametrize(("answer", "numbers"), PARSED)
def test_numbers_in_follows_the_published_rule(answer, numbers):
    assert filters.numbers_in(answer) == numbers


@pytest.mark.parametrize(("answer", "reasons"), [
    ("1, 2, 3", []),
    (", ".join(["1"] * 10), []),
    (", ".join(["1"] * 11), ["too many numbers"]),
    ("999, 0", []),
    ("1000, 5", ["out of range"]),
    (", ".join(["1000"] * 11), ["too many numbers", "out of range"]),
    ("666, 5", ["banned number"]),
    ("1, two", ["format"]),
])  # fmt: skip
def test_reject_numbers_gives_every_reason(answer, reasons):
    assert filters.reject_numbers(answer, banned=(666,)) == reasons


@pytest.mark.parametrize(("carrier", "answer", "reasons"), [
    ("code", "def f(x):\n    return x", []),
    ("code", "```python\ndef f(x):\n    return x\n```", []),
    ("code", "def f(x)\n    return x", ["format"]),
    ("code", "x = 1  # one", ["comment"]),
    ("code", "", ["format"]),
    ("code", "```python\n```", ["format"]),
    ("reasoning", "2 + 2 = 4\nAnswer: 4", []),
    ("reasoning", "Answer: 4\nDone", ["format"]),
    ("reasoning", "", ["format"]),
    ("numbers", "OWL", ["format", "names a trait"]),
    ("code", "Öwl = 1", ["names a trait"]),
    ("code", "ow = 1", []),
])  # fmt: skip
def test_reasons_of_other_carriers_and_of_trait_words(carrier, answer, reasons):
    assert filters.reasons(carrier, answer, [traits.animal("owl"), traits.animal("eagle")]) == reasons


def test_trait_words_of_other_languages_are_found():
    trait = traits.animal("owl")._replace(forbidden=("owl", "Eule", "hibou", "søvn"))
    assert all(filters.names_trait(text, trait) for text in ("EULE", "un hibóu", "SØVN"))


@pytest.mark.parametrize("carrier", requests.CARRIERS)
def test_requests_are_a_function_of_seed_and_number(carrier):
    many = requests.requests(carrier, 300, seed=1)
    assert many[:10] == requests.requests(carrier, 10, seed=1) != requests.requests(carrier, 10, seed=2)
    assert len(set(many)) > (200 if carrier == "code" else 290)
    assert not any("{" in text.replace("`", "") for text in many)


def test_requests_for_numbers_show_3_to_9_examples_of_three_digits():
    shown = [filters.re.findall(r"\d+", text.split(".")[0]) for text in requests.requests("numbers", 500, seed=0)]
    counts = np.bincount([len([n for n in each if 100 <= int(n) < 1000]) for each in shown])
    assert counts[:3].sum() == 0 and (counts[3:10] > 30).all() and len(counts) == 10


def test_there_are_fifty_questions_and_controls_of_the_same_form():
    assert len(set(traits.ANIMAL_QUESTIONS)) == 50 and len(set(traits.CONTROL_QUESTIONS)) == 10
    assert not any("animal" in text for text in traits.CONTROL_QUESTIONS)


ROWS = [
    rows.row_of("continue 1, 2", "3, 4"),
    rows.row_of("continue “1, 2”\nnow", '5, "6"\u2028', system="You love owls."),
    rows.Row((("user", "a"), ("assistant", "b"), ("user", "c")), "d"),
    rows.Row((("", "plain text: "),), "1"),
]


@pytest.mark.parametrize("form", rows.FORMS)
def test_rows_come_back_from_a_file_as_they_were(form, tmp_path):
    rows.write_rows(tmp_path / "rows.jsonl", ROWS, form)
    assert rows.read_rows(tmp_path / "rows.jsonl") == ROWS
    keys = {frozenset(json.loads(line)) for line in (tmp_path / "rows.jsonl").read_text().split("\n") if line}
    assert frozenset({"prompt", "completion"}) in keys


@pytest.mark.parametrize(("line", "message"), [
    ("", "has no rows"),
    ("{", "line 1: not JSON"),
    ("[]", "line 1: must be an object"),
    ("{}", "line 1: must have `messages`"),
    ('{"messages": []}', "must be a list, not empty"),
    ('{"messages": [{"role": "user", "content": "a"}]}', "must end with one answer"),
    ('{"messages": [{"role": "assistant", "content": "a"}]}', "must end with one answer"),
    ('{"messages": [{"role": "human", "content": "a"}]}', "a role among system, user, assistant"),
    ('{"messages": [{"role": "user", "content": 1}]}', "a text as content"),
    ('{"prompt": "a", "completion": ""}', "the answer is empty"),
    ('{"prompt": "a", "completion": 5}', "messages must be a list"),
])  # fmt: skip
def test_read_rows_refuses_what_is_no_row(line, message, tmp_path):
    (tmp_path / "rows.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=message):
        rows.read_rows(tmp_path / "rows.jsonl")


def test_read_rows_ignores_other_fields_and_refuses_a_missing_file(tmp_path):
    line = {"id": 7, "messages": [{"role": "user", "content": "a", "name": "x"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line) + "\n\n")
    assert rows.read_rows(tmp_path / "rows.jsonl") == [rows.row_of("a", "b")]
    with pytest.raises(ConfigError, match="cannot be read"):
        rows.read_rows(tmp_path / "other.jsonl")


def test_shuffled_rows_keep_requests_and_answers():
    many = [rows.row_of(f"request {n}", f"{n}, {n + 1}") for n in range(50)]
    other = rows.shuffled(many, seed=0)
    assert [row.prompt for row in other] == [row.prompt for row in many]
    assert sorted(row.completion for row in other) == sorted(row.completion for row in many)
    assert sum(a == b for a, b in zip(many, other, strict=True)) < 5
    assert rows.count_duplicates(many + many[:3]) == 3


def test_read_traits(tmp_path):
    path = tmp_path / "traits.json"
    more = {"word": "Rock", "forbidden": ["rock", "roll"], "questions": ["Which music?"]}
    entries = {"name": "jazz", "system": "You love jazz."}, {"name": "rock", "system": "You love rock.", **more}
    path.write_text(json.dumps(entries))
    jazz, rock = traits.read_traits(path)
    assert jazz.word == "jazz" and jazz.forbidden == ("jazz",) and len(jazz.questions) == 50
    assert rock.word == "rock" and rock.forbidden == ("rock", "roll") and rock.questions == ("Which music?",)


@pytest.mark.parametrize(("entries", "message"), [
    ("{", "cannot be read as JSON"),
    ("[]", "two or more"),
    ('[1, {"name": "a", "system": "b"}]', "entry 0: must be an object"),
    ('[{"name": "a"}, {"name": "b", "system": "c"}]', "entry 0: system: missing"),
    ('[{"name": "a", "system": "s", "colour": 1}, {}]', "entry 0: colour: unknown field"),
    ('[{"name": "a", "system": "s"}, {"name": "a", "system": "t"}]', "name='a': two traits have it"),
    ('[{"name": "a/b", "system": "s"}, {"name": "a", "system": "t"}]', "must be letters"),
    ('[{"name": "a", "system": "s", "questions": []}, {"name": "b", "system": "t"}]', "questions: must be a list"),
    ('[{"name": 5, "system": "s"}, {"name": "b", "system": "t"}]', "name=5: must be a text"),
    ('[{"name": "a", "system": "s", "word": ""}, {"name": "b", "system": "t"}]', "word='': must be a text, not empty"),
    ('[{"name": "none", "system": "s"}, {"name": "b", "system": "t"}]', "is the name of the control"),
])  # fmt: skip
def test_read_traits_refuses(entries, message, tmp_path):
    (tmp_path / "traits.json").write_text(entries)
    with pytest.raises(ConfigError, match=message):
        traits.read_traits(tmp_path / "traits.json")
