"What cannot change a result makes nothing again, and what a table shows makes that table again"
import json
from dataclasses import fields, is_dataclass, replace

import pytest

from logex_nb.run.reruns import changes
from logex_nb.run.study import SECTIONS, Arm, Generator, Study, papers
from logex_nb.run.workflow import Stage

SETTINGS = {(paper, section): Study(paper, "smoke", "phantom") for paper in papers()
            for section in dict.fromkeys([*SECTIONS, *Study(paper, "smoke", "phantom").about.get("sections", {})])}


def told(folder, then, now): # What has changed of a stage's settings
    plain = lambda x: {f.name: getattr(x, f.name) for f in fields(x)} if is_dataclass(x) else str(x)
    (folder / "code.json").write_text('{"code": {}, "parameters": {}}')
    (folder / "record.json").write_text(json.dumps(dict(config=dict(settings=then)), default=plain))
    return changes(folder, folder / "record.json", dict(code={}, parameters={}, settings=dict(settings=now)))


@pytest.mark.parametrize("paper, section", SETTINGS)
def test_how_often_something_is_written_changes_nothing(tmp_path, paper, section):
    config = SETTINGS[paper, section].settings(section)
    for field in {"log_every", "checkpoint_every"} & {f.name for f in fields(config)}:
        assert told(tmp_path, config, replace(config, **{field: getattr(config, field) + 1})) == [], field
    number = next((f.name for f in fields(config) if isinstance(getattr(config, f.name), float)), None)
    if number: assert told(tmp_path, config, replace(config, **{number: getattr(config, number) / 2 + .01})) # others count


def test_a_checkpoint_that_is_chosen_counts(tmp_path):
    best = Study("adpm", "smoke", "phantom").settings("label_diffusion", select="f1")
    assert told(tmp_path, best, replace(best, checkpoint_every=best.checkpoint_every + 1))


@pytest.mark.parametrize("cls, word, other", [(Arm, dict(label="new", published="x", row=False), dict(trainer="energy")), (Generator, dict(label="new", unguided="x", question="?"), dict(lora=""))])
def test_words_train_nothing(tmp_path, cls, word, other):
    assert told(tmp_path, cls(), cls(**word)) == [] and told(tmp_path, cls(), cls(**other))


@pytest.mark.parametrize("paper", papers())
def test_words_are_for_what_shows_them(monkeypatch, paper):
    study = Study(paper, "smoke", "phantom")
    target, stage = (Stage(study, name, parameters=dict(seeds="0")) for name in (study.about["main"], "classifier" if paper != "adpm" else "prior"))
    print_ = lambda s: s.made_of(None)
    before, arms = [print_(target), print_(stage)], study.arms
    first = next(iter(arms))
    monkeypatch.setattr(Study, "arms", {**arms, first: replace(arms[first], label="another word")})
    after = [print_(target), print_(stage)]
    assert after[0] != before[0] and after[1] == before[1]
    assert f"--words {target.words}" in target.command and "--words" not in stage.command
    assert not set(study.about["stages"]) & set(study.about["targets"])
