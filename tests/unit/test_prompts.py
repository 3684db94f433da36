"""From a source of rows to checked, tokenised prompts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tandem_core.errors import TandemError
from tandem_core.job import RLJobSpec, parse_job
from tandem_core.model_files import prepare_model
from tandem_rollout.prompts import PromptError, PromptSet, load_prompts
from tandem_rollout.sources import SourceError
from tandem_rollout.templates import PromptTemplateError
from tandem_rollout.tokenization import TokenizerError, load_tokenizer

DIGITS = list("0123456789")
ADDITION = {
    "task": "basic_arithmetic",
    "size": 400,
    "config": {
        **{"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2, "operators": ["+"]},
        **{"allow_parentheses": False, "allow_negation": False},
    },
}
WORDS = ["Calculate ", " + ", ".", "What is ", "?", " ", "a", "b", "c"]


def job(data: dict[str, Any], **more: Any) -> RLJobSpec:
    spec: dict[str, Any] = {
        "iterations": 1,
        "model": {"scratch": {"maxLength": 64, "tokenizer": {"tokens": [*WORDS, *DIGITS]}}},
        "data": data,
        "rollout": {"maxTokens": 8},
        "rewards": {"scorers": [{"type": "exact"}]},
        "hybrid": {"device": "cpu", "inference": {"release": "none", "kvCacheBytes": 67108864}},
    }
    header = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": {"name": "prompts"}}
    return parse_job(yaml.safe_dump({**header, "spec": {**spec, **more}})).spec


def load(spec: RLJobSpec, tmp_path: Path) -> PromptSet:
    return load_prompts(spec, load_tokenizer(prepare_model(spec.model, tmp_path / "model")))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return {"dataset": {"path": str(path)}}


def test_a_reasoning_gym_task_is_loaded_rendered_and_tokenised(tmp_path: Path) -> None:
    spec = job({"reasoningGym": ADDITION, "promptTemplate": "What is {{ metadata.expression }}?"})
    prompts = load(spec, tmp_path)
    tokenizer = load_tokenizer(tmp_path / "model")
    first = prompts.by_id[0]
    assert first.text == f"What is {first.row['metadata']['expression']}?"
    assert first.answer == first.target == first.row["answer"]
    assert tokenizer.decode(first.tokens) == first.text
    digits = sum(character.isdigit() for character in first.text)
    assert len(first.tokens) == digits + 3  # "What is ", digits, " + ", digits, "?"


def test_held_out_prompts_are_disjoint_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    spec = job({"reasoningGym": {**ADDITION, "size": 3000}, "heldOut": 0.2})
    prompts = load(spec, tmp_path)
    training, held_out = {each.text for each in prompts.training}, {each.text for each in prompts.held_out}
    assert not training & held_out
    assert len(prompts.training) == len(training)  # sums that were drawn twice are there once
    assert len(held_out) == round(0.2 * len(training | held_out))
    again = load(spec, tmp_path)
    assert again == prompts
    other = load(spec.model_copy(update={"seed": 1}), tmp_path)
    assert {each.text for each in other.held_out} != held_out


def test_rows_with_the_same_prompt_are_never_in_both_parts(tmp_path: Path) -> None:
    rows = [{"prompt": "ab"[number % 2] * (number % 5 + 1), "answer": str(number)} for number in range(40)]
    prompts = load(job(write_rows(tmp_path / "rows.jsonl", rows) | {"heldOut": 0.5}), tmp_path)
    assert not {each.text for each in prompts.training} & {each.text for each in prompts.held_out}
    assert len(prompts.training) + len(prompts.held_out) == 40


def test_json_lines_json_and_parquet_give_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": "a" * number, "answer": number} for number in range(1, 9)]
    lines = job(write_rows(tmp_path / "rows.jsonl", rows))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    from datasets import Dataset

    Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    loaded = [
        load(job({"dataset": {"path": str(tmp_path / name)}}), tmp_path) for name in ("rows.json", "rows.parquet")
    ]
    assert loaded == [load(lines, tmp_path)] * 2
    assert loaded[0].by_id[3].answer == "4"  # numbers become text


def test_templates_see_every_column(tmp_path: Path) -> None:
    data = write_rows(
        tmp_path / "rows.jsonl",
        [{"prompt": "a", "answer": "b", "hint": "c"}, {"prompt": "b", "answer": "b", "hint": "c"}],
    )
    data |= {"promptTemplate": "{{ prompt }} {{ hint }}", "answerTemplate": "{{ answer }}{{ hint }}"}
    prompt = load(job(data), tmp_path).by_id[0]
    assert (prompt.text, prompt.target, prompt.answer) == ("a c", "bc", "b")


def test_an_existing_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = load(job(write_rows(path, [{"prompt": "a", "answer": "b"}, {"prompt": "b", "answer": "b"}])), tmp_path)
    second = load(job(write_rows(path, [{"prompt": "a", "answer": "c"}, {"prompt": "b", "answer": "c"}])), tmp_path)
    assert (first.by_id[0].answer, second.by_id[0].answer) == ("b", "c")


def test_difficulty_comes_from_the_column_or_from_the_task(tmp_path: Path) -> None:
    rows = [{"prompt": "a" * number, "answer": "b", "level": number} for number in range(1, 5)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    data["dataset"]["difficultyField"] = "level"
    assert load(job(data | {"sampling": "curriculum"}), tmp_path).by_id[2].difficulty == 3.0
    task = {**ADDITION, "config": {**ADDITION["config"], "max_terms": 4}}  # type: ignore[dict-item]
    graded = load(job({"reasoningGym": task, "sampling": "curriculum"}), tmp_path)
    by_terms = {each.row["metadata"]["num_terms"]: each.difficulty for each in graded.by_id.values()}
    assert by_terms == {2: 0.0, 3: 0.5, 4: 1.0}


ROWS = [{"prompt": "a", "answer": "b"}, {"prompt": "b c", "answer": "c"}]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ({"promptTemplate": "{{ promt }}"}, PromptTemplateError, ["data.promptTemplate", "row 0", "promt", "prompt"]),
        ({"answerTemplate": "{{ answer"}, PromptTemplateError, ["data.answerTemplate", "not a Jinja template"]),
        ({"promptTemplate": "{{ ''.__class__.__mro__ }}"}, PromptTemplateError, ["unsafe"]),
        ({"chat": True}, TokenizerError, ["no chat template", "data.chat"]),
        ({"promptTemplate": "{{ prompt }} means"}, PromptError, ["row 0", "'a means'", "means", "tokenizer.tokens"]),
        ({"answerTemplate": "x{{ answer }}"}, PromptError, ["row 0", "answer 'xb'", "no token for 'x'"]),
        ({"promptTemplate": "{{ prompt }}<end>"}, PromptError, ["row 0", "<end>"]),
    ],
)
def test_what_cannot_be_used_is_named_with_its_remedy(
    data: dict[str, Any], error: type[TandemError], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        load(job(write_rows(tmp_path / "rows.jsonl", ROWS) | data), tmp_path)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        ("", {}, ["rows.jsonl", "is an empty file"]),
        ('{"prompt": "a"', {}, ["cannot read", "well-formed"]),
        ('{"question": "a", "answer": "b"}', {}, ["no column 'prompt'", "promptField", "question, answer"]),
        ('{"prompt": "a", "answer": "b"}', {"difficultyField": "x"}, ["no column 'x'", "difficultyField"]),
        ('{"prompt": "a", "answer": null}', {}, ["row 0", "'answer'"]),
        ('{"prompt": "a", "answer": "b", "n": "hard"}', {"difficultyField": "n"}, ["row 0", "number", "'hard'"]),
    ],
)
def test_a_dataset_that_does_not_fit_is_named(
    content: str, changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(SourceError) as raised:
        load(job({"dataset": {"path": str(path), **changes}}), tmp_path)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "basic_arithmetics"}, ["'basic_arithmetics'", "did you mean basic_arithmetic"]),
        ({"config": {"min_digit": 2}}, ["no option min_digit", "min_digits"]),
        ({"config": {"size": 5}}, ["size", "data.reasoningGym.size"]),
        ({"config": {"min_terms": 5, "max_terms": 2}}, ["basic_arithmetic", "refused"]),
    ],
)
def test_a_task_that_does_not_fit_is_named(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SourceError) as raised:
        load(job({"reasoningGym": {**ADDITION, **changes}}), tmp_path)
    for word in words:
        assert word in str(raised.value)


def test_a_missing_file_and_too_few_prompts_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"/nowhere/rows\.jsonl' is not a file"):
        load(job({"dataset": {"path": "/nowhere/rows.jsonl"}}), tmp_path)
    with pytest.raises(PromptError, match="1 different prompt"):
        load(job(write_rows(tmp_path / "rows.jsonl", [ROWS[0], ROWS[0]])), tmp_path)
    with pytest.raises(PromptError, match="row 1 gives a prompt that is empty"):
        load(job(write_rows(tmp_path / "rows.jsonl", [ROWS[0], {"prompt": "", "answer": "a"}])), tmp_path)


def test_too_long_prompts_are_an_error_or_left_out(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "a" * 57, "answer": "b"}]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PromptError) as raised:
        load(job(data), tmp_path)
    for word in ("1 of 3 prompts", "row 2", "57 tokens", "at most 64", "room for 56", "tooLong"):
        assert word in str(raised.value)
    assert sorted(load(job(data | {"tooLong": "skip"}), tmp_path).by_id) == [0, 1]
    assert len(load(job(data, rollout={"maxTokens": 7}), tmp_path).by_id) == 3


def test_a_warm_up_answer_must_fit_into_a_rollout(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "c", "answer": "a" * 8}]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    assert len(load(job(data), tmp_path).by_id) == 3
    with pytest.raises(PromptError, match=r"row 2: the reference answer 'aaaaaaaa' has 8 tokens .*maxTokens is 8"):
        load(job(data, warmup={"steps": 1}), tmp_path)
    with pytest.raises(PromptError, match=r"row 0 has no reference answer"):
        load(job(data | {"answerTemplate": ""}, warmup={"steps": 1}), tmp_path)


def test_transformers_reads_the_same_tokens_and_its_chat_template_is_used(tmp_path: Path) -> None:
    """The fast path must not differ from what transformers would give; with a chat template transformers is used."""
    spec = job(write_rows(tmp_path / "rows.jsonl", ROWS))
    plain = load(spec, tmp_path)
    (tmp_path / "model" / "chat_template.jinja").write_text("{% for m in messages %}a {{ m.content }} b{% endfor %}")
    tokenizer = load_tokenizer(tmp_path / "model")
    assert tokenizer.encode(["b c", "a"]) == [list(plain.by_id[1].tokens), list(plain.by_id[0].tokens)]
    assert tokenizer.eos_token_id == load_tokenizer(prepare_model(spec.model, tmp_path / "other")).eos_token_id
    assert tokenizer.decode([*plain.by_id[1].tokens, tokenizer.eos_token_id]) == "b c"
    chat = load_prompts(job(write_rows(tmp_path / "rows.jsonl", ROWS) | {"chat": True}), tokenizer)
    assert chat.by_id[1].text == "a b c b"


def test_missing_tokenizer_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)
